#!/bin/sh
# limit: 400
# agriclip.align through the program: clip first, then maps by steps and in closed form, evaluated beside texts of the model and of
# a second text tower. The same bytes on 1, 2, 3 and 4 ranks, after a stop between stages and after kills in the fit, in steps and
# while a checkpoint is written; features come from the cache.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/ranks/bits.inc"
cd "$scratch" || exit 1
check "a data set" copse synth set --classes 6 --train-per-class 60 --test-per-class 12 --size 32 --shard-images 100 --seed 4
cat >align.lua <<'END_OF_JOB'
local copse = require "copse"
local function align(name, fields, stage)
  fields.from, fields.holdout = "ssl", 0.1
  local all = { name = name, objective = copse.objective.agriclip.align(fields) }
  for key, value in pairs(stage or {}) do all[key] = value end
  return copse.stage(all)
end
return copse.job {
  name = "align", seed = 2, watchdog_seconds = 60,
  model = copse.model {
    embed_dim = 24,
    image = copse.tower { kind = "vit", image_size = 32, patch = 8, width = 48, layers = 2, heads = 2 },
    text = copse.tower { kind = "text", width = 48, layers = 2, heads = 2 },
    towers = {
      ssl = copse.tower { kind = "vit", variant = "dino", image_size = 32, patch = 8, width = 32, layers = 2, heads = 2 },
      stock = copse.tower { kind = "text", width = 32, layers = 1, heads = 2 },
    },
  },
  tokenizer = copse.tokenizer { merges = "set/tokenizer.txt", context = 24 },
  data = { paired = copse.shards { "set/train-*.h5" } },
  stages = {
    copse.stage { name = "clip", objective = copse.objective.clip {}, steps = 4, global_batch = 64, grain = 8,
      optimizer = copse.adamw { lr = 1e-3 } },
    -- The published procedure, shorter: batches of 100, the last one short.
    align("sgd", { solver = "sgd" }, { epochs = 3, global_batch = 100, grain = 25, tail = "keep",
      optimizer = copse.sgd { weight_decay = 5e-4, momentum = 0.9,
        lr = function(step, total) return 0.005 * (1 + math.cos(math.pi * (3 * step // total) / 200)) end } }),
    align("ridge", { solver = "ridge", bias = "consistent" }),
    align("ols", { solver = "ols", text = "stock" }),
  },
  evaluate = {
    copse.zero_shot { name = "names", data = "set/test-*.h5", templates = "plants", averaging = "average_first" },
    copse.validation_loss { name = "val", data = "set/test-*.h5", batch = 24, grain = 8, stages = { "ridge", "sgd" } },
  },
  checkpoint = copse.checkpoint { steps = 2, keep = 30 },
}
END_OF_JOB
train() { # train RUN RANKS OPTION...
    run_name=$1 ranks=$2
    shift 2
    copse train align.lua --run "$run_name" -n "$ranks" --threads 1 "$@"
}

expect "one rank" 0 "finish of .agriclip.align., pass 1 over 360 samples: +mse [0-9.e-]+  r2 0[.][0-9]+  heldout_mse [0-9.e-]+  heldout_r2" train one 1
cp "$output" said
check "R2 is in the table" grep -E -A 5 '^ridge +mse' said
check "of samples kept apart too" grep -E '^ +heldout_r2 +-?[0-9.]+ ' said
check "R2 is in the events" grep -q '"event":"finish","objective":"agriclip.align","stage":"sgd","step":16,"pass":1,.*"r2":.*"heldout_r2":' runs/one/events.jsonl
check "the first values are measured before steps" grep -q '"event":"fit","objective":"agriclip.align","stage":"sgd","step":4,"pass":2,.*"r2":' runs/one/events.jsonl
check "evaluated at the end of each stage" test "$(grep -c '"event":"evaluation","name":"names"' runs/one/events.jsonl)" -eq 4
loss() { # loss STAGE-STEP: the mean of the steps' losses around it
    sed -n 's/.*"event":"step","step":'"$1"',.*"loss":\([0-9.e-]*\).*/\1/p' runs/one/events.jsonl | head -n 1
}
first=$(loss 5) last=$(loss 16)
check "steps lower the error ($first to $last)" awk "BEGIN { exit !($last < 0.9 * $first) }"

# Stages in an order that leaves towers untrained are told, before and at the start.
sed 's/seed = 2,/seed = 2, -- sgd first/; /name = "clip"/,/lr = 1e-3/d' align.lua >early.lua
expect "no stage trains the tower that is mapped to" 0 "warning: stage 'sgd' takes the features of tower 'image', which has the values it began with" \
    copse check early.lua
expect "nor the texts of a tower" 0 "warning: stage 'ols' compares images with texts of tower 'stock', which has the values" copse check align.lua
check "the sound ones are not named" test "$(grep -c "tower 'image'\|tower 'text'" "$output")" -eq 0
check "training says so, too" grep -q "warning: stage 'sgd' takes the features of tower 'ssl'" said

sed 's|data = "set/test-\*.h5", templates|data = "set/t*-0000[01].h5", templates|' align.lua >leaks.lua
expect "pictures that are trained on are told" 0 "warning: evaluation 'names': 200 of its 272 pictures are in the training data, too" \
    copse check leaks.lua
check "nothing is said of the others" test "$(grep -c flatters "$output") $(grep -c flatters said)" = "1 0"

# A model from a file: with the map it gives what the run gave; without it there is nothing to evaluate.
check "all of the model in a file" copse export runs/one/checkpoints/step-00000016.h5 all.safetensors --everything
names() { # names LINES: what the last evaluation of names says
    sed -n 's/^step [0-9]* *names: *//p' "$1" | tail -n 1
}
check "is evaluated" copse eval all.safetensors align.lua --threads 1
check "as at the end of the run" test "once $(names said)" = "once $(names "$output")"
check "which says something" grep -q 'names: *top1' said
check "CLIP alone" copse export runs/one/checkpoints/step-00000004.h5 clip.safetensors
expect "has no map" 64 "the map of 'ssl' has not been fitted.*align.from_scale" copse eval clip.safetensors align.lua --threads 1

for ranks in 2 3 4; do
    [ $ranks -eq 2 ] || rm -rf runs/cache
    if [ $ranks -eq 2 ]; then
        expect "two ranks take the features from the cache" 0 "tower 'ssl'.: 360 records, 0 computed" train two 2
        run_name=two
    else
        expect "$ranks ranks compute them" 0 "tower 'ssl'.: 360 records, 360 computed" train again$ranks $ranks
        run_name=again$ranks
    fi
    expect "the same bits on $ranks ranks" 0 '' same_bits runs/one runs/$run_name
done

# Stops: after clip (between stages), in the steps, on other ranks each time.
ranks=1
for until in 2 4 5 9 99; do
    check "as far as step $until on $ranks ranks" train parts $ranks --until $until
    ranks=$((ranks % 3 + 1))
done
same_end() { # same_end NAME RUN
    {
        for file in runs/one/checkpoints/step-00000004.h5 runs/one/checkpoints/step-00000016.h5; do
            cmp "$file" "runs/$2/checkpoints/$(basename "$file")" || exit 1
        done
        numbers_of runs/one | grep -v '"event":"step"' >left && numbers_of "runs/$2" | grep -v '"event":"step"' >right
        tail -n 1 left >left.last && tail -n 1 right >right.last && diff left.last right.last
    } >"$output" 2>&1
    code=$?
    if [ $code -eq 0 ]; then pass "$1"; else fail "$1" "it does not end with the bits of one rank"; fi
}
same_end "the same bytes in five parts" parts

# A signal while features are computed ends the run between stages, and nothing is computed twice.
check "as far as the second stage" train told 2 --until 4
rm -rf runs/cache
expect "told to stop while features are computed" 85 "a signal asked to stop: the features of view 'from' are kept but for some 128 records" \
    env CPS_FAULT=signal_features,0,0 "$COPSE" train align.lua --run told -n 2 --threads 1
expect "goes on on three ranks" 0 "goes on from.*tower 'ssl'.: 360 records, 128 computed" train told 3
same_end "the same bytes after a signal" told

# A kill while the checkpoint after a fit is being written takes the fit back; one in the steps does not.
check "as far as the stage's end" train killed 2 --until 4
expect "killed while the fit's checkpoint is written" 70 'signal 9' env CPS_FAULT=kill_checkpoint,1,4 "$COPSE" train align.lua --run killed \
    -n 2 --threads 1
expect "killed in the steps of the last stage" 70 'signal 9' env CPS_FAULT=kill,1,7 "$COPSE" train align.lua --run killed -n 2 --threads 1
expect "taken up again on three ranks" 0 'goes on from' train killed 3
same_end "the same bytes after kills" killed
finish
