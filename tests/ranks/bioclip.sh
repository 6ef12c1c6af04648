#!/bin/sh
# limit: 300
# The objectives of bioclip, the whole program: the same bytes on 1, 2, 3 and 4 ranks, recordings kept or made again; and after
# a stop or a kill, on other ranks. Replay, texts by image and equal texts as positives are drawn, hashed and gathered; heads sum
# over classes in tiles.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/ranks/bits.inc"
cd "$scratch" || exit 1
bits_set
# As many organisms as pictures: more classes than a head works at in one go, the pictures over and over.
check "pictures" copse inspect set/train-00000.h5 --table many --records 64
sed -n '2,$s/,.*//p' many/captions.csv | sort -u >files
awk -v classes=4200 '
    function word(i) { return substr(abc, int(i / 676) % 26 + 1, 1) substr(abc, int(i / 26) % 26 + 1, 1) substr(abc, i % 26 + 1, 1) }
    { file[NR] = $0 }
    END {
        abc = "abcdefghijklmnopqrstuvwxyz"
        print "file,kingdom,genus,species"
        for (i = 1; i <= classes; i++) {
            print "ln many/" file[i % NR + 1] " many/" i ".jpg" >"link.sh"
            print i ".jpg,Plantae,Genus" word(int(i / 3)) ",species" word(i)
        }
    }' files >many/all.csv
check "a picture for each organism" sh link.sh
check "4200 organisms" copse pack many/shard many/all.csv
cat >bioclip.lua <<'END_OF_JOB'
local copse = require "copse"
local arg = copse.arg { objective = "step", budget = -1, steps = 4 }
local compares = arg.objective == "step" or arg.objective == "replay"
local many = arg.objective == "many"
local objectives = {
  step = copse.objective.bioclip {},
  replay = copse.objective.bioclip { scope = "image", text_types = { com = 1, taxon_com = 2 }, multi_positive = true, clean = true,
    replay = "web", replay_weight = 0.5 },
  published = copse.objective.bioclip { published_ranks = 2, published_local_loss = false, published_gather_with_grad = false },
  ce = copse.objective.bioclip.ce { label_smoothing = 0.1 },
  many = copse.objective.bioclip.ce {},
  hierarchical = copse.objective.bioclip.hierarchical_ce { weights = { order = 0.5, genus = 1, species = 2 }, mask_missing = true },
}
return copse.job {
  name = "bioclip", seed = 5, watchdog_seconds = 60,
  model = copse.model {
    embed_dim = 32,
    image = copse.tower { kind = "vit", image_size = 32, patch = 8, width = 64, layers = 2, heads = 2, drop_path = 0.2 },
    text = copse.tower { kind = "text", width = 64, layers = 2, heads = 2 },
  },
  tokenizer = copse.tokenizer { merges = "set/tokenizer.txt", context = 32 },
  data = { paired = copse.shards { many and "many/shard-*.h5" or "set/train-*.h5" }, web = copse.shards { "set/test-*.h5" } },
  stages = {
    copse.stage {
      objective = objectives[arg.objective],
      steps = arg.steps, global_batch = 32, grain = 4, rows = arg.objective == "replay" and { web = 2 } or nil,
      activation_budget_mb = arg.budget, crop = { 0.5, 1 }, flip = 0.5,
      optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.1 }, schedule = copse.cosine { warmup_steps = 2 },
    },
  },
  evaluate = {
    copse.validation_loss { name = "val", data = many and copse.shards { "many/shard-*.h5", count = 64 } or "set/test-*.h5", batch = 16, grain = 8, every = 3 },
    compares and copse.zero_shot { name = "names", data = "set/test-*.h5" } or nil,
    copse.knn { name = "knn", data = "set/test-*.h5", bank = "set/train-*.h5", k = 3 },
  },
  checkpoint = copse.checkpoint { steps = 3, keep = 3 },
}
END_OF_JOB

train() { # train OBJECTIVE RUN RANKS OPTION...
    objective=$1 run_name=$2 ranks=$3
    shift 3
    copse train bioclip.lua --run "$run_name" -n "$ranks" --threads 1 --set objective="$objective" "$@"
}

for objective in step replay published ce many hierarchical; do
    check "$objective: 1 rank" train $objective $objective 1
    for setting in "2 0" "3 -1" "4 0"; do
        case $objective in step | published | many) [ "$setting" = "3 -1" ] || continue ;; esac
        run train $objective again "${setting% *}" --set budget="${setting#* }"
        if [ "$code" -ne 0 ]; then
            fail "$objective: ${setting% *} ranks" "exit code $code"
        elif ! same_bits runs/$objective runs/again >"$output" 2>&1; then
            fail "$objective: ${setting% *} ranks, budget ${setting#* }" "the bits differ from those of 1 rank"
        else
            pass "$objective: ${setting% *} ranks, budget ${setting#* }"
        fi
        rm -rf runs/again
    done
done
# The comparisons compare something: terms are there, and objectives give different numbers.
check "terms of the organisms and of the replay stream" grep -q '"contrastive":.*"replay":' runs/replay/events.jsonl
check "a head of 4200 classes: the first loss is about ln 4200" grep -q '"step":1,.*"loss":8[.]3' runs/many/events.jsonl
check "losses of the ranks" grep -q '"order":.*"genus":.*"genus_accuracy":.*"species":' runs/hierarchical/events.jsonl
check "the type of a step's texts" grep -q '"text_type":3' runs/step/events.jsonl
expect "another objective gives other bytes" 1 'differ' cmp runs/step/checkpoints/step-00000004.h5 runs/published/checkpoints/step-00000004.h5

same_end() { # same_end NAME RUN REFERENCE
    {
        cmp "runs/$3/checkpoints/step-00000008.h5" "runs/$2/checkpoints/step-00000008.h5" &&
            numbers_of "runs/$3" >left && numbers_of "runs/$2" >right && diff left right
    } >"$output" 2>&1
    code=$?
    if [ $code -eq 0 ]; then pass "$1"; else fail "$1" "it does not end with the bits of '$3'"; fi
}
for objective in replay ce hierarchical; do
    check "$objective: 8 steps in one go" train $objective whole-$objective 2 --set steps=8
    expect "$objective: killed at step 7" 70 'signal 9' env CPS_FAULT=kill,0,6 "$COPSE" train bioclip.lua --run killed-$objective \
        -n 2 --threads 1 --set objective=$objective --set steps=8
    expect "$objective: goes on" 0 'goes on from .*step-00000006' train $objective killed-$objective 3 --set steps=8
    same_end "$objective: 8 steps, killed at step 7, then 3 ranks" killed-$objective whole-$objective
    expect "$objective: stopped after step 4" 0 '' train $objective until-$objective 4 --set steps=8 --until 4
    expect "$objective: goes on" 0 'goes on from .*step-00000004' train $objective until-$objective 1 --set steps=8
    same_end "$objective: 4 steps on 4 ranks, then 1 rank" until-$objective whole-$objective
done
finish
