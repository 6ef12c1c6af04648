-- Methods head to head on one data set: plain CLIP, SigLIP, S-CLIP, BioCLIP, DALIP and AgriCLIP, three seeds each, all with equally many
-- images seen, tested on the same pictures. Look first, then run and compare:
--     copse sweep plan jobs/head-to-head.lua
--     copse sweep run jobs/head-to-head.lua
--     copse compare runs/head-to-head-rs-captions --baseline clip
-- --set set=crops takes the other set. Your own data: an entry in `sets` with the folder of its train.csv and test.csv, or shards.
-- --set start=FILE begins with trained weights of this preset in place of random ones.
local copse = require "copse"
local arg = copse.arg {
  set = "rs-captions", data = "../../shared/data", merges = "../../shared/data/clip-bpe/bpe_simple_vocab_16e6.txt.gz", start = "",
  images = 30720, -- that each run sees, those without captions and those of all stages included
  fraction = 0, -- of the pictures that have captions; 0: as the set has it below
  lr = 1e-3,
}

-- What is known of a set. `fraction`: of the pictures that have captions; the others are seen by S-CLIP, and by AgriCLIP's DINO.
-- `organisms`: the table has the ranks that BioCLIP's captions are made of. `keywords`: S-CLIP's file; without one, the classes.
local sets = {
  ["rs-captions"] = {
    train = "train.csv", fraction = 0.1, keywords = "keywords.txt", templates = { "an aerial photograph of {}." },
  },
  crops = {
    train = "train.csv", fraction = 1, organisms = true,
    templates = { "a photo of a {} leaf.", "a close-up of a {} leaf.", "{} on a leaf.", "a photo of {}." },
  },
}
local set = sets[arg.set] or error("--set set=" .. arg.set .. ": there are rs-captions and crops; others are added in this file", 0)
local folder = arg.data .. "/" .. arg.set .. "/"
local fraction = arg.fraction > 0 and arg.fraction or set.fraction
local semi = fraction < 1

local methods = { "clip", "siglip", "dalip", "agriclip" }
if semi then methods[#methods + 1] = "sclip" end
if set.organisms then methods[#methods + 1] = "bioclip" end

-- ---- what a method learns by ----

-- One stage that shows `images` images, `per_step` of them in a step.
local function contrastive(objective, images, per_step, fields)
  local stage = {
    name = "contrast", objective = objective, steps = images // per_step, global_batch = 128, grain = 32,
    crop = { 0.6, 1 }, flip = 0.5,
    optimizer = copse.adamw { lr = arg.lr, weight_decay = 0.1 },
    schedule = copse.cosine { warmup_steps = 20 },
    grad_clip_norm = 1,
  }
  for key, value in pairs(fields or {}) do stage[key] = value end
  return copse.stage(stage)
end

local stages = {
  clip = function() return { contrastive(copse.objective.clip {}, arg.images, 128) } end,
  siglip = function() return { contrastive(copse.objective.sigmoid {}, arg.images, 128) } end,
  bioclip = function() return { contrastive(copse.objective.bioclip {}, arg.images, 128) } end,
  -- The published 46 channels of heads of 128 are a third; so are 12 of 32.
  dalip = function() return { contrastive(copse.objective.dalip { heads = 4, reduced = 12 }, arg.images, 128) } end,
  -- Half of a step's pictures have captions.
  sclip = function()
    local objective = copse.objective.sclip {
      keywords = set.keywords and folder .. set.keywords or nil, keywords_from = set.keywords and "file" or "classes",
    }
    return { contrastive(objective, arg.images, 128, { global_batch = 64, rows = { unlabelled = 32 } }) }
  end,
  -- Half of the images teach CLIP, half another tower by itself; then a map from one to the other.
  agriclip = function()
    return {
      contrastive(copse.objective.clip {}, arg.images / 2, 128),
      copse.stage {
        name = "dino",
        objective = copse.objective.agriclip.dino {
          stream = semi and "all" or "paired",
          K = 512, hidden = 256, bottleneck = 64, local_crops = 4, local_size = 24, local_scale = { 0.1, 0.4 },
          teacher_temp = 0.02, warmup_teacher_temp = 0.02, momentum_start = 0.99, freeze_last_layer = 0,
        },
        steps = arg.images // 2 // 64, global_batch = 64, grain = 32, clip_tensor = 3,
        optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.04, beta2 = 0.999, eps = 1e-8 },
        schedule = copse.cosine { warmup_steps = 30, warmup = "linspace", final = 1e-5, final_weight_decay = 0.1 },
      },
      copse.stage {
        name = "align", grain = 32, global_batch = 32,
        objective = copse.objective.agriclip.align {
          stream = semi and "all" or "paired", solver = "exact", bias = "consistent", holdout = 0.1,
        },
      },
    }
  end,
}

-- ---- the rest is the same for all ----

return copse.sweep {
  name = "head-to-head-" .. arg.set,
  space = { method = methods },
  search = copse.grid {},
  seeds = { 1, 2, 3 },
  job = function(p)
    local agriclip, sclip = p.method == "agriclip", p.method == "sclip"
    local function train(fields)
      fields.source, fields.classes = folder .. set.train, folder .. "classnames.txt"
      return copse.shards(fields)
    end
    local test = copse.shards { source = folder .. "test.csv", classes = folder .. "classnames.txt" }
    local last = agriclip and { "align" } or { "contrast" }
    return copse.job {
      name = p.method, seed = p.seed,
      model = copse.model {
        weights = arg.start ~= "" and arg.start or nil,
        preset = "ViT-Micro-8", embed_dim = 128,
        image = copse.tower { patch = 16, layers = 4 },
        text = copse.tower { width = 128, layers = 2, heads = 2 },
        -- Tests can be compared where pictures are prepared alike: size, mean and deviation are those of the tower `image`.
        towers = agriclip and {
          ssl = copse.tower {
            kind = "vit", variant = "dino", image_size = 64, patch = 8, width = 96, layers = 3, heads = 2, interpolation = "bicubic",
            mean = { 0.48145466, 0.4578275, 0.40821073 }, std = { 0.26862954, 0.26130258, 0.27577711 },
          },
        } or nil,
      },
      tokenizer = copse.tokenizer { merges = arg.merges, context = 48 },
      data = {
        paired = train { fraction = fraction },
        unlabelled = sclip and train { rest_of = "paired" } or nil,
        all = semi and agriclip and train {} or nil,
      },
      stages = stages[p.method](),
      evaluate = {
        copse.zero_shot { name = arg.set, data = test, templates = set.templates, stages = last },
        not agriclip and copse.retrieval { name = arg.set .. "-pairs", data = test, k = { 1, 5, 10 } } or nil,
      },
    }
  end,
}
