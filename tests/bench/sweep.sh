#!/bin/bash
# limit: 3600
# What `copse sweep run` costs beside the training: TRIALS x 3 seeds of a job of one step, one at a time. The runs' own time is
# what passed between their start and their end; the rest is the driver's. Aim: below 50 ms a run. Environment: COPSE_BUILD
# (make sets it), TRIALS (200).
build=${COPSE_BUILD:-build}
copse=$(cd "$build" && pwd)/copse
trials=${TRIALS:-200}
scratch=$(mktemp -d "${TMPDIR:-/tmp}/copse-bench.XXXXXX") || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
cd "$scratch" || exit 1
"$copse" synth set --classes 4 --train-per-class 4 --test-per-class 2 --seed 3 >log 2>&1 || {
    cat log
    exit 1
}
cat >bench.lua <<END
local copse = require "copse"
return copse.sweep {
  name = "bench", space = { lr = copse.log_uniform(1e-5, 1e-3), crop = copse.uniform(0.2, 1) }, seeds = { 1, 2, 3 },
  search = copse.random { trials = $trials },
  job = function(p)
    return copse.job { seed = p.seed, model = copse.model { preset = "ViT-Micro-8" },
      tokenizer = copse.tokenizer { merges = "set/tokenizer.txt" }, data = { paired = copse.shards { "set/train-*.h5" } },
      stages = { copse.stage { objective = copse.objective.clip {}, steps = 1, global_batch = 8, grain = 8, crop = { p.crop, 1 },
        optimizer = copse.adamw { lr = p.lr } } } }
  end,
}
END
start=$(date +%s%N)
"$copse" sweep plan bench.lua --check 0 >plan || exit 1
echo "plan: $((($(date +%s%N) - start) / 1000000)) ms for $(tail -n 1 plan)"
start=$(date +%s%N)
"$copse" sweep run bench.lua >log 2>&1 &
pid=$!
while kill -0 $pid 2>/dev/null; do
    own=$(awk '{ print $14 + $15 }' /proc/$pid/stat 2>/dev/null || echo "$own")
    sleep 0.2
done
wait $pid || {
    tail log
    exit 1
}
wall=$((($(date +%s%N) - start) / 1000000))
cat runs/bench/ledger/*/outcome.*.json | sed 's/.*"seconds":\([0-9.]*\).*/\1/' | awk -v wall=$wall -v own="$own" -v tick="$(getconf CLK_TCK)" '
    { sum += $1 * 1000 }
    END { printf "%d runs: %.1f s, of which the runs %.1f s (%.0f ms each); the driver %.1f ms a run (its own CPU: %.1f ms a run)\n",
              NR, wall / 1000, sum / 1000, sum / NR, (wall - sum) / NR, own * 1000 / tick / NR }'
