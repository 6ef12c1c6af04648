#!/bin/sh
# limit: 200
# Files for single towers: out of a checkpoint by name, out of an exported CLIP; found beside the job; part of what a resumed run
# must have begun with; files that do not fit.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/ranks/bits.inc"
mkdir -p "$scratch/jobs" && cd "$scratch/jobs" || exit 1
check "a data set" copse synth set --classes 4 --train-per-class 24 --test-per-class 6 --size 32 --seed 5
cat >head.inc <<'END_OF_JOB'
local copse = require "copse"
local sizes = { kind = "text", width = 48, layers = 2, heads = 2 }
local function ssl(more)
  local fields = { kind = "vit", variant = "dino", image_size = 32, patch = 8, width = 32, layers = 1, heads = 2 }
  for key, value in pairs(more) do fields[key] = value end
  return copse.tower(fields)
end
local function job(name, seed, towers, stages)
  return copse.job {
    name = name, seed = seed,
    model = copse.model { embed_dim = 24, towers = towers, text = copse.tower(sizes),
      image = copse.tower { kind = "vit", image_size = 32, patch = 8, width = 48, layers = 1, heads = 2 } },
    tokenizer = copse.tokenizer { merges = "set/tokenizer.txt", context = 24 },
    data = { paired = copse.shards { "set/train-*.h5" } },
    stages = stages,
    evaluate = { copse.zero_shot { name = "names", data = "set/test-*.h5", templates = "plants" } },
  }
end
local clip = copse.stage { objective = copse.objective.clip {}, steps = 3, global_batch = 32, grain = 8,
  optimizer = copse.adamw { lr = 1e-3 } }
END_OF_JOB
{ cat head.inc; echo 'return job("first", 1, { ssl = ssl {} }, { clip })'; } >first.lua
{
    cat head.inc
    cat <<'END_OF_JOB'
local arg = copse.arg { ssl = "runs/first/checkpoints/step-00000003.h5", stock = "clip.safetensors" }
return job("second", 2, {
  ssl = ssl { weights = arg.ssl },
  stock = copse.tower { kind = "text", width = 48, layers = 2, heads = 2, weights = arg.stock },
}, {
  copse.stage { name = "map", objective = copse.objective.agriclip.align { from = "ssl", solver = "ridge", text = "stock" } },
  clip,
})
END_OF_JOB
} >second.lua

check "a run whose towers are taken" copse train first.lua --threads 1
check "its CLIP" copse export runs/first/checkpoints/step-00000003.h5 clip.safetensors
cd "$scratch" || exit 1
expect "both towers have their files, found beside the job" 0 "step-00000003.h5' of tower ssl: 18 tensors loaded.*clip.safetensors' of tower stock: 29 tensors loaded" \
    sh -c '"$COPSE" train jobs/second.lua --runs jobs/runs --threads 1 --until 0 2>&1 | tr "\n" " "'
expect "the run ends on two ranks" 0 'stock' copse train jobs/second.lua --runs jobs/runs -n 2 --threads 1
expect "two ranks in one go" 0 '' copse train jobs/second.lua --runs jobs/runs --run again -n 2 --threads 1
expect "are the same" 0 '' same_bits jobs/runs/second jobs/runs/again
expect "a file that is evaluated stands beside them" 0 "tower ssl: 18 tensors loaded.*tower stock: 29 tensors loaded.*names: +top1" \
    copse eval jobs/clip.safetensors jobs/second.lua --runs jobs/runs --threads 1
mkdir jobs/other
check "other values under the same name" copse export jobs/runs/second/checkpoints/step-00000003.h5 jobs/other/clip.safetensors
expect "the run does not go on with them" 64 "other weights of tower 'stock'" copse train jobs/second.lua --runs jobs/runs --threads 1 \
    --set stock=other/clip.safetensors
expect "a file that is not there" 69 "nothing.safetensors" copse train jobs/second.lua --runs jobs/runs --run x --threads 1 --set ssl=nothing.safetensors
expect "a file of something else" 65 "tower 'ssl'.*holds none of the parameters of tower 'ssl'" copse train jobs/second.lua --runs jobs/runs --run x \
    --threads 1 --set ssl=clip.safetensors
sed 's/ssl { weights = arg.ssl }/ssl { weights = arg.ssl, weights_from = "ssl.teacher" }/' jobs/second.lua >jobs/third.lua
expect "a tower that the checkpoint has not" 65 "holds nothing of a tower 'ssl.teacher'" copse train jobs/third.lua --runs jobs/runs --run x --threads 1
finish
