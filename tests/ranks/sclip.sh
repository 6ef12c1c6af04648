#!/bin/sh
# limit: 300
# S-CLIP, the whole program: pairs, the rest of the same set as queries, keywords of a file. Parameters, optimizer state, metrics
# and numbers are the same bytes on 1, 2, 3 and 4 ranks, with recordings kept or made again, any threads, every plan, and after
# being killed; the validation loss is plain CLIP's.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/ranks/bits.inc"
cd "$scratch" || exit 1
mkdir shm
export OMPI_MCA_btl_vader_backing_directory="$scratch/shm"
bits_set
printf 'smooth\nveined\nviolet\negg-leaf\ngreen egg-leaf\nsilver\nphoto\n' >keywords.txt
# 51 pairs, the 153 left over as queries, 24 of them a step.
cat >sclip.lua <<'END_OF_JOB'
local copse = require "copse"
local arg = copse.arg { plan = "ot-image", steps = 4, budget = -1, count = 0, keep_every = 1000, objective = "sclip", published = 1, rest = true }
return copse.job {
  name = "sclip", seed = 5, watchdog_seconds = 60,
  model = copse.model {
    embed_dim = 32,
    image = copse.tower { kind = "vit", image_size = 32, patch = 8, width = 64, layers = 2, heads = 2, drop_path = 0.2 },
    text = copse.tower { kind = "text", width = 64, layers = 2, heads = 2 },
  },
  tokenizer = copse.tokenizer { merges = "set/tokenizer.txt", context = 24 },
  data = {
    labelled = copse.shards { "set/train-*.h5", fraction = 0.25, draw = "mt19937" },
    others = arg.count > 0 and copse.shards { "set/test-*.h5", count = arg.count }
      or copse.shards { "set/train-*.h5", rest_of = "labelled" },
  },
  stages = {
    copse.stage {
      objective = arg.objective == "clip" and copse.objective.clip { stream = "labelled" }
        or copse.objective.sclip {
          stream = "labelled", unlabelled = "others", keywords = "keywords.txt", plan = arg.plan, strict_target = true,
          published_ranks = arg.published, query_negatives = arg.rest, caption_term = arg.rest, keyword_term = arg.rest,
        },
      steps = arg.steps, global_batch = 16, grain = 2, rows = { others = 3 }, activation_budget_mb = arg.budget,
      crop = { 0.5, 1 }, flip = 0.5, grad_clip_norm = 0.5,
      optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.1 },
    },
  },
  evaluate = {
    copse.zero_shot { name = "names", data = "set/test-*.h5", templates = "plants" },
    copse.validation_loss { name = "val", data = "set/test-*.h5", batch = 16, grain = 8 },
  },
  checkpoint = copse.checkpoint { steps = arg.keep_every, keep = 2 },
}
END_OF_JOB

train() { # train RUN RANKS THREADS OPTION...
    run_name=$1 ranks=$2 threads=$3
    shift 3
    run copse train sclip.lua --run "$run_name" -n "$ranks" --threads "$threads" --quiet "$@"
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

train one 1 1
check "reference" test "$code" -eq 0 -a -s runs/one/checkpoints/step-00000004.h5
check "all terms and reports are there" grep -q '"contrastive":.*"caption":.*"keyword":.*"keyword_share":.*"guarded_targets":' \
    runs/one/events.jsonl
for ranks in 2 3 4; do
    train again $ranks 1
    compare "$ranks ranks" again one
done
train again 3 1 --set budget=0
compare "3 ranks, recordings made again" again one
train again 1 2
compare "2 threads" again one
for plan in hard-image soft-image hard-text soft-text ot-text; do
    train $plan 1 1 --set plan=$plan --set steps=2
    train again 4 1 --set plan=$plan --set steps=2
    compare "$plan, 4 ranks" again $plan
done
train two 1 1 --set steps=2
if cmp -s runs/two/checkpoints/step-00000002.h5 runs/ot-text/checkpoints/step-00000002.h5; then
    fail "another plan is another training" "ot-image and ot-text end with equal bits: the test may compare nothing"
else
    pass "another plan is another training"
fi

train four 1 1 --set published=4 --set steps=2
train again 3 1 --set published=4 --set steps=2
compare "gradients of 4 published ranks, on 3" again four
if cmp -s runs/two/checkpoints/step-00000002.h5 runs/four/checkpoints/step-00000002.h5; then
    fail "which are others" "published_ranks = 4 ends with the bits of 1"
else
    pass "which are others"
fi
train pairs 1 1 --set rest=false --set published=2 --set steps=2
train again 4 1 --set rest=false --set published=2 --set steps=2
compare "pairs alone, 4 ranks" again pairs

# Queries of another set, 40 of them, 24 a step: it begins anew, with another shuffle.
train few 1 1 --set count=40
check "queries of another set that is soon used up" test "$code" -eq 0
train again 3 1 --set count=40
compare "the same on 3 ranks" again few

expect "stopped after step 2 on 3 ranks" 0 '' copse train sclip.lua --run stopped -n 3 --threads 1 --until 2
train stopped 2 1
check "goes on" test "$code" -eq 0
check "4 = 2 on 3 ranks, then 2 ranks" cmp runs/one/checkpoints/step-00000004.h5 runs/stopped/checkpoints/step-00000004.h5
run env CPS_FAULT=kill,1,3 "$COPSE" train sclip.lua --run killed -n 2 --threads 1 --set keep_every=2
check "killed in step 4" test "$code" -ne 0 -a -s runs/killed/checkpoints/step-00000002.h5 \
    -a ! -e runs/killed/checkpoints/step-00000004.h5
train killed 4 1 --set keep_every=2
check "goes on" test "$code" -eq 0
check "4 = 2, killed, then 4 ranks" cmp runs/one/checkpoints/step-00000004.h5 runs/killed/checkpoints/step-00000004.h5

loss_of() { # loss_of OBJECTIVE: of the trained model, by its objective's own validation
    copse eval runs/one/checkpoints/step-00000004.h5 sclip.lua --set objective="$1" --run "eval-$1" >"$output" 2>&1 || return
    sed -n 's/.*val: *loss \([0-9.]*\).*/\1/p' "$output" | head -n 1
}
as_clip=$(loss_of clip)
as_sclip=$(loss_of sclip)
echo "clip '$as_clip', sclip '$as_sclip'" >"$output"
check "the validation loss is plain CLIP's" test -n "$as_clip" -a "$as_clip" = "$as_sclip"
finish
