-- Birds, leaves, edible plants: BioCLIP from scratch, then which of 501 species a test picture shows. The captions are composed of the
-- ranks and the common name of each picture's organism, in five ways. With four or five pictures for a species it learns to fit, not to
-- know birds.
-- Run it with  copse train -n 2 jobs/taxa.lua ; the first run packs the pictures into shards.
local copse = require "copse"
local arg = copse.arg { data = "../../shared/data/taxa", epochs = 30, seed = 1 }

local function set(name)
  return copse.shards { source = arg.data .. "/" .. name .. ".csv", classes = arg.data .. "/classnames.txt" }
end

-- Each test picture is compared with the names of all 501 species, written in each of the five ways. Besides top-1 it is told how far
-- down the ranks the answers are right: taxon_com.rank_family and so on.
local evaluate = {}
for _, text in ipairs { "com", "sci", "taxon", "sci_com", "taxon_com" } do
  evaluate[#evaluate + 1] = copse.zero_shot { name = text, data = set "test", text = text, templates = { "a photo of {}." } }
end
-- One labelled picture of each species, the others are told by the nearest one.
evaluate[#evaluate + 1] = copse.few_shot { name = "one-shot", data = set "test", shots = { 1 }, short_classes = "leave_out" }

return copse.job {
  name = "taxa", seed = arg.seed,
  model = copse.model { preset = "ViT-Micro-8" },
  tokenizer = copse.tokenizer { merges = "../../shared/data/clip-bpe/bpe_simple_vocab_16e6.txt.gz", context = 48 },
  data = { paired = set "train" },
  stages = {
    copse.stage {
      -- One way to write the names is drawn for each step; scope = "image" draws one for each picture.
      objective = copse.objective.bioclip { scope = "step" },
      epochs = arg.epochs, global_batch = 128, grain = 32,
      crop = { 0.5, 1 }, flip = 0.5, -- more variety than CLIP's own recipe: there are few pictures
      optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.1 },
      schedule = copse.cosine { warmup_steps = 50 },
      grad_clip_norm = 1,
    },
  },
  evaluate = evaluate,
}
