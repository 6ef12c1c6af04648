-- The species of taxa.lua without texts: a classifier on the image tower, for comparison in few-shot tests as in the BioCLIP paper.
--   copse train -n 2 jobs/taxa-classes.lua                                    a head for each of the seven ranks
--   copse train -n 2 jobs/taxa-classes.lua --set objective=bioclip.ce         one head over all organisms
local copse = require "copse"
local arg = copse.arg { data = "../../shared/data/taxa", objective = "bioclip.hierarchical_ce", epochs = 30, seed = 1 }

local function set(name)
  return copse.shards { source = arg.data .. "/" .. name .. ".csv", classes = arg.data .. "/classnames.txt" }
end

return copse.job {
  name = "taxa-classes", seed = arg.seed,
  model = copse.model { preset = "ViT-Micro-8" },
  data = { paired = set "train" },
  stages = {
    copse.stage {
      objective = copse.objective[arg.objective] {},
      epochs = arg.epochs, global_batch = 128, grain = 32, tail = "keep",
      crop = { 0.5, 1 }, flip = 0.5,
      optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.1 },
      schedule = copse.cosine { warmup_steps = 50 },
      grad_clip_norm = 1,
    },
  },
  -- One labelled picture a species, and the nearest pictures of the training set.
  evaluate = {
    copse.few_shot {
      name = "one-shot", data = set "test", shots = { 1 }, short_classes = "leave_out",
    },
    copse.knn { name = "neighbours", data = set "test", bank = set "train", k = 5 },
  },
}
