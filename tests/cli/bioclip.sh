#!/bin/sh
# limit: 300
# The objectives of bioclip with the data and options that people bring: every mistake is one clear message before training.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1
check "a data set" copse synth set --classes 4 --train-per-class 24 --test-per-class 6 --size 32 --vocabulary 800 --seed 3

job() { # job NAME OBJECTIVE [SHARDS [MORE-STREAMS [EVALUATION]]]
    cat >"$1.lua" <<END_OF_JOB
local copse = require "copse"
return copse.job {
  name = "$1", seed = 1,
  model = copse.model {
    embed_dim = 16,
    image = copse.tower { kind = "vit", image_size = 32, patch = 16, width = 32, layers = 1, heads = 2 },
    text = copse.tower { kind = "text", width = 32, layers = 1, heads = 2 },
  },
  tokenizer = copse.tokenizer { merges = "set/tokenizer.txt", context = 24 },
  data = { paired = copse.shards { "${3:-set/train-*.h5}" }, $4 },
  stages = { copse.stage { objective = copse.objective.bioclip$2, steps = 2, global_batch = 16, grain = 8,
      optimizer = copse.adamw { lr = 1e-4 } } },
  evaluate = { ${5:-} },
}
END_OF_JOB
}

# Pictures of the set under other tables.
check "pictures" copse inspect set/train-00000.h5 --table table --records 30
sed -n '2,$s/,.*//p' table/captions.csv | uniq >files
awk 'BEGIN { print "file,caption" } { print "table/" $0 ",a plant" }' files >plain.csv
awk 'BEGIN { print "file,kingdom,genus,species" }
    { print "table/" $0 (NR % 2 ? ",unknown,," : ",(unidentified),PleaseHelp,<i></i>") }' files >nothing.csv
awk 'BEGIN { print "file,kingdom,genus,species" }
    { print "table/" $0 (NR % 3 == 0 ? ",,," : NR % 3 == 1 ? ",Plantae,Quercus,robur" : ",Animalia,,") }' files >some.csv
check "shards without ranks" copse pack plain plain.csv
check "shards whose ranks say nothing" copse pack nothing nothing.csv
check "shards with ranks here and there, without captions" copse pack some some.csv

columns='kingdom, phylum, class, order, family, genus, species'
for objective in '' .ce .hierarchical_ce; do
    job plain "$objective {}" 'plain-*.h5'
    expect_one "bioclip$objective: no rank columns" 65 "$columns" copse check plain.lua
    job nothing "$objective {}" 'nothing-*.h5'
    expect_one "bioclip$objective: ranks that say nothing" 65 "none of 30 records.*$columns|none of its 30 records.*$columns" \
        copse check nothing.lua
    job some "$objective {}" 'some-*.h5'
    expect "bioclip$objective: records that name nothing are left out" 0 \
        "10 records without the name of an organism are left out.*20 records.*10 left out for lack of the name" copse check some.lua
    expect "bioclip$objective: trains on the rest" 0 'step 2/2' copse train some.lua --run "some$objective" --threads 1
done
job texts ' {}' 'some-*.h5'
expect "texts of the objective are measured" 0 "20 texts of the objective looked at" copse check texts.lua
expect_one "on two ranks it is said once" 65 "$columns" copse train plain.lua -n 2

job unknown ' { text_types = { sci = 1, sci_con = 1 } }'
expect_one "unknown text type" 64 "unknown.lua:11: .*text_types.sci_con: unknown name 'sci_con' .did you mean 'sci_com'" copse check unknown.lua
job zero ' { text_types = { sci = 0 } }'
expect_one "text types without weight" 64 "text_types has the weight 0 for every type" copse check zero.lua
job negative ' { text_types = { sci = -1, com = 2 } }'
expect_one "a negative weight" 64 'text_types.sci: should be between 0 and' copse check negative.lua
job nan ' { text_types = { sci = 0 / 0 } }'
expect_one "a weight that is no number" 64 'text_types.sci: should be a finite number, not nan' copse check nan.lua
job few ' { text_types = { 1, 1 } }'
expect_one "too few weights" 64 'text_types: should have 7 numbers, not 2' copse check few.lua
job scope ' { scope = "images" }'
expect_one "unknown scope" 64 "scope: should be one of 'step', 'image', not .*did you mean 'image'" copse check scope.lua
job other ' { text_tipes = { sci = 1 } }'
expect_one "unknown option" 64 "did you mean 'text_types'" copse check other.lua

job lone ' { replay = "web" }'
expect_one "no replay stream, one stream" 64 "replay: there is no stream 'web'; data has: paired" copse check lone.lua
job missing ' { replay = "web" }' '' 'extra = copse.shards { "set/test-*.h5" }'
expect_one "no replay stream, others" 64 "there is no stream 'web'; data has: extra, paired" copse check missing.lua
job own ' { replay = "paired" }' '' 'extra = copse.shards { "set/test-*.h5" }'
expect_one "the organisms as replay stream" 64 "a stream of its own beside 'paired'" copse check own.lua
job mute ' { replay = "extra" }' '' 'extra = copse.shards { "some-*.h5" }'
expect_one "a replay stream without captions" 65 "data.extra: .*none of 30 records .* has a text in field 'caption'" copse check mute.lua
job replay ' { replay = "extra" }' '' 'extra = copse.shards { "plain-*.h5" }'
expect "organisms and general pairs" 0 'step 2/2' copse train replay.lua --threads 1
check "visual.replay_proj is in the checkpoint" grep -q visual.replay_proj runs/replay/checkpoints/step-00000002.h5
expect_one "more ranks than parts" 64 '3 ranks.*2 parts' copse train replay.lua -n 3 --fresh

job divide ' { published_ranks = 3 }'
expect_one "processes that do not divide the batch" 64 'published_ranks = 3 does not divide the 16 rows' copse check divide.lua
job positives ' { published_ranks = 2, multi_positive = true }'
expect_one "published gradients of another loss" 64 'multi_positive = false' copse check positives.lua

job heads '.hierarchical_ce { weights = { kingdom = 0 } }'
expect_one "ranks without weight" 64 '0 for every rank' copse check heads.lua
job genius '.hierarchical_ce { weights = { genius = 1 } }'
expect_one "unknown rank" 64 "weights.genius: unknown name 'genius' .did you mean 'genus'" copse check genius.lua
job smooth '.ce { label_smoothing = 1 }'
expect_one "all of the target smoothed away" 64 'label_smoothing: should be between 0 and 0.99' copse check smooth.lua
job sides '.ce {}' '' '' 'copse.zero_shot { name = "names", data = "set/test-*.h5" }'
expect_one "zero-shot without texts" 64 "evaluation 'names': objective 'bioclip.ce'.*no text side.*copse.knn" copse check sides.lua
job knn '.ce {}' '' '' 'copse.knn { name = "knn", data = "set/test-*.h5", bank = "set/train-*.h5", k = 3 },
    copse.validation_loss { name = "val", data = "set/test-*.h5", batch = 8 }'
expect "k-NN of a classifier" 0 'knn: +top1.*val|val:.*knn: +top1' copse train knn.lua --threads 1
finish
