#!/bin/sh
# limit: 300
# DALIP, the whole program: dropout by channel and by token, batch norm's running statistics, two losses, folded evaluations.
# Parameters, statistics, optimizer state, metrics and numbers are the same bytes on 1, 2, 3 and 4 ranks, with recordings kept or
# made again, any threads, alone and beside another objective; and after a stop or a kill, on other ranks.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/ranks/bits.inc"
cd "$scratch" || exit 1
mkdir shm
export OMPI_MCA_btl_vader_backing_directory="$scratch/shm"
bits_set
cat >dalip.lua <<'END_OF_JOB'
local copse = require "copse"
local arg = copse.arg { objective = "plain", grains = 6, budget = -1, steps = 4, keep_every = 1000, parts = 32, first = 0.5 }
local objectives = {
  plain = copse.objective.dalip { reduced = 5, alpha = function(step) return 1 - step / 10 end },
  others = copse.objective.dalip {
    heads = 2, reduced = 4, image_norm = "layer", image_dropout = "tokens", text_dropout = "channels", dropout = 0.3, pad_mask = true,
    learned_factor = true, second_scale = true,
  },
  sum = copse.objective.dalip { reduced = 5, combine = "similarities", lambda = { first = 0.6, second = 0.4 }, published_ranks = 2,
    published_local_loss = false, published_gather_with_grad = false },
  beside = { copse.objective.dalip { reduced = 5 }, copse.objective.sclip { weight = 0.5, keywords_from = "classes" } },
}
return copse.job {
  name = "dalip", seed = 5, watchdog_seconds = 60, parts = arg.parts,
  model = copse.model {
    embed_dim = 32,
    image = copse.tower { kind = "vit", image_size = 32, patch = 8, width = 64, layers = 2, heads = 2, drop_path = 0.2 },
    text = copse.tower { kind = "text", width = 64, layers = 2, heads = 2 },
  },
  tokenizer = copse.tokenizer { merges = "set/tokenizer.txt", context = 24 },
  data = {
    paired = copse.shards { "set/train-*.h5", fraction = 0.5 },
    unlabelled = copse.shards { "set/train-*.h5", rest_of = "paired" },
  },
  stages = {
    copse.stage {
      objective = objectives[arg.objective],
      steps = arg.steps, global_batch = 4 * arg.grains, grain = 4, activation_budget_mb = arg.budget,
      crop = { 0.5, 1 }, flip = 0.5, grad_clip_norm = 0.5, embed = arg.objective == "beside" and "dalip" or nil,
      optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.1 }, schedule = copse.cosine { warmup_steps = 2 },
    },
  },
  evaluate = {
    copse.zero_shot { name = "names", data = "set/test-*.h5", templates = "plants", score = { arg.first, 1 - arg.first } },
    copse.retrieval { name = "pairs", data = "set/test-*.h5", score = { arg.first, 1 - arg.first } },
    copse.validation_loss { name = "val", data = "set/test-*.h5", batch = 16, grain = 8, every = 3 },
  },
  checkpoint = copse.checkpoint { steps = arg.keep_every, keep = 3 },
}
END_OF_JOB

train() { # train OBJECTIVE RUN RANKS THREADS OPTION...
    objective=$1 run_name=$2 ranks=$3 threads=$4
    shift 4
    run copse train dalip.lua --run "$run_name" -n "$ranks" --threads "$threads" --quiet --set objective="$objective" "$@"
    [ "$code" -eq 0 ]
}

compare() { # compare NAME RUN REFERENCE
    if [ "$code" -ne 0 ]; then
        fail "$1" "exit code $code"
    elif ! same_bits "runs/$3" "runs/$2" >"$output" 2>&1; then
        fail "$1" "the bits differ from those of '$3'"
    else
        pass "$1"
        rm -r "runs/$2"
    fi
}

for objective in plain others sum beside; do
    train $objective $objective 1 1
    check "$objective: reference" test "$code" -eq 0 -a -s runs/$objective/checkpoints/step-00000004.h5
    for setting in "2 0" "3 -1" "4 0"; do
        [ "$objective" = plain ] || [ "$setting" = "3 -1" ] || [ "$objective $setting" = "others 4 0" ] || continue
        train $objective again "${setting% *}" 1 --set budget="${setting#* }"
        compare "$objective: ${setting% *} ranks, budget ${setting#* }" again $objective
    done
done
train plain again 2 2
compare "plain: 2 ranks, 2 threads each" again plain
for grains in 8 13; do
    train plain grains$grains 1 1 --set grains=$grains --set steps=2 --set parts=5
    train plain again 3 1 --set grains=$grains --set steps=2 --set parts=5 --set budget=0
    compare "plain: $grains grains in 5 parts, 3 ranks" again grains$grains
done

# The comparisons compare something.
check "terms and reports are there" grep -q \
    '"first":.*"second":.*"image_dead_channels":.*"image_distance":.*"image_second_cosine":.*"text_dead_channels":' runs/plain/events.jsonl
check "terms of both objectives" grep -q '"dalip.first":.*"dalip.second":.*"sclip.contrastive":' runs/beside/events.jsonl
check "one loss of the sum" grep -q '"contrastive":' runs/sum/events.jsonl
check "losses of the published processes" grep -q '"rank0.loss":.*"rank1.d_logit_scale":' runs/sum/events.jsonl
check "the validation measures both terms" grep -q '"event":"evaluation","name":"val".*"first":.*"second":' runs/plain/events.jsonl
expect "other options give other bytes" 1 'differ' cmp runs/plain/checkpoints/step-00000004.h5 runs/sum/checkpoints/step-00000004.h5
check "running statistics are in the checkpoint" grep -q -a 'visual.vbdc.conv_dr_block.1.running_var' \
    runs/plain/checkpoints/step-00000004.h5

# The score weighs components: each alone, and half of each.
top_of() { # top_of FIRST: metrics of the trained model with that weight of the first feature
    copse eval runs/plain/checkpoints/step-00000004.h5 dalip.lua --set first="$1" --run "eval$1" --threads 1 >"$output" 2>&1 || return
    sed -n 's/.*pairs: *//p' "$output"
}
first=$(top_of 1)
second=$(top_of 0)
half=$(top_of 0.5)
printf '%s\n' "$first" "$second" "$half" >"$output"
check "scores of the first, the second and both features" test -n "$first" -a -n "$second" -a -n "$half" -a "$first" != "$second" \
    -a "$half" != "$first" -a "$half" != "$second"

same_end() { # same_end NAME RUN REFERENCE
    {
        cmp "runs/$3/checkpoints/step-00000008.h5" "runs/$2/checkpoints/step-00000008.h5" &&
            numbers_of "runs/$3" >left && numbers_of "runs/$2" >right && diff left right
    } >"$output" 2>&1
    code=$?
    if [ $code -eq 0 ]; then pass "$1"; else fail "$1" "it does not end with the bits of '$3'"; fi
}
for objective in plain others; do
    train $objective whole-$objective 2 1 --set steps=8 --set keep_every=3
    check "$objective: 8 steps in one go" test "$code" -eq 0
    expect "$objective: killed at step 7" 70 'signal 9' env CPS_FAULT=kill,0,6 "$COPSE" train dalip.lua --run killed-$objective \
        -n 2 --threads 1 --set objective=$objective --set steps=8 --set keep_every=3
    expect "$objective: goes on" 0 'goes on from .*step-00000006' copse train dalip.lua --run killed-$objective -n 3 --threads 1 \
        --set objective=$objective --set steps=8 --set keep_every=3
    same_end "$objective: 8 steps, killed at step 7, then 3 ranks" killed-$objective whole-$objective
done
expect "stopped after step 4" 0 '' copse train dalip.lua --run until -n 4 --threads 1 --set steps=8 --set keep_every=3 --until 4
expect "goes on" 0 'goes on from .*step-00000004' copse train dalip.lua --run until --threads 1 --set steps=8 --set keep_every=3
same_end "4 steps on 4 ranks, then 1 rank" until whole-plain
finish
