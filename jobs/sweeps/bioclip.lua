-- BioCLIP's ablation: by which loss names are learnt, and how they are written. The classifiers (ce: one head over all organisms,
-- hierarchical_ce: one for each rank) have no texts: `text` does not matter to them, so each of them is one trial.
--     copse sweep plan jobs/sweeps/bioclip.lua
--     copse sweep run jobs/sweeps/bioclip.lua
--     copse compare runs/ablation-bioclip --by loss,text --baseline clip,mixture
local copse = require "copse"
local arg = copse.arg { data = "../../../shared/data", epochs = 16 }
local folder = arg.data .. "/taxa/"

local function set(name)
  return copse.shards { source = folder .. name .. ".csv", classes = folder .. "classnames.txt" }
end

local function objective(p)
  if p.loss == "ce" then return copse.objective.bioclip.ce {} end
  if p.loss == "hierarchical_ce" then return copse.objective.bioclip.hierarchical_ce {} end
  if p.text == "mixture" then return copse.objective.bioclip {} end
  local types = { sci = 0, com = 0, taxon = 0, sci_com = 0, taxon_com = 0 }
  types[p.text] = 1
  return copse.objective.bioclip { text_types = types }
end

return copse.sweep {
  name = "ablation-bioclip",
  space = {
    loss = { "clip", "ce", "hierarchical_ce" },
    text = { "mixture", "com", "sci", "taxon", "sci_com", "taxon_com" },
  },
  search = copse.grid {},
  seeds = { 1, 2, 3 },
  job = function(p)
    -- One labelled picture of each species, the others are told by the nearest one: all losses can be compared by that.
    local evaluate = { copse.few_shot { name = "one-shot", data = set "test", shots = { 1 }, short_classes = "leave_out" } }
    for _, text in ipairs(p.loss == "clip" and { "com", "sci", "taxon_com" } or {}) do
      evaluate[#evaluate + 1] = copse.zero_shot { name = text, data = set "test", text = text, templates = { "a photo of {}." } }
    end
    return copse.job {
      name = p.loss, seed = p.seed,
      model = copse.model {
        preset = "ViT-Micro-8", embed_dim = 128,
        image = copse.tower { patch = 16, layers = 4 },
        text = copse.tower { width = 128, layers = 2, heads = 2 },
      },
      tokenizer = copse.tokenizer { merges = arg.data .. "/clip-bpe/bpe_simple_vocab_16e6.txt.gz", context = 48 },
      data = { paired = set "train" },
      stages = {
        copse.stage {
          objective = objective(p),
          epochs = arg.epochs, global_batch = 128, grain = 32,
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
