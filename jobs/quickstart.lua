-- The smallest whole run: CLIP from scratch on procedural pictures of plants, then which plant an unseen picture shows. Under
-- three minutes on two cores, no downloads:
--   copse synth build/quickstart
--   copse train -n 2 jobs/quickstart.lua
local copse = require "copse"
local arg = copse.arg { data = "../build/quickstart", objective = "clip", epochs = 6, seed = 1 }

return copse.job {
  name = "quickstart", seed = arg.seed,
  model = copse.model { preset = "ViT-Micro-8" },
  tokenizer = copse.tokenizer { merges = arg.data .. "/tokenizer.txt" },
  data = { paired = copse.shards { arg.data .. "/train-*.h5" } },
  stages = {
    copse.stage {
      objective = copse.objective[arg.objective] {}, -- clip, or --set objective=sigmoid
      epochs = arg.epochs, global_batch = 128, grain = 32,
      crop = { 0.5, 1 }, flip = 0.5,
      optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.1 },
      schedule = copse.cosine { warmup_steps = 10 },
      grad_clip_norm = 1,
    },
  },
  evaluate = {
    copse.zero_shot { name = "plants", data = arg.data .. "/test-*.h5", templates = "plants", every = "epoch" },
    copse.retrieval { name = "pairs", data = arg.data .. "/test-*.h5" },
  },
  checkpoint = copse.checkpoint { best = "plants.top1" },
}
