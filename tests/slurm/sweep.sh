#!/bin/bash
# limit: 600
# Sweeps on a real Slurm: an array of six trials, two at a time; a task that is signalled before its time limit and requeued; a
# task whose node is lost; halving by two tasks.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/slurm/lab.inc"
cd "$scratch" || exit 1
unset COPSE_SITE
export XDG_CONFIG_HOME="$scratch/config"
check "a data set" copse synth set --classes 4 --train-per-class 24 --test-per-class 4 --seed 3
lab_start 3
echo 'return { launcher = "mpirun", bind = "none", threads = 1, time = "5" }' >copse-site.lua
cat >grid.lua <<'END'
local copse = require "copse"
local arg = copse.arg { name = "grid", steps = 2, halve = false }
return copse.sweep {
  name = arg.name,
  space = { lr = { 1e-4, 1e-3, 1e-2 }, flip = { 0, 0.5 } },
  search = arg.halve and copse.halving { metric = "val.loss", min_steps = 1, max_steps = 4, eta = 2 } or copse.grid {},
  job = function(p)
    return copse.job {
      seed = p.seed,
      model = copse.model { preset = "ViT-Micro-8" },
      tokenizer = copse.tokenizer { merges = "set/tokenizer.txt" },
      data = { paired = copse.shards { "set/train-*.h5" } },
      stages = { copse.stage { objective = copse.objective.clip {}, steps = arg.steps, global_batch = 16, grain = 8, flip = p.flip,
        optimizer = copse.adamw { lr = p.lr } } },
      evaluate = { copse.validation_loss { name = "val", data = "set/test-*.h5", batch = 16 } },
      checkpoint = copse.checkpoint { steps = 4, keep = 30 },
    }
  end,
}
END
queue_is_empty() { [ -z "$(squeue -h)" ]; }
states() { find "runs/$1/ledger" -name "$2*" 2>/dev/null | wc -l; } # states SWEEP STATE: how many entries
at_most=0
done_of() { # done_of SWEEP COUNT; notes how many ran at once
    now=$(squeue -h -t RUNNING | wc -l)
    [ "$now" -le $at_most ] || at_most=$now
    [ "$(states "$1" done.)" -eq "$2" ]
}

# ---- refused before anything waits
sed 's/global_batch/global_bach/' grid.lua >typo.lua
expect_one "a typo" 64 "trial 1 of 6 .flip = 0, lr = 0.0001., seed 1:.*'global_bach' .did you mean" copse sweep submit typo.lua
sed 's|set/train|nowhere/train|' grid.lua >nodata.lua
expect "data that is not there" 69 "trial 1, seed 1:.*nowhere/train" copse sweep submit nodata.lua
expect "a dry run" 0 '#SBATCH --array=0-5%2 .*--task "\$SLURM_ARRAY_TASK_ID"' copse sweep submit grid.lua -j 2 --dry-run
check "nothing was submitted or written" test ! -e runs -a -z "$(squeue -h)"

# ---- six trials, two at a time
expect "six trials, two at a time" 0 "job [0-9]+: sweep 'grid', 6 runs in 6 tasks, 2 at once" copse sweep submit grid.lua -j 2
check "all are done" until_true 150 done_of grid 6
echo "most at once: $at_most" >"$output"
check "two ran at once, never more" test $at_most -eq 2
until_true 30 queue_is_empty
cat runs/grid/logs/slurm-*.log >"$output"
check "each by a task of its own" test "$(grep -c 'val.loss' "$output")" -eq 6
expect "nothing is left to submit" 0 "all its runs are done" copse sweep submit grid.lua

# ---- a signal before the time limit; a lost node
expect "long ones" 0 "6 runs in 2 tasks" \
    copse sweep submit grid.lua --set name=long --set steps=24 --only 1-2 --lost 15 --sbatch=--exclusive
under_way() { [ "$(find runs/long -name 'step-00000004.h5' | wc -l)" -eq 2 ]; }
check "both are under way" until_true 100 under_way
first=$(squeue -h -n long -o '%F_%K %N' | sort | sed -n 1p)
second=$(squeue -h -n long -o '%F_%K %N' | sort | sed -n 2p)
scancel --batch --signal=USR1 "${first% *}"
"$lab/node-ctl.sh" "${second#* }" off >/dev/null 2>&1
requeued() { cat runs/long/logs/slurm-*_0.log 2>/dev/null | grep -q 'back into the queue'; }
check "the one that was signalled is requeued" until_true 30 requeued
check "both end, one of them on another node" until_true 150 done_of long 2
cat runs/long/logs/*.log >"$output"
for run in runs/long/00*; do
    key=$(basename "$run")
    check "undisturbed: $key" copse train "runs/long/jobs/$key.lua" --run "$key" --runs alone --threads 1
    check "the same bits" cmp "$run/checkpoints/step-00000024.h5" "alone/$key/checkpoints/step-00000024.h5"
done
check "the signal cost no try" test "$(states long done.1)" -eq 1

# ---- halving
expect "halving by two tasks" 0 "6 runs in 2 tasks" copse sweep submit grid.lua --set name=half --set steps=4 --set halve=true -j 2
check "three rungs: 6, 3 and 1" until_true 100 done_of half 10
until_true 30 queue_is_empty
expect "which results show" 0 'rung.* 4 +1/1.* 2 +1/1.* 1 +1/1' copse sweep results runs/half
lab_finish
