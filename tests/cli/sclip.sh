#!/bin/sh
# limit: 120
# What people bring to S-CLIP: keyword files of every kind, streams that are missing or too small, words misspelt. One clear
# message each, before training.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1
check "a data set" copse synth set --classes 4 --train-per-class 24 --test-per-class 4 --seed 3
printf 'smooth\nphoto\n' >keywords.txt

pairs='paired = copse.shards { "set/train-*.h5", count = 40 }'
both="$pairs"', unlabelled = copse.shards { "set/train-*.h5", rest_of = "paired" }'
job() { # job NAME OPTIONS [DATA [STAGE]]
    cat >"$1.lua" <<END
local copse = require "copse"
return copse.job {
  name = "$1", seed = 1,
  model = copse.model { preset = "ViT-Micro-8" },
  tokenizer = copse.tokenizer { merges = "set/tokenizer.txt" },
  data = { ${3:-$both} },
  stages = { copse.stage { objective = copse.objective.sclip { $2 }, steps = 1, ${4:-global_batch = 16, grain = 4,}
    optimizer = copse.adamw { lr = 1e-4 } } },
}
END
}

job good 'keywords = "keywords.txt"'
expect "a good job" 0 "stream 'unlabelled': 56 records.*4 rows a grain" copse check good.lua
job rows 'keywords = "keywords.txt"' '' 'global_batch = 16, grain = 4, rows = { unlabelled = 7 },'
expect "rows of the queries" 0 "stream 'unlabelled': 56 records.*7 rows a grain" copse check rows.lua
job few 'keywords = "keywords.txt"' '' 'global_batch = 16, grain = 4, rows = { unlabelled = 15 },'
expect_one "fewer queries than a batch takes" 64 "'unlabelled' has 56 records, fewer than the 60.*rows = " copse check few.lua

job above 'keywords = "keywords.txt", init_scale = 200'
expect_one "a scale that begins above its bound" 64 "'logit_scale' would begin at 5.29832, but is kept in 0 .. 4.60517.*init_scale or max_scale" \
    copse check above.lua
job below 'keywords = "keywords.txt", init_scale = 0.5'
expect_one "a scale that begins below one" 64 "'logit_scale' would begin at -0.693147, but is kept in 0 " copse check below.lua

# Keywords.
job nofile 'keywords = "nowhere.txt"'
expect_one "no such file" 64 "nofile.lua:7: .*keywords: .*nowhere.txt.*No such file" copse check nofile.lua
: >void.txt
job void 'keywords = "void.txt"'
expect_one "an empty file" 64 "keywords: file .*void.txt has no line of text" copse check void.lua
printf 'smooth\n\nphoto\n' >gap.txt
job gap 'keywords = "gap.txt"'
expect_one "an empty line" 64 "keywords: file .*gap.txt: line 2 is empty.*remove it" copse check gap.lua
printf '\377\376smooth\n' >bytes.txt
job bytes 'keywords = "bytes.txt"'
expect_one "a file that is no text" 64 "bytes.txt is not UTF-8" copse check bytes.lua
printf 'smooth\nphoto\nsmooth\nsmooth\n' >twice.txt
job twice 'keywords = "twice.txt"'
expect "keywords twice: a warning, once" 0 "warning: sclip: 2 of 4 keywords repeat an earlier one .such as 'smooth'" copse train twice.lua --threads 1
check "of one line" test "$(grep -c 'warning:' "$output")" -eq 1
printf 'Smooth\nphotos\n' >strange.txt
job strange 'keywords = "strange.txt"'
expect "keywords of no caption: a warning" 0 "warning: sclip: none of the 2 keywords .such as 'Smooth'.*of the first 40 records of 'paired'" \
    copse train strange.lua -n 2 --threads 1
check "once on two ranks" test "$(grep -c 'warning:' "$output")" -eq 1
check "the run goes on without" grep -q '"keyword":0,"keyword_share":0' runs/strange/events.jsonl
job none ''
expect "no keywords: a warning" 0 "warning: sclip: neither keywords nor keywords_from" copse train none.lua --threads 1
check "no such term" test -z "$(grep '"keyword"' runs/none/events.jsonl)"
job quiet 'keyword_term = false'
expect "none wanted: no warning" 0 '' copse train quiet.lua --threads 1
check "not a word" test "$(grep -c 'warning:' "$output")" -eq 0
job classes 'keywords_from = "classes"'
expect "classes as keywords" 0 '' copse train classes.lua --threads 1
check "they are found" grep -q -E '"keyword_share":(0[.][0-9]|1)' runs/classes/events.jsonl
job both 'keywords = "keywords.txt", keywords_from = "classes"'
expect_one "both" 64 'both keywords .2 of them. and keywords_from' copse check both.lua

# Streams.
job lone 'keywords = "keywords.txt"' "$pairs"
expect_one "no stream of queries" 64 "pairs and queries would both come from stream 'paired'.*rest_of" copse check lone.lua
job other 'keywords = "keywords.txt"' "$pairs"', more = copse.shards { "set/test-*.h5" }'
expect_one "no stream of that name" 64 "other.lua:7: .*unlabelled: there is no stream 'unlabelled'; data has: more, paired" copse check other.lua
job pairs 'query_negatives = false, caption_term = false, keyword_term = false' "$pairs"
expect "nothing asks for queries" 0 'step 1/1' copse train pairs.lua --threads 1
job swapped 'text = "image"'
expect_one "an image tower for texts" 64 "tower 'image' reads images, wanted is one that reads texts" copse check swapped.lua
job same 'keywords = "keywords.txt", unlabelled = "paired"'
expect_one "pairs as their own queries" 64 "pairs and queries would both come from stream 'paired'.*rest_of" copse check same.lua
job named 'keywords = "keywords.txt", unlabelled = "more"' "$pairs"', more = copse.shards { "set/test-*.h5" }'
expect "which the job says" 0 "stream 'more': 16 records" copse check named.lua
job all 'keywords = "keywords.txt"' 'paired = copse.shards { "set/train-*.h5" }, unlabelled = copse.shards { "set/train-*.h5", rest_of = "paired" }'
expect_one "pairs that leave nothing" 64 "nothing is left of 96 records: 'paired'.*smaller fraction" copse check all.lua
job tenth 'keywords = "keywords.txt"' 'paired = copse.shards { "set/train-*.h5", fraction = 0.1 }, unlabelled = copse.shards { "set/train-*.h5", rest_of = "paired" }'
expect_one "fewer pairs than a batch" 64 "'paired' has 9 usable records, fewer than one global batch of 16" copse check tenth.lua
job one 'keywords = "keywords.txt"' '' 'global_batch = 1, grain = 1, rows = { unlabelled = 5 },'
expect "one pair a step" 0 '' copse train one.lua --threads 1
check "gives numbers" grep -q '"loss":[0-9.]*,"contrastive":[0-9.e-]*,"caption":0,' runs/one/events.jsonl
job query 'keywords = "keywords.txt"' '' 'global_batch = 16, grain = 16, rows = { unlabelled = 1 },'
expect "one query a step: a warning" 0 "warning: sclip: a step has one query" copse train query.lua --threads 1

# Words and numbers.
job plan 'plan = "ot-imgae"'
expect_one "an unknown plan" 64 "plan: should be one of.*'ot-imgae' .did you mean 'ot-image'" copse check plan.lua
job key 'keyword = "keywords.txt"'
expect_one "an unknown option" 64 "unknown key 'keyword' .did you mean 'keywords'" copse check key.lua
job zero 'sinkhorn_iterations = 0'
expect_one "no iterations" 64 'sinkhorn_iterations: should be between 1 and 1000, not 0' copse check zero.lua
expect_one "more ranks than parts" 64 '5 ranks.*4 parts|4 parts.*5 ranks' copse train good.lua -n 5
finish
