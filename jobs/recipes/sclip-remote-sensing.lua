-- S-CLIP on aerial pictures (Mo et al., NeurIPS 2023, arXiv:2305.14095): a tenth of RSICD, UCM and Sydney has captions, of the rest
-- only the pictures are used. Settings of the published scripts, which ran 4 processes with 32 pairs and 32 other pictures each.
-- Unlike there:
--   model       CLIP's ViT-B/32, one of the paper's other architectures, in place of CLIP's RN50
--   gradient    exact; the scripts divide that of pictures and captions by their 4 processes: published_ranks = 4 does the same
--   precision   fp32; there fp16 with loss scaling
--   retrieval   with all captions of a picture; there with one of them, drawn at random
-- Data, below `data`: a folder of shards for each set named below, class-name.txt (the 45 published keywords), merges.txt.gz (CLIP's
-- tokenizer).
local copse = require "copse"
local arg = copse.arg {
  data = "../../../remote-sensing", weights = "../../../remote-sensing/ViT-B-32-openai.safetensors",
  fraction = 0.1,      -- of the pictures that keep their captions
  unlabelled = "rest", -- or "resisc45": pictures from elsewhere (the paper's L ≠ U)
  epochs = 25, seed = 0, -- the seed draws the split too; 0, 1 and 2 were published
}

local function shards(name) return arg.data .. "/" .. name .. "/*.h5" end
local train = { shards "rsicd-train", shards "ucm-train", shards "sydney-train" } -- in this order the split is the published one

local evaluate = {}
for _, set in ipairs { "rsicd-cls", "ucm-cls", "whu-rs19", "rsscn7", "aid" } do
  evaluate[#evaluate + 1] = copse.zero_shot {
    name = set, data = shards(set), templates = { "an aerial photograph of {}." }, every = set == "rsicd-cls" and 40 or nil,
  }
end
for _, set in ipairs { "rsicd", "ucm", "sydney" } do
  evaluate[#evaluate + 1] = copse.retrieval { name = set, data = shards(set .. "-val"), k = { 1, 5, 10 } }
end

return copse.job {
  name = "sclip-remote-sensing", seed = arg.seed,
  model = copse.model { preset = "ViT-B-32-quickgelu", weights = arg.weights ~= "" and arg.weights or nil },
  tokenizer = copse.tokenizer { merges = arg.data .. "/merges.txt.gz" },
  data = {
    paired = copse.shards { train[1], train[2], train[3], fraction = arg.fraction, seed = arg.seed, draw = "mt19937" },
    unlabelled = arg.unlabelled == "rest" and copse.shards { train[1], train[2], train[3], rest_of = "paired" }
      or copse.shards { shards(arg.unlabelled) },
  },
  stages = {
    copse.stage {
      objective = copse.objective.sclip { keywords = arg.data .. "/class-name.txt" },
      epochs = arg.epochs, global_batch = 128, grain = 32, rows = { unlabelled = 32 },
      crop = { 0.9, 1 }, aspect = { 3 / 4, 4 / 3 },
      optimizer = copse.adamw { lr = 5e-5, weight_decay = 0.2, beta1 = 0.9, beta2 = 0.98, eps = 1e-6 },
      schedule = copse.cosine { warmup_steps = 10 },
    },
  },
  evaluate = evaluate,
}
