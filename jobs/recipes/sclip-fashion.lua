-- S-CLIP on product photographs (Mo et al., NeurIPS 2023, arXiv:2305.14095): a tenth of Fashion200k, FashionGen and Polyvore has
-- captions. Settings of the published scripts; what differs is said in sclip-remote-sensing.lua, and beside it: a product has one
-- picture in our shards, while the scripts draw one of its pictures at each visit.
-- Data, below `data`: a folder of shards for each set named below, class-name.txt (the 56 published keywords, `pouch` twice),
-- merges.txt.gz (CLIP's tokenizer). FashionGen's captions are name + ". " + description, Polyvore's title + "." + description.
local copse = require "copse"
local arg = copse.arg {
  data = "../../../fashion", weights = "../../../fashion/ViT-B-32-openai.safetensors", fraction = 0.1, epochs = 10, seed = 0,
}

local function shards(name) return arg.data .. "/" .. name .. "/*.h5" end
local train = { shards "fashion200k-train", shards "fashiongen-train", shards "polyvore-train" }

local evaluate = {}
for _, set in ipairs { "fashion200k-category", "fashion200k-subcategory", "fashiongen-category", "fashiongen-subcategory", "polyvore-category" } do
  evaluate[#evaluate + 1] = copse.zero_shot { name = set, data = shards(set), templates = { "a photo of a {}." } }
end
for _, set in ipairs { "fashion200k", "fashiongen", "polyvore" } do
  evaluate[#evaluate + 1] = copse.retrieval { name = set, data = shards(set .. "-val"), k = { 1, 5, 10 } }
end

return copse.job {
  name = "sclip-fashion", seed = arg.seed,
  model = copse.model { preset = "ViT-B-32-quickgelu", weights = arg.weights ~= "" and arg.weights or nil },
  tokenizer = copse.tokenizer { merges = arg.data .. "/merges.txt.gz" },
  data = {
    paired = copse.shards { train[1], train[2], train[3], fraction = arg.fraction, seed = arg.seed, draw = "mt19937" },
    unlabelled = copse.shards { train[1], train[2], train[3], rest_of = "paired" },
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
