-- One run of the study taxa.sh: 501 species from scratch, with the mixture of five texts or one of them alone, tested with each of
-- the five.
local copse = require "copse"
local arg = copse.arg { data = "../../../shared/data", types = "mixture", epochs = 16, seed = 0 }

local function set(name)
  return copse.shards { source = arg.data .. "/taxa/" .. name .. ".csv", classes = arg.data .. "/taxa/classnames.txt" }
end

local evaluate = {}
for _, text in ipairs { "com", "sci", "taxon", "sci_com", "taxon_com" } do
  evaluate[#evaluate + 1] = copse.zero_shot { name = text, data = set "test", text = text, templates = { "a photo of {}." } }
end

return copse.job {
  name = arg.types, seed = arg.seed,
  model = copse.model {
    preset = "ViT-Micro-8", embed_dim = 128,
    image = copse.tower { patch = 16, layers = 4 },
    text = copse.tower { width = 128, layers = 2, heads = 2 },
  },
  tokenizer = copse.tokenizer { merges = arg.data .. "/clip-bpe/bpe_simple_vocab_16e6.txt.gz", context = 48 },
  data = { paired = set "train" },
  stages = {
    copse.stage {
      objective = copse.objective.bioclip {
        text_types = arg.types == "mixture" and { sci = 1, com = 1, taxon = 1, sci_com = 1, taxon_com = 1 } or { [arg.types] = 1 },
      },
      epochs = arg.epochs, global_batch = 128, grain = 32,
      crop = { 0.6, 1 }, flip = 0.5,
      optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.1 },
      schedule = copse.cosine { warmup_steps = 20 },
      grad_clip_norm = 1,
    },
  },
  evaluate = evaluate,
}
