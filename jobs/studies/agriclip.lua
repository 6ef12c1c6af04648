-- One run of the study agriclip.sh, by `part`. "clip": small towers learn by contrast; "dino": an image tower learns by itself; either from
-- pictures `on` produce and fashion (default) or leaves of crops (adapted). "align": towers of such runs, from `clip` and `ssl`, stand
-- still, and a linear map between the two image towers is found in closed form, in four stages: scales taken out of the bias
-- consistently or as the published code does it; texts of the CLIP that is mapped to, or of the default one (`stock`), as published.
-- "untrained": what the neighbours in the features of a DINO tower are worth before it has learnt anything.
local copse = require "copse"
local arg = copse.arg {
  data = "../../../shared/data", part = "clip", on = "default", clip = "", ssl = "", stock = "",
  clip_steps = 150, dino_steps = 400, seed = 0,
}

local function set(name, file)
  local folder = arg.data .. "/" .. name .. "/"
  return copse.shards { source = folder .. file .. ".csv", classes = folder .. "classnames.txt" }
end

local function file(name)
  return name ~= "" and name or nil
end

-- ---- stages ----

local clip = copse.stage {
  name = "clip", objective = copse.objective.clip {},
  steps = arg.clip_steps, global_batch = 128, grain = 32,
  crop = { 0.6, 1 }, flip = 0.5,
  optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.1 },
  schedule = copse.cosine { warmup_steps = 20 },
  grad_clip_norm = 1,
}

local dino = copse.stage {
  name = "dino",
  objective = copse.objective.agriclip.dino {
    K = 512, hidden = 256, bottleneck = 64, local_crops = 4, local_size = 24, local_scale = { 0.1, 0.4 },
    teacher_temp = 0.02, warmup_teacher_temp = 0.02, momentum_start = 0.99, freeze_last_layer = 0,
  },
  steps = arg.dino_steps, global_batch = 64, grain = 32, clip_tensor = 3,
  optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.04, beta2 = 0.999, eps = 1e-8 },
  schedule = copse.cosine { warmup_steps = 30, warmup = "linspace", final = 1e-5, final_weight_decay = 0.1 },
}

local function align(name, bias, text)
  return copse.stage {
    name = name, grain = 32, global_batch = 32,
    objective = copse.objective.agriclip.align { from = "ssl", solver = "exact", bias = bias, text = text, holdout = 0.1 },
  }
end

-- ---- evaluations, all of leaves ----

local function diseases(stage)
  return copse.zero_shot {
    name = stage, data = set("crops", "test"), stages = { stage },
    templates = { "a photo of a {} leaf.", "a close-up of a {} leaf.", "{} on a leaf.", "a photo of {}." },
  }
end

local function neighbours(stage, tower)
  return copse.knn {
    name = "neighbours", data = set("crops", "test"), bank = set("crops", "train"), k = 20,
    features = { tower, "pooled" }, stages = { stage },
  }
end

-- ---- parts ----

local stages, evaluate
if arg.part == "align" then
  stages = {
    align("consistent", "consistent", "text"), align("code", "code", "text"),
    align("consistent-stock", "consistent", "stock"), align("code-stock", "code", "stock"),
  }
  evaluate = { diseases "consistent", diseases "code", diseases "consistent-stock", diseases "code-stock" }
elseif arg.part == "untrained" then
  stages = { align("untrained", "consistent", "text") }
  evaluate = { neighbours("untrained", "ssl") }
elseif arg.part == "dino" then
  stages, evaluate = { dino }, { neighbours("dino", "ssl.teacher") }
else
  stages, evaluate = { clip }, { diseases "clip" }
end

local has_ssl, has_stock = arg.part ~= "clip", arg.part == "align"
local paired = set("crops", "train")
if (arg.part == "clip" or arg.part == "dino") and arg.on == "default" then
  paired = copse.mixture { set("produce", "train"), set("fashion", "train") }
end

return copse.job {
  name = arg.part, seed = arg.seed,
  model = copse.model {
    weights = file(arg.clip),
    preset = "ViT-Micro-8", embed_dim = 128,
    image = copse.tower { patch = 16, layers = 4 },
    text = copse.tower { width = 128, layers = 2, heads = 2 },
    towers = {
      ssl = has_ssl and copse.tower {
        kind = "vit", variant = "dino", image_size = 48, patch = 8, width = 96, layers = 3, heads = 2,
        weights = file(arg.ssl), weights_from = arg.ssl ~= "" and "ssl.teacher" or nil,
      } or nil,
      stock = has_stock and copse.tower {
        kind = "text", width = 128, layers = 2, heads = 2, weights = file(arg.stock), weights_from = arg.stock ~= "" and "text" or nil,
      } or nil,
    },
  },
  tokenizer = copse.tokenizer { merges = arg.data .. "/clip-bpe/bpe_simple_vocab_16e6.txt.gz", context = 48 },
  data = { paired = paired },
  stages = stages,
  evaluate = evaluate,
}
