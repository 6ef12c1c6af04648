#!/bin/sh
# limit: 400
# A job of five stages whose objectives use every part of the ABI, through the program: moving averages, fit and finish on cached features,
# steps on cached features, fixed texts, a composition with an evaluation. The same bytes on 1, 2 and 3 ranks, stopped and
# taken up again on another number of ranks, and after a kill; a plugin that one rank cannot agree with is refused.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1
check "a data set" copse synth set --classes 4 --train-per-class 32 --test-per-class 6 --size 32 --seed 3
cat >job.lua <<END
local copse = require "copse"
local function load(file, name) return copse.objective.load("$COPSE_ROOT/tests/plugins/" .. file .. ".so", name) end
local sgd = copse.sgd { lr = 0.05 }
local function steps(name, objective, optimizer)
  return copse.stage { name = name, objective = objective, steps = 4, global_batch = 32, grain = 8, optimizer = optimizer or sgd }
end
return copse.job {
  name = "abi", seed = 1, watchdog_seconds = 20,
  model = copse.model {
    embed_dim = 24,
    image = copse.tower { kind = "vit", image_size = 32, patch = 16, width = 32, layers = 2, heads = 2 },
    text = copse.tower { kind = "text", width = 32, layers = 2, heads = 2 },
    towers = { ssl = copse.tower { kind = "vit", variant = "dino", image_size = 32, patch = 16, width = 32, layers = 1, heads = 2 } },
  },
  tokenizer = copse.tokenizer { merges = "set/tokenizer.txt", context = 16 },
  data = { paired = copse.shards { "set/train-*.h5" } },
  stages = {
    steps("student", load("grains", "ema") {}),
    copse.stage { name = "map", objective = load("ridge", "ridge") { lambda = 0.5 } },
    steps("descent", load("ridge", "descent") {}),
    steps("texts", load("batch", "fixed") {}),
    steps("both", { copse.objective.clip {}, load("grains", "ce") { weight = 0.5 } }, copse.adamw { lr = 1e-3 }),
  },
  evaluate = {
    copse.validation_loss { name = "val", data = "set/test-*.h5", batch = 8 },
    copse.validation_loss { name = "grains", data = "set/test-*.h5", batch = 12, grain = 3, stages = { "both" } },
    -- three records cannot show all four classes: the head keeps those of the training set
    copse.validation_loss { name = "few", data = copse.shards { "set/test-*.h5", count = 3 }, batch = 8, stages = { "both" } },
    copse.zero_shot { name = "zs", data = "set/test-*.h5", templates = { "a photo of {}" }, stages = { "both" } },
  },
  checkpoint = copse.checkpoint { steps = 2, keep = 30 },
}
END

# same NAME RUN: every checkpoint of RUN equals that of the first run.
same() {
    for file in runs/"$2"/checkpoints/step-*.h5; do
        first=runs/one/checkpoints/$(basename "$file")
        if [ -e "$first" ] && ! cmp "$first" "$file" >"$output" 2>&1; then
            fail "$1" "$(basename "$file") differs from the run on one rank"
            return
        fi
    done
    check "$1" test -e runs/"$2"/checkpoints/step-00000016.h5
}

expect "one rank" 0 'finish of .ridge., pass 1 over 128 samples: +mse 0' copse train job.lua --run one --threads 1
check "fit and finish are events" grep -q '"event":"finish","objective":"ridge".*"mse":0' runs/one/events.jsonl
check "the loss of fixed texts is validated by clip's" grep -q '"event":"evaluation","name":"val","step":12,.*"contrastive"' runs/one/events.jsonl
check "a validation set with fewer classes" grep -q '"name":"few","step":16,.*"ce.ce":[0-9]' runs/one/events.jsonl
check "a stage that only fits has no validation" test "$(grep -c '"name":"val"' runs/one/events.jsonl)" -eq 4
expect "two ranks take the features from the cache" 0 "tower 'ssl'.: 128 records, 0 computed" copse train job.lua --run two -n 2 --threads 1
same "the same bytes on two ranks" two
rm -rf runs/cache
expect "three ranks with two threads compute them" 0 "tower 'ssl'.: 128 records, 128 computed" copse train job.lua --run three -n 3 --threads 2
same "the same bytes on three ranks" three

rm -rf runs/cache
ranks=1
for until in 2 3 4 7 9 13 99; do
    check "as far as step $until on $ranks ranks" copse train job.lua --run parts -n $ranks --until $until --threads 1
    [ $until -eq 99 ] || check "and no further" test "$(ls runs/parts/checkpoints | tail -n 1)" = "$(printf 'step-%08d.h5' $until)"
    ranks=$((ranks % 3 + 1))
done
same "the same bytes in seven parts" parts

for step in 1 2 3; do # of a stage
    run env CPS_FAULT=kill,1,$step "$COPSE" train job.lua --run killed -n 2 --threads 1
    judge "killed in step $step" 70 'signal 9'
done
expect "taken up again" 0 'goes on from' copse train job.lua --run killed -n 3 --threads 1
same "the same bytes after kills" killed

sed 's/lambda = 0.5/lambda = 0.5, differ = 1/' job.lua >differ.lua
expect_one "a fit that differs between ranks is refused" 70 "objective 'ridge'.*different values of ridge.bias" copse train differ.lua --run differ -n 2 --threads 1
sed 's/steps("student", load("grains", "ema") {})/steps("student", { load("grains", "ema") {}, load("ridge", "descent") {} })/' job.lua >learns.lua
expect_one "frozen features of a tower that learns are refused" 64 "keeps the features of tower 'ssl'.*'ssl.*learns in this stage: exclude" copse train learns.lua --run learns --threads 1
finish
