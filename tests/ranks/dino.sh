#!/bin/sh
# limit: 600
# agriclip.dino, the whole program: the same bytes on 1, 2, 3 and 4 ranks for a ViT and a residual network, also after a stop or a
# kill and on other ranks, within the stage and in the one that follows; what is said of collapse, of numbers that are not finite,
# and to people who bring the wrong job.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/ranks/bits.inc"
cd "$scratch" || exit 1
bits_set
cat >dino.lua <<'END_OF_JOB'
local copse = require "copse"
local arg = copse.arg {
  tower = "vit", locals = 2, steps = 4, lr = 1e-3, batch = 16, grain = 4, name = "ssl", teacher_temp = 0.04, student_temp = 0.1,
  center = 0.9, warmup = 2, warmup_epochs = 0, skipped = -1, then_clip = true, look = 3, tail = "drop", teacher = "ssl.teacher",
  output = "pooled",
}
local towers = {
  vit = copse.tower { kind = "vit", variant = "dino", image_size = 32, patch = 8, width = 32, layers = 2, heads = 2, drop_path = 0.2 },
  resnet = copse.tower { kind = "resnet", image_size = 32, width = 64, layers = 14 },
}
local resnet = arg.tower == "resnet"
local dino = copse.objective.agriclip.dino {
  tower = arg.name, K = 300, hidden = 24, bottleneck = 8, local_crops = arg.locals, use_bn = resnet, norm_last_layer = not resnet,
  teacher_temp = arg.teacher_temp, student_temp = arg.student_temp, center_momentum = arg.center,
  warmup_teacher_temp = resnet and 0.07 or 0.04, warmup_teacher_temp_epochs = arg.warmup_epochs, freeze_last_layer = arg.steps > 20 and 0 or 1,
}
return copse.job {
  name = "dino", seed = 5, watchdog_seconds = 60,
  max_skipped_steps = arg.skipped >= 0 and arg.skipped or nil,
  model = copse.model {
    embed_dim = 16,
    image = copse.tower { kind = "vit", image_size = 32, patch = 8, width = 32, layers = 1, heads = 2 },
    text = copse.tower { kind = "text", width = 32, layers = 1, heads = 2 },
    towers = { ssl = towers[arg.tower] },
  },
  tokenizer = copse.tokenizer { merges = "set/tokenizer.txt", context = 24 },
  data = { paired = copse.shards { "set/train-*.h5" } },
  stages = {
    copse.stage {
      name = "dino", objective = dino, steps = arg.steps, global_batch = arg.batch, grain = arg.grain, clip_tensor = 0.5,
      tail = arg.tail,
      optimizer = resnet and copse.lars { lr = arg.lr, weight_decay = 1e-4 } or copse.adamw { lr = arg.lr, weight_decay = 0.04 },
      schedule = copse.cosine { warmup_steps = arg.warmup, warmup = "linspace", final_weight_decay = 0.4 },
    },
    arg.then_clip and copse.stage {
      name = "clip", objective = copse.objective.clip {}, steps = 3, global_batch = 16, grain = 4, optimizer = copse.adamw { lr = 1e-3 },
    } or nil,
  },
  evaluate = arg.then_clip and {
    copse.validation_loss { name = "val", data = "set/test-*.h5", batch = 16, grain = 8, stages = { "dino" }, every = arg.look },
    copse.knn { name = "knn", data = "set/test-*.h5", bank = "set/train-*.h5", k = 3, features = { arg.teacher, arg.output } },
    copse.few_shot { name = "few", data = "set/test-*.h5", shots = { 1 }, folds = 2, stages = { "dino" } },
  } or nil,
  checkpoint = copse.checkpoint { steps = 3, keep = 9 },
}
END_OF_JOB

train() { # train RUN RANKS OPTION...
    run_name=$1 count=$2
    shift 2
    copse train dino.lua --run "$run_name" -n "$count" --threads 1 "$@"
}

for tower in vit resnet; do
    check "$tower: 1 rank" train $tower 1 --set tower=$tower
    for count in 2 3 4; do
        run train again $count --set tower=$tower
        if [ "$code" -ne 0 ]; then
            fail "$tower: $count ranks" "exit code $code"
        elif ! same_bits runs/$tower runs/again >"$output" 2>&1; then
            fail "$tower: $count ranks" "the bits differ from those of 1 rank"
        else
            pass "$tower: $count ranks"
        fi
        rm -rf runs/again
    done
    # A kill within the stage, on to the next stage on other ranks; a stop within the next stage.
    expect "$tower: killed at step 4" 70 'signal 9' env CPS_FAULT=kill,0,3 "$COPSE" train dino.lua --run killed -n 2 --threads 1 \
        --set tower=$tower
    expect "$tower: goes on on 3 ranks" 0 'goes on from .*step-00000003' train killed 3 --set tower=$tower
    expect "$tower: stopped in the next stage" 0 '' train until 4 --set tower=$tower --until 6
    expect "$tower: goes on alone" 0 'goes on from .*step-00000006' train until 1 --set tower=$tower
    for name in killed until; do
        {
            cmp runs/$tower/checkpoints/step-00000007.h5 runs/$name/checkpoints/step-00000007.h5 &&
                numbers_of runs/$tower >left && numbers_of runs/$name >right && diff left right
        } >"$output" 2>&1
        code=$?
        if [ $code -eq 0 ]; then pass "$tower: $name, the same end"; else fail "$tower: $name" "it does not end with the bits of one go"; fi
        rm -rf runs/$name
    done
done
check "reports of a step" grep -q '"dino":.*"teacher_entropy":.*"kl":.*"teacher_temp":0.04.*"momentum":0.99' runs/vit/events.jsonl
expect "memory beforehand" 0 'memory' copse check dino.lua

# Without local crops; one image a batch, which batch norm bears; a kept tail.
check "no local crops" train none 1 --set locals=0 --set then_clip=false
check "one image a batch" train one 1 --set tower=resnet --set batch=1 --set grain=1 --set then_clip=false
check "a kept tail, its last grain of one image" train tail 1 --set batch=28 --set grain=7 --set steps=9 --set tail=keep --set then_clip=false
check "the same on 4 ranks, two of which have none of it" train tail4 4 --set batch=28 --set grain=7 --set steps=9 --set tail=keep \
    --set then_clip=false
expect "the same bits" 0 '' same_bits runs/tail runs/tail4

# A stage goes on where one before it stands, by other rules: g learns, temperatures are a function.
cat >two.lua <<'END_OF_JOB'
local copse = require "copse"
local K = copse.arg { K = 300 }.K
local function dino(name, options)
  return copse.stage { name = name, objective = copse.objective.agriclip.dino(options), steps = 3, global_batch = 16, grain = 4,
    optimizer = copse.adamw { lr = 1e-3 } }
end
return copse.job {
  name = "two", seed = 5, watchdog_seconds = 60,
  model = copse.model { towers = { ssl = copse.tower { kind = "resnet", image_size = 32, width = 64, layers = 14 } } },
  data = { paired = copse.shards { "set/train-*.h5" } },
  stages = {
    dino("first", { K = 300, hidden = 24, bottleneck = 8, local_crops = 2, use_bn = true }),
    dino("second", { K = K, hidden = 24, bottleneck = 8, local_crops = 0, use_bn = true, norm_last_layer = false, freeze_last_layer = 0,
      teacher_temp = function(step, total) return 0.04 + 0.03 * step / total end, momentum = 0.99 }),
  },
}
END_OF_JOB
check "two stages" copse train two.lua -n 2 --threads 1
check "the second follows its function" grep -q '"step":5,"stage":"second".*"teacher_temp":0.05,"momentum":0.99,' runs/two/events.jsonl
expect "a head of another size" 64 "parameter 'ssl.head.center' is declared twice" copse check two.lua --set K=200

# Collapse has a name.
expect "uniform outputs are named" 0 'collapsed to uniform outputs.*teacher_temp' train uniform 1 --set teacher_temp=50 \
    --set student_temp=50 --set steps=30 --set then_clip=false
check "once" test "$(grep -c 'collapsed to' "$output")" -eq 1
expect "one output for all is named" 0 'collapsed to one output.*center_momentum' train single 1 --set teacher_temp=0.01 \
    --set center=1 --set lr=0.1 --set locals=0 --set steps=60 --set then_clip=false
run train sound 1 --set steps=30 --set then_clip=false
check "a sound run has no such name" test "$(grep -c collapsed "$output")" -eq 0

# A number that is not finite ends the run at once, unless the job bears some.
expect "the first loss that is not finite ends the run" 1 'max_skipped_steps allows 0' train wild 2 --set lr=1e6 --set warmup=0 \
    --set steps=30 --set then_clip=false
expect "the job's own word" 1 '3 steps in a row.*max_skipped_steps allows 2' train bears 2 --set lr=1e6 --set warmup=0 --set steps=30 \
    --set skipped=2 --set then_clip=false

# Wrong jobs.
expect "a tower that is not there" 64 "no tower 'sls'" copse check dino.lua --set name=sls
expect "a tower of texts" 64 "tower 'text' reads no images" copse check dino.lua --set name=text
expect "features of a tower that is not there" 64 "evaluation 'knn': features: the model has no image tower 'ssl.techer'; it has: image, ssl, ssl.teacher" \
    copse check dino.lua --set teacher=ssl.techer
expect "features that it has not" 64 "tower 'ssl.teacher' has no output 'projected': use \"pooled\", it has no projection" \
    copse check dino.lua --set output=projected
expect "a warm-up longer than the run" 64 'warmup_teacher_temp_epochs is 9, but the stage has only 1 epochs' \
    copse check dino.lua --set warmup_epochs=9
expect "a rate's warm-up longer than the run" 64 'warmup_steps = 9 is more' copse check dino.lua --set warmup=9
expect "too many ranks" 64 'at most 4 ranks' train ranks 5
finish
