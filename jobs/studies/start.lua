-- The start of the study rs-captions.sh: small towers that have seen pictures with captions of five other sets, three minutes
-- long. Stands in for the public CLIP weights that the published methods start from.
local copse = require "copse"
local arg = copse.arg { data = "../../../shared/data", epochs = 12, seed = 0 }

local function set(name)
  return copse.shards { source = arg.data .. "/" .. name .. "/train.csv" }
end

return copse.job {
  name = "start", seed = arg.seed,
  model = copse.model {
    preset = "ViT-Micro-8", embed_dim = 128,
    image = copse.tower { patch = 16, layers = 4 },
    text = copse.tower { width = 128, layers = 2, heads = 2 },
  },
  tokenizer = copse.tokenizer { merges = arg.data .. "/clip-bpe/bpe_simple_vocab_16e6.txt.gz", context = 48 },
  data = { paired = copse.mixture { set "crops", set "produce", set "taxa", set "fashion", set "rs-eurosat" } },
  stages = {
    copse.stage {
      objective = copse.objective.clip {},
      epochs = arg.epochs, global_batch = 128, grain = 32,
      crop = { 0.6, 1 }, flip = 0.5,
      optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.1 },
      schedule = copse.cosine { warmup_steps = 20 },
      grad_clip_norm = 1,
    },
  },
}
