#!/bin/bash
# limit: 600
# Successive halving: who is promoted, that a promoted trial goes on from its checkpoint to the same bits, metrics that are no
# numbers.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1
limit=500 # a sweep is many runs
check "a data set" copse synth set --classes 4 --train-per-class 24 --test-per-class 4 --seed 3

cat >halving.lua <<'END'
local copse = require "copse"
return copse.sweep {
  name = "halving",
  space = { lr = { 1e-3, 1e6, 3e-4, 0 } },
  search = copse.halving { metric = "val.loss", eta = 2, min_steps = 2, max_steps = 7 },
  seeds = { 1, 2 },
  job = function(p)
    return copse.job {
      seed = p.seed,
      model = copse.model { preset = "ViT-Micro-8" },
      tokenizer = copse.tokenizer { merges = "set/tokenizer.txt" },
      data = { paired = copse.shards { "set/train-*.h5" } },
      stages = { copse.stage { objective = copse.objective.clip {}, steps = 7, global_batch = 16, grain = 8,
        max_skipped_steps = 100, schedule = copse.cosine { warmup_steps = 2 },
        optimizer = copse.adamw { lr = p.lr, weight_decay = p.lr == 1e6 and 1e6 or 0 } } },
      evaluate = { copse.validation_loss { name = "val", data = "set/test-*.h5", batch = 16, every = 3 } },
      checkpoint = copse.checkpoint { best = "val.loss", keep = 10 },
    }
  end,
}
END
expect "a plan" 0 "rungs at 2, 4, 7 steps, one of 2 goes on" copse sweep plan halving.lua --check 0
expect "a sweep that halves" 0 "rung of 2 steps: no finite 'val.loss' from trial 2: ranked last.*rung of 2 steps is through by 'val.loss': trial [134], [134] goes on.*rung of 4 steps.*14 of 14 runs done" \
    copse sweep run halving.lua -j 2
check "all begin" test "$(find runs/halving/ledger -name '*@2' | wc -l)" -eq 8
check "half of them go on" test "$(find runs/halving/ledger -name '*@4' | wc -l)" -eq 4
check "one is left" test "$(find runs/halving/ledger -name '*@7' | wc -l)" -eq 2
expect "status says the rung" 0 'done @2.*done @7' copse sweep status halving.lua
expect "results, best first, the one without a number last" 0 'val.loss.*7 +2/2.* - +2 +0/2 +lr = 1000000' copse sweep results halving.lua

for last in runs/halving/ledger/*@7; do
    key=$(basename "${last%@7}")
    check "straight through: $key" copse train "runs/halving/jobs/$key.lua" --run "$key" --runs straight --threads 1
    check "the same bits" cmp "runs/halving/$key/checkpoints/step-00000007.h5" "straight/$key/checkpoints/step-00000007.h5"
    check "it never began anew" test "$(grep -c '"event":"step","step":1,' "runs/halving/$key/events.jsonl")" -eq 1
    check "it was evaluated at the rungs" test "$(grep -c '"event":"evaluation".*"step":[24],' "runs/halving/$key/events.jsonl")" -eq 2
done
expect "once more: nothing is left" 0 "14 of 14 runs done" copse sweep run halving.lua
# A checkpoint of the rung without its evaluation, as of a run that was trained that far by hand.
copse train "runs/halving/jobs/$key.lua" --run half --runs straight --threads 1 --until 4 >/dev/null 2>&1
check "no evaluation without being asked" test "$(grep -c '"evaluation".*"step":4,' straight/half/events.jsonl)" -eq 0
expect "an evaluation where it stands" 0 'step 4  val:.*asks for no more' \
    copse train "runs/halving/jobs/$key.lua" --run half --runs straight --threads 1 --until 4 --evaluate
check "and on" copse train "runs/halving/jobs/$key.lua" --run half --runs straight --threads 1
check "to the same bits" cmp "straight/half/checkpoints/step-00000007.h5" "straight/$key/checkpoints/step-00000007.h5"
finish
