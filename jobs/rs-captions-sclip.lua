-- Aerial scenes of which a tenth has captions by people: S-CLIP learns from those pairs, from the other pictures without captions, and
-- from a list of keywords. Compare it with  copse train -n 2 jobs/rs-captions-sclip.lua --set method=clip , which sees the pairs alone.
-- S-CLIP is made for fine-tuning: give it a trained model, --set weights=../runs/crops/checkpoints/step-....h5 .
local copse = require "copse"
local arg = copse.arg { data = "../../shared/data/rs-captions", method = "sclip", weights = "", epochs = 100, seed = 1 }
local semi = arg.method == "sclip"

return copse.job {
  name = "rs-captions-" .. arg.method, seed = arg.seed,
  model = copse.model { preset = "ViT-Micro-8", weights = arg.weights ~= "" and arg.weights or nil },
  tokenizer = copse.tokenizer { merges = "../../shared/data/clip-bpe/bpe_simple_vocab_16e6.txt.gz" },
  data = {
    paired = copse.shards { source = arg.data .. "/train_paired10.csv" },
    unlabelled = semi and copse.shards { source = arg.data .. "/train_unpaired90.csv" } or nil,
  },
  stages = {
    copse.stage {
      objective = semi and copse.objective.sclip { keywords = arg.data .. "/keywords.txt" } or copse.objective.clip {},
      -- 180 pairs: two steps an epoch. Each grain has 32 pairs and, beside them, 32 pictures without captions.
      epochs = arg.epochs, global_batch = 64, grain = 32, rows = semi and { unlabelled = 32 } or nil,
      crop = { 0.5, 1 }, flip = 0.5, -- more variety than CLIP's own recipe: there are few pictures
      optimizer = copse.adamw { lr = 5e-4, weight_decay = 0.2 },
      schedule = copse.cosine { warmup_steps = 10 },
      grad_clip_norm = 1,
    },
  },
  evaluate = {
    copse.zero_shot {
      name = "scenes", templates = "remote-sensing",
      data = copse.shards { source = arg.data .. "/test.csv", classes = arg.data .. "/classnames.txt" },
    },
    copse.retrieval { name = "pairs", data = copse.shards { source = arg.data .. "/test.csv" } },
  },
}
