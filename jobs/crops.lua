-- Leaves of five crops, healthy and diseased: CLIP from scratch, then which of 20 conditions a test picture shows.
-- Run it with  copse train -n 2 jobs/crops.lua ; the first run packs the pictures into shards.
local copse = require "copse"
local arg = copse.arg { data = "../../shared/data/crops", epochs = 20, seed = 1 }

local function set(name)
  return copse.shards { source = arg.data .. "/" .. name .. ".csv", classes = arg.data .. "/classnames.txt" }
end

return copse.job {
  name = "crops", seed = arg.seed,
  model = copse.model { preset = "ViT-Micro-8" },
  tokenizer = copse.tokenizer { merges = "../../shared/data/clip-bpe/bpe_simple_vocab_16e6.txt.gz" },
  data = { paired = set "train" },
  stages = {
    copse.stage {
      objective = copse.objective.clip {},
      epochs = arg.epochs, global_batch = 128, grain = 32,
      crop = { 0.5, 1 }, flip = 0.5, -- more variety than CLIP's own recipe: there are few pictures
      optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.1 },
      schedule = copse.cosine { warmup_steps = 50 },
      grad_clip_norm = 1,
    },
  },
  evaluate = {
    copse.zero_shot {
      name = "diseases", data = set "test", every = "epoch",
      templates = { "a photo of a {} leaf.", "a close-up of a {} leaf.", "{} on a leaf.", "a photo of {}." },
    },
    copse.validation_loss { name = "val", data = set "test", batch = 128, every = "epoch" },
  },
  checkpoint = copse.checkpoint { best = "diseases.top1" },
}
