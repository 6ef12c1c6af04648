-- DALIP's ablation: the share of general pictures that is mixed in (`general`: satellite tiles beside leaves of crops, so that tiles are
-- not unlearnt), and by which scores a trained model is tested: w1 of the pooled features, w2 of the distances between channels.
--     copse sweep plan jobs/sweeps/dalip.lua
--     copse sweep run jobs/sweeps/dalip.lua
--     copse compare runs/ablation-dalip --by general --baseline 0.25
local copse = require "copse"
local arg = copse.arg { data = "../../../shared/data", steps = 240 }

local function set(name, file, weight)
  local folder = arg.data .. "/" .. name .. "/"
  return copse.shards { source = folder .. file .. ".csv", classes = folder .. "classnames.txt", weight = weight }
end

local tests = {
  crops = { "a photo of a {} leaf.", "{} on a leaf." },
  ["rs-eurosat"] = { "a satellite photo of {}." },
}
local scores = { first = { 1, 0 }, second = { 0, 1 }, both = { 0.5, 0.5 }, ["mostly-first"] = { 0.8, 0.2 } }

return copse.sweep {
  name = "ablation-dalip",
  space = { general = { 0, 0.25, 0.5 } },
  search = copse.grid {},
  seeds = { 1, 2, 3 },
  job = function(p)
    local evaluate = {}
    for name, templates in pairs(tests) do
      for score, weights in pairs(scores) do
        evaluate[#evaluate + 1] = copse.zero_shot {
          name = name .. "-" .. score, data = set(name, "test"), templates = templates, score = weights,
        }
      end
    end
    return copse.job {
      name = "dalip", seed = p.seed,
      model = copse.model {
        preset = "ViT-Micro-8", embed_dim = 128,
        image = copse.tower { patch = 16, layers = 4 },
        text = copse.tower { width = 128, layers = 2, heads = 2 },
      },
      tokenizer = copse.tokenizer { merges = arg.data .. "/clip-bpe/bpe_simple_vocab_16e6.txt.gz", context = 48 },
      data = {
        paired = p.general == 0 and set("crops", "train")
          or copse.mixture { set("crops", "train", 1 - p.general), set("rs-eurosat", "train", p.general) },
      },
      stages = {
        copse.stage {
          -- The published 46 channels of heads of 128 are a third; so are 12 of 32.
          objective = copse.objective.dalip { heads = 4, reduced = 12 },
          steps = arg.steps, global_batch = 128, grain = 32,
          crop = { 0.6, 1 }, flip = 0.5,
          optimizer = copse.adamw { lr = 1e-3, weight_decay = 0.1 },
          schedule = copse.cosine { warmup_steps = 20 },
          grad_clip_norm = 1,
        },
      },
      evaluate = evaluate,
    }
  end,
}
