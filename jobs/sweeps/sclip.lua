-- S-CLIP's ablation: how pictures without captions get their targets (`plan`), and how many captions there are (`fraction`). "none" is
-- plain CLIP on the captioned pictures alone, with as many of them in a step.
--     copse sweep plan jobs/sweeps/sclip.lua
--     copse sweep run jobs/sweeps/sclip.lua
--     copse compare runs/ablation-sclip --by plan,fraction --baseline none,0.1
-- Made for fine-tuning: --set start=FILE begins with trained weights of this preset.
local copse = require "copse"
local arg = copse.arg { data = "../../../shared/data", start = "", steps = 200, lr = 1e-3 }
local folder = arg.data .. "/rs-captions/"

return copse.sweep {
  name = "ablation-sclip",
  space = {
    plan = { "none", "hard-image", "soft-image", "ot-image", "ot-image + keywords" },
    fraction = { 0.1, 0.3 },
  },
  search = copse.grid {},
  seeds = { 1, 2, 3 },
  job = function(p)
    local semi = p.plan ~= "none"
    local function train(fields)
      fields.source = folder .. "train.csv"
      return copse.shards(fields)
    end
    local test = copse.shards { source = folder .. "test.csv", classes = folder .. "classnames.txt" }
    return copse.job {
      name = "sclip", seed = p.seed,
      model = copse.model {
        weights = arg.start ~= "" and arg.start or nil,
        preset = "ViT-Micro-8", embed_dim = 128,
        image = copse.tower { patch = 16, layers = 4 },
        text = copse.tower { width = 128, layers = 2, heads = 2 },
      },
      tokenizer = copse.tokenizer { merges = arg.data .. "/clip-bpe/bpe_simple_vocab_16e6.txt.gz", context = 48 },
      data = { paired = train { fraction = p.fraction }, unlabelled = semi and train { rest_of = "paired" } or nil },
      stages = {
        copse.stage {
          objective = semi and copse.objective.sclip {
            plan = p.plan:match "^%S+", keywords = folder .. "keywords.txt", keyword_term = p.plan:find "keywords" ~= nil,
          } or copse.objective.clip {},
          steps = arg.steps, global_batch = 64, grain = 32, rows = semi and { unlabelled = 32 } or nil,
          crop = { 0.6, 1 }, flip = 0.5,
          optimizer = copse.adamw { lr = arg.lr, weight_decay = 0.2 },
          schedule = copse.cosine { warmup_steps = 10 },
          grad_clip_norm = 1,
        },
      },
      evaluate = {
        copse.zero_shot { name = "scenes", data = test, templates = { "an aerial photograph of {}." } },
        copse.retrieval { name = "pairs", data = test, k = { 1, 5, 10 } },
      },
    }
  end,
}
