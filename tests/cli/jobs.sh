#!/bin/sh
# limit: 600
# Jobs with the mistakes that people make; every one ends with one clear message before anything is allocated.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1
check "a data set" copse synth set --classes 4 --train-per-class 24 --test-per-class 4 --seed 3

job() { # job NAME FIELDS-OF-THE-STAGE [SHARDS]
    cat >"$1.lua" <<END
local copse = require "copse"
return copse.job {
  name = "$1", seed = 1,
  model = copse.model { preset = "ViT-Micro-8" },
  tokenizer = copse.tokenizer { merges = "set/tokenizer.txt" },
  data = { paired = copse.shards { "${3:-set/train-*.h5}" } },
  stages = { copse.stage { objective = copse.objective.clip {}, $2 optimizer = copse.adamw { lr = 1e-4 } } },
}
END
}

job good 'steps = 2, global_batch = 32, grain = 16,'
expect "a good job" 0 'step' copse check good.lua
expect_one "no such job" 69 "nothing.lua" copse check nothing.lua
job typo 'steps = 2, global_bach = 32, grain = 16,'
expect_one "unknown key" 64 "typo.lua:7:.*'global_bach' .did you mean 'global_batch'" copse check typo.lua
job type 'steps = "two", global_batch = 32, grain = 16,'
expect_one "wrong type" 64 'type.lua:7:.*steps' copse check type.lua
job uneven 'steps = 2, global_batch = 33, grain = 16,'
expect_one "global batch not divisible by the grain" 64 'uneven.lua:7:.*33.*16' copse check uneven.lua
job parts 'steps = 2, global_batch = 32, grain = 16,'
expect_one "more ranks than parts" 64 '3 ranks.*2 parts|2 parts.*3 ranks' copse train parts.lua -n 3
job nodata 'steps = 2, global_batch = 32, grain = 16,' 'nowhere/*.h5'
expect_one "no shard" 69 "nowhere/" copse train nodata.lua
printf 'return copse.job {{\n' >syntax.lua
expect_one "Lua syntax error" 64 'syntax.lua:[12]:' copse check syntax.lua
printf 'while true do end\n' >endless.lua
expect_one "endless loop" 64 'endless.lua' copse check endless.lua
printf 'os.execute "true"\n' >os.lua
expect_one "os.execute" 64 "os.lua:1:.*os" copse check os.lua
printf 'return 1\n' >number.lua
expect_one "not a job" 64 'number.lua' copse check number.lua
check "as far as step 1" copse train good.lua --until 1 --threads 1
expect "a run that is there already" 0 "step 1, --until 1 asks for no more" copse train good.lua --until 1 --threads 1
check "makes no further step" test ! -e runs/good/checkpoints/step-00000002.h5
expect_one "--set of nothing declared" 64 "'epochs'" copse check good.lua --set epochs=3
expect_one "on two ranks it is said once" 64 "'epochs'" copse train good.lua -n 2 --set epochs=3
finish
