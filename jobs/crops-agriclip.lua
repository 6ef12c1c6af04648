-- Leaves of five crops in AgriCLIP's three stages: CLIP on pictures and captions; another image tower by itself (DINO); a linear map
-- between the two, in closed form. Then which of 20 conditions a test picture shows, told by CLIP and by the mapped tower, and
-- what the nearest neighbours in the self-supervised features are worth. jobs/recipes/agriclip.lua has the paper's sizes and settings.
-- Run it with  copse train -n 2 jobs/crops-agriclip.lua ; the first run packs the pictures into shards.
local copse = require "copse"
local arg = copse.arg { data = "../../shared/data/crops", clip_epochs = 12, dino_epochs = 16, seed = 1 }

local function set(name)
  return copse.shards { source = arg.data .. "/" .. name .. ".csv", classes = arg.data .. "/classnames.txt" }
end

local function diseases(stage)
  return copse.zero_shot {
    name = "diseases-" .. stage, data = set "test", stages = { stage },
    templates = { "a photo of a {} leaf.", "a close-up of a {} leaf.", "{} on a leaf.", "a photo of {}." },
  }
end

return copse.job {
  name = "crops-agriclip", seed = arg.seed,
  model = copse.model {
    preset = "ViT-Micro-8", embed_dim = 128,
    image = copse.tower { patch = 16, layers = 4 },
    text = copse.tower { width = 128, layers = 2, heads = 2 },
    towers = {
      ssl = copse.tower { kind = "vit", variant = "dino", image_size = 48, patch = 8, width = 96, layers = 3, heads = 2 },
    },
  },
  tokenizer = copse.tokenizer { merges = "../../shared/data/clip-bpe/bpe_simple_vocab_16e6.txt.gz", context = 48 },
  data = { paired = set "train" },
  stages = {
    copse.stage {
      name = "clip", objective = copse.objective.clip {},
      epochs = arg.clip_epochs, global_batch = 128, grain = 32,
      crop = { 0.6, 1 }, flip = 0.5,
      optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.1 },
      schedule = copse.cosine { warmup_steps = 20 },
      grad_clip_norm = 1,
    },
    copse.stage {
      name = "dino",
      -- Smaller than published in all: outputs, head, crops; a sharper teacher that follows faster, because the run is short.
      objective = copse.objective.agriclip.dino {
        K = 512, hidden = 256, bottleneck = 64, local_crops = 4, local_size = 24, local_scale = { 0.1, 0.4 },
        teacher_temp = 0.02, warmup_teacher_temp = 0.02, momentum_start = 0.99, freeze_last_layer = 0,
      },
      epochs = arg.dino_epochs, global_batch = 64, grain = 32, clip_tensor = 3,
      optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.04, beta2 = 0.999, eps = 1e-8 },
      schedule = copse.cosine { warmup_epochs = 1, warmup = "linspace", final = 1e-5, final_weight_decay = 0.1 },
    },
    copse.stage {
      name = "align", grain = 32, global_batch = 32,
      objective = copse.objective.agriclip.align { solver = "exact", bias = "consistent", holdout = 0.1 },
    },
  },
  evaluate = {
    diseases "clip", diseases "align",
    copse.knn { name = "neighbours", data = set "test", bank = set "train", features = { "ssl.teacher", "pooled" }, stages = { "dino" } },
  },
}
