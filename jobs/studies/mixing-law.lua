-- One run of the study mixing-law.sh: small towers that know aerial scenes (`start`; empty: they begin from scratch) learn leaves of
-- crops, with a share of scenes among the pictures. What each of the two domains loses or wins is its own validation loss: negatives of
-- the same domain alone, the whole test set as one batch.
local copse = require "copse"
local arg = copse.arg {
  data = "../../../shared/data", start = "", general = "rs-eurosat", method = "clip", share = 1, steps = 150, lr = 1e-3, seed = 0,
}

local function set(name, file, weight)
  return copse.shards { source = arg.data .. "/" .. name .. "/" .. file .. ".csv", weight = weight }
end

local function mixed(share)
  if share <= 0 then return set("crops", "train") end
  if share >= 1 then return set(arg.general, "train") end
  return copse.mixture { set(arg.general, "train", share), set("crops", "train", 1 - share) }
end

return copse.job {
  name = "mixing-law", seed = arg.seed,
  model = copse.model {
    weights = arg.start ~= "" and arg.start or nil,
    preset = "ViT-Micro-8", embed_dim = 128,
    image = copse.tower { patch = 16, layers = 4 },
    text = copse.tower { width = 128, layers = 2, heads = 2 },
  },
  tokenizer = copse.tokenizer { merges = arg.data .. "/clip-bpe/bpe_simple_vocab_16e6.txt.gz", context = 48 },
  data = { paired = mixed(arg.share) },
  stages = {
    copse.stage {
      objective = arg.method == "clip" and copse.objective.clip {} or copse.objective.dalip { heads = 4, reduced = 12 },
      steps = arg.steps, global_batch = 128, grain = 32,
      crop = { 0.6, 1 }, flip = 0.5,
      optimizer = copse.adamw { lr = arg.lr, weight_decay = 0.1 },
      schedule = copse.cosine { warmup_steps = 20 },
      grad_clip_norm = 1,
    },
  },
  evaluate = {
    copse.validation_loss { name = "general", data = set(arg.general, "test"), batch = 1024 },
    copse.validation_loss { name = "target", data = set("crops", "test"), batch = 1024 },
  },
}
