-- AgriCLIP's ablation, the 2x2 grid: a DINO tower and a CLIP that have seen leaves of crops ("adapted") or other pictures alone
-- ("default": produce and fashion), joined by a map in closed form and tested on leaves.
--     copse sweep plan jobs/sweeps/agriclip.lua
--     copse sweep run jobs/sweeps/agriclip.lua
--     copse compare runs/ablation-agriclip --by dino,clip --baseline default,default
local copse = require "copse"
local arg = copse.arg { data = "../../../shared/data", clip_steps = 150, dino_steps = 400 }

local function set(name, file)
  local folder = arg.data .. "/" .. name .. "/"
  return copse.shards { source = folder .. file .. ".csv", classes = folder .. "classnames.txt" }
end

local function clip(name, stream, warmup)
  return copse.stage {
    name = name, objective = copse.objective.clip { stream = stream },
    steps = arg.clip_steps, global_batch = 128, grain = 32,
    crop = { 0.6, 1 }, flip = 0.5,
    optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.1 },
    schedule = copse.cosine { warmup_steps = warmup },
    grad_clip_norm = 1,
  }
end

return copse.sweep {
  name = "ablation-agriclip",
  space = { dino = { "default", "adapted" }, clip = { "default", "adapted" } },
  search = copse.grid {},
  seeds = { 1, 2, 3 },
  job = function(p)
    local stages = { clip("clip", "general", 20) }
    if p.clip == "adapted" then stages[#stages + 1] = clip("clip-adapted", "leaves", 20) end
    stages[#stages + 1] = copse.stage {
      name = "dino",
      objective = copse.objective.agriclip.dino {
        stream = p.dino == "adapted" and "leaves" or "general",
        K = 512, hidden = 256, bottleneck = 64, local_crops = 4, local_size = 24, local_scale = { 0.1, 0.4 },
        teacher_temp = 0.02, warmup_teacher_temp = 0.02, momentum_start = 0.99, freeze_last_layer = 0,
      },
      steps = arg.dino_steps, global_batch = 64, grain = 32, clip_tensor = 3,
      optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.04, beta2 = 0.999, eps = 1e-8 },
      schedule = copse.cosine { warmup_steps = 30, warmup = "linspace", final = 1e-5, final_weight_decay = 0.1 },
    }
    stages[#stages + 1] = copse.stage {
      name = "align", grain = 32, global_batch = 32,
      objective = copse.objective.agriclip.align { stream = "leaves", solver = "exact", bias = "consistent", holdout = 0.1 },
    }
    return copse.job {
      name = "agriclip", seed = p.seed,
      model = copse.model {
        preset = "ViT-Micro-8", embed_dim = 128,
        image = copse.tower { patch = 16, layers = 4 },
        text = copse.tower { width = 128, layers = 2, heads = 2 },
        towers = {
          ssl = copse.tower { kind = "vit", variant = "dino", image_size = 48, patch = 8, width = 96, layers = 3, heads = 2 },
        },
      },
      tokenizer = copse.tokenizer { merges = arg.data .. "/clip-bpe/bpe_simple_vocab_16e6.txt.gz", context = 48 },
      data = { general = copse.mixture { set("produce", "train"), set("fashion", "train") }, leaves = set("crops", "train") },
      stages = stages,
      evaluate = {
        copse.zero_shot {
          name = "diseases", data = set("crops", "test"), stages = { "align" },
          templates = { "a photo of a {} leaf.", "a close-up of a {} leaf.", "{} on a leaf.", "a photo of {}." },
        },
        copse.knn {
          name = "neighbours", data = set("crops", "test"), bank = set("crops", "train"), k = 20,
          features = { "ssl.teacher", "pooled" }, stages = { "dino" },
        },
      },
    }
  end,
}
