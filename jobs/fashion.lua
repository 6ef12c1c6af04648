-- Product photographs with their titles: CLIP from scratch, then which of 16 kinds a test picture shows.
-- Run it with  copse train -n 2 jobs/fashion.lua ; the first run packs the pictures into shards.
local copse = require "copse"
local arg = copse.arg { data = "../../shared/data/fashion", epochs = 60, seed = 1 }

local function set(name)
  return copse.shards { source = arg.data .. "/" .. name .. ".csv", classes = arg.data .. "/classnames.txt" }
end

return copse.job {
  name = "fashion", seed = arg.seed,
  model = copse.model { preset = "ViT-Micro-8" },
  tokenizer = copse.tokenizer { merges = "../../shared/data/clip-bpe/bpe_simple_vocab_16e6.txt.gz" },
  data = { paired = set "train" },
  stages = {
    copse.stage {
      objective = copse.objective.clip {},
      epochs = arg.epochs, global_batch = 96, grain = 32,
      crop = { 0.5, 1 }, flip = 0.5, -- more variety than CLIP's own recipe: there are few pictures
      optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.1 },
      schedule = copse.cosine { warmup_steps = 30 },
      grad_clip_norm = 1,
    },
  },
  evaluate = {
    copse.zero_shot { name = "kinds", data = set "test", templates = "product", every = "epoch" },
    copse.retrieval { name = "pairs", data = set "test" },
    copse.validation_loss { name = "val", data = set "test", batch = 128, every = "epoch" },
  },
  checkpoint = copse.checkpoint { best = "kinds.top1" },
}
