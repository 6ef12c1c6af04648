-- Birds, leaves, edible plants: CLIP from scratch on taxonomic names, then which of 501 species a test picture shows. With four
-- pictures for a species it learns to fit, not to know birds.
-- Run it with  copse train -n 2 jobs/taxa.lua ; the first run packs the pictures into shards.
local copse = require "copse"
local arg = copse.arg { data = "../../shared/data/taxa", epochs = 30, seed = 1 }

local function set(name)
  return copse.shards { source = arg.data .. "/" .. name .. ".csv", classes = arg.data .. "/classnames.txt" }
end

return copse.job {
  name = "taxa", seed = arg.seed,
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
    -- The text of a class is made of its taxonomic ranks and common name, as in the training captions.
    copse.zero_shot {
      name = "species", data = set "test", every = "epoch", text = "taxon_com", templates = { "a photo of {}." },
    },
    copse.validation_loss { name = "val", data = set "test", batch = 128, every = "epoch" },
  },
  checkpoint = copse.checkpoint { best = "species.top1" },
}
