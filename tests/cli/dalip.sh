#!/bin/sh
# limit: 180
# What people bring to DALIP: towers that have no tokens, sizes that do not divide or do not fit, options that contradict each
# other, weights of plain CLIP and of DALIP. One clear message each, before training.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1
check "a data set" copse synth set --classes 4 --train-per-class 12 --test-per-class 4 --seed 3

image='kind = "vit", image_size = 32, patch = 16, width = 32, layers = 1, heads = 2'
job() { # job NAME OPTIONS [STAGE [IMAGE [MODEL]]]
    cat >"$1.lua" <<END
local copse = require "copse"
return copse.job {
  name = "$1", seed = 1,
  model = copse.model { embed_dim = 16, ${5:-}
    image = copse.tower { ${4:-$image} },
    text = copse.tower { kind = "text", width = 32, layers = 1, heads = 2 } },
  tokenizer = copse.tokenizer { merges = "set/tokenizer.txt", context = 16 },
  data = { paired = copse.shards { "${data:-set/train-*.h5}" } },
  stages = { copse.stage { objective = copse.objective.dalip { ${small-reduced = 4,} $2 }, steps = 1, ${3:-global_batch = 16, grain = 4,}
    optimizer = copse.adamw { lr = 1e-4 } } },
  evaluate = { copse.zero_shot { name = "names", data = "set/test-*.h5"${score:-} } },
}
END
}

job good ''
expect "a good job" 0 'stream .paired.: 48 records' copse check good.lua
expect "is trained" 0 'names: *top1' copse train good.lua --threads 1
check "reports are finite" grep -q -E '"image_dead_channels":[0-9.e-]+,"image_distance":[0-9.e-]+,"image_second_cosine":-?[0-9.e-]+' \
    runs/good/events.jsonl

# Towers.
job net 'image = "other"' '' '' \
    'towers = { other = copse.tower { kind = "resnet", image_size = 32, width = 64, layers = 14, embed_dim = 16 } },'
expect_one "a tower without tokens" 64 "image = 'other': wanted is a vision transformer.*tokens" copse check net.lua
job swapped 'image = "text", text = "image"'
expect_one "towers the wrong way round" 64 "image = 'text': wanted is a vision transformer" copse check swapped.lua
job unknown 'text = "texts"'
expect_one "a tower that is not there" 64 "text: there is no tower 'texts' .did you mean 'text'" copse check unknown.lua
job narrow 'image = "ssl"' '' '' \
    'towers = { ssl = copse.tower { kind = "vit", variant = "dino", image_size = 32, patch = 16, width = 32, layers = 1, heads = 2 } },'
expect_one "a tower without projection" 64 "towers 'ssl' and 'text' give 0 and 16 numbers" copse check narrow.lua
job named 'image = "other"' '' '' \
    'towers = { other = copse.tower { kind = "vit", image_size = 32, patch = 16, width = 32, layers = 1, heads = 2, embed_dim = 16 } },'
expect "another tower" 0 '' copse train named.lua --threads 1
check "names its parameters" grep -q -a 'other.vbdc.conv_dr_block.0.weight' runs/named/checkpoints/step-00000001.h5

# Sizes.
job heads 'heads = 3'
expect_one "heads that do not divide" 64 "heads = 3 does not divide the features' width 16" copse check heads.lua
job many 'heads = 32'
expect_one "more heads than channels" 64 "heads = 32 does not divide" copse check many.lua
job none 'heads = 0'
expect_one "no heads" 64 'heads: should be between 1 and 1024, not 0' copse check none.lua
small=
job one 'reduced = 1'
expect_one "one channel" 64 'reduced: should be between 2 and 1024, not 1' copse check one.lua
job huge 'heads = 16, reduced = 1024'
expect_one "more numbers than memory" any 'memory' copse train huge.lua
unset small
job pair '' 'global_batch = 1, grain = 1,'
expect_one "one pair a step" 64 "a step has 1 pair of stream 'paired'.*raise global_batch" copse check pair.lua
job two '' 'global_batch = 2, grain = 1,'
expect "two pairs, one a grain" 0 '' copse train two.lua --threads 1

# Options.
job eps 'eps = 0'
expect_one "no eps" 64 'eps: should be between 1e-12 and 1, not 0' copse check eps.lua
job dropout 'dropout = 1'
expect_one "everything dropped" 64 'dropout: should be between 0 and 0.99, not 1' copse check dropout.lua
job norm 'image_norm = "bacth"'
expect_one "an unknown norm" 64 "image_norm: should be one of.*'bacth' .did you mean 'batch'" copse check norm.lua
job key 'head = 2'
expect_one "an unknown option" 64 "unknown key 'head' .did you mean 'heads'" copse check key.lua
job alpha 'alpha = 1.5'
expect_one "a share above 1" 64 'alpha: .*1.5' copse check alpha.lua
job falls 'alpha = function(step) return 0.5 - step end' 'global_batch = 16, grain = 4, epochs = nil,'
expect "a schedule" 0 '' copse check falls.lua
job lambda 'combine = "similarities", lambda = { first = 0, second = 0 }'
expect_one "similarities of no weight" 64 'both weights of lambda are 0' copse check lambda.lua
job third 'lambda = { third = 1 }'
expect_one "a weight of nothing" 64 "lambda.third: unknown name 'third'" copse check third.lua
job scales 'combine = "similarities", second_scale = true'
expect_one "two scales for one loss" 64 'second_scale = true goes with combine = "losses"' copse check scales.lua
job above 'init_scale = 200'
expect_one "a scale that begins above its bound" 64 'init_scale = 200 is above max_scale = 100' copse check above.lua
job ranks 'published_ranks = 3'
expect_one "published ranks that do not divide" 64 'published_ranks = 3 does not divide the 16 rows' copse check ranks.lua

# Scores of evaluations.
score=', score = { 0.5, 0.5 }' job half ''
expect "half of each feature" 0 'names: *top1' copse train half.lua --threads 1
score=', score = { 1, 1, 1 }' job three ''
expect_one "weights of three features" 64 'score.*3.*2|score.*2.*3' copse train three.lua --threads 1

# Predictions by the objective's features: the first's similarity as published, or what --score weighs.
predict() { # predict FILE OPTION...
    file=$1
    shift
    copse predict runs/good/checkpoints/step-00000001.h5 four.png --labels set/classes.txt --job good.lua --objective -q -o "$file" "$@"
}
base64 -d >four.png <<END # 2 x 2 pixels of four colours
iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFUlEQVR4nGM4IScnd0KOAUicOCEHAB58BLvQnL93AAAAAElFTkSuQmCC
END
expect "predictions" 0 '' predict first.csv
expect "by the first feature" 0 '' predict one.csv --score 1,0
check "which is the default" cmp first.csv one.csv
expect "by the second feature" 0 '' predict second.csv --score 0,1
expect "by both" 0 '' predict both.csv --score 0.5,0.5
check "say something else" test "$(cat second.csv)" != "$(cat first.csv)" -a "$(cat both.csv)" != "$(cat first.csv)" \
    -a "$(cat both.csv)" != "$(cat second.csv)"
expect_one "weights of three features" 64 "score is '1,1,1': the features have 2 similarities" predict three.csv --score 1,1,1
expect_one "a weight that is no number" 64 "score is '1,x': numbers with commas" predict word.csv --score 1,x
expect_one "weights of towers alone" 64 'have 1 similarities.*need --objective' copse predict runs/good/checkpoints/step-00000001.h5 \
    four.png --labels set/classes.txt --job good.lua --score 0,1

# Weights: those of plain CLIP lack the second feature, those of DALIP have it.
sed -e 's/objective.dalip {[^}]*}/objective.clip {}/' -e 's/name = "good"/name = "clip"/' good.lua >clip.lua
expect "a run of CLIP" 0 '' copse train clip.lua --threads 1
check "its weights" copse export --everything runs/clip/checkpoints/step-00000001.h5 clip.safetensors
check "weights of DALIP" copse export --everything runs/good/checkpoints/step-00000001.h5 dalip.safetensors
check "have its names" grep -q -a '"visual.vbdc.conv_dr_block.1.running_var"' dalip.safetensors
check "CLIP's have not" test -z "$(grep -a -o vbdc clip.safetensors)"
check "nor have the towers alone" copse export runs/good/checkpoints/step-00000001.h5 towers.safetensors
check "which are those of CLIP" test -z "$(grep -a -o vbdc towers.safetensors)"
job from '' '' '' 'weights = "clip.safetensors",'
expect "begin with CLIP's weights" 0 '38 tensors loaded, 0 resampled, 0 not found, 0 not used' copse train from.lua --threads 1
job own '' '' '' 'weights = "dalip.safetensors",'
expect "or with DALIP's" 0 '58 tensors loaded, 0 resampled, 0 not found, 0 not used' copse train own.lua --threads 1
small= job other 'reduced = 5' '' '' 'weights = "dalip.safetensors",'
expect "or with the towers of another DALIP" 0 '40 tensors loaded, .* 18 not used.*not used: visual.fc2.weight' copse train other.lua --threads 1
finish
