-- One run of the study rs-captions.sh: aerial scenes of which a tenth has captions, learnt in one of five ways from the same start.
-- All ways make the same number of steps with 64 captioned pictures each; the semi-supervised ones see 64 more without captions.
local copse = require "copse"
local arg = copse.arg { data = "../../../shared/data", start = "start.h5", method = "sclip", steps = 300, lr = 3e-4, seed = 0 }
local folder = arg.data .. "/rs-captions/"

local objective, unlabelled
if arg.method == "clip-10" or arg.method == "clip-100" then
  objective = copse.objective.clip {}
else
  unlabelled = copse.shards { source = folder .. "train_unpaired90.csv" }
  objective = copse.objective.sclip {
    plan = ({ ["hard-pl"] = "hard-image", ["soft-pl"] = "soft-image", sclip = "ot-image" })[arg.method],
    keywords = folder .. "keywords.txt",
    keyword_term = arg.method == "sclip", -- S-CLIP's own; the other two have the caption term alone
  }
end

local test = copse.shards { source = folder .. "test.csv", classes = folder .. "classnames.txt" }

return copse.job {
  name = arg.method, seed = arg.seed,
  model = copse.model {
    weights = arg.start,
    preset = "ViT-Micro-8", embed_dim = 128,
    image = copse.tower { patch = 16, layers = 4 },
    text = copse.tower { width = 128, layers = 2, heads = 2 },
  },
  tokenizer = copse.tokenizer { merges = arg.data .. "/clip-bpe/bpe_simple_vocab_16e6.txt.gz", context = 48 },
  data = {
    paired = copse.shards { source = folder .. (arg.method == "clip-100" and "train.csv" or "train_paired10.csv") },
    unlabelled = unlabelled,
  },
  stages = {
    copse.stage {
      objective = objective,
      steps = arg.steps, global_batch = 64, grain = 32,
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
