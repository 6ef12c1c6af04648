-- S-CLIP on scientific figures (Mo et al., NeurIPS 2023, arXiv:2305.14095): a tenth of SciCap has captions. What differs from the
-- published scripts is said in sclip-remote-sensing.lua.
-- Published: the set, its tenth, the lists of keywords (yake-50, -100, -200, -300). Not published, and taken from remote sensing here:
-- batch, rate, warm-up, precision; from fashion: epochs; a guess: which list.
-- Data, below `data`: scicap-train/ and scicap-val/ with shards (figures without sub-figures, captions cut to their first 77
-- characters), yake-100.txt, merges.txt.gz (CLIP's tokenizer).
local copse = require "copse"
local arg = copse.arg {
  data = "../../../scicap", weights = "../../../scicap/ViT-B-32-openai.safetensors", fraction = 0.1,
  keywords = "yake-100.txt", epochs = 10, seed = 0,
}

return copse.job {
  name = "sclip-figures", seed = arg.seed,
  model = copse.model { preset = "ViT-B-32-quickgelu", weights = arg.weights ~= "" and arg.weights or nil },
  tokenizer = copse.tokenizer { merges = arg.data .. "/merges.txt.gz" },
  data = {
    paired = copse.shards { arg.data .. "/scicap-train/*.h5", fraction = arg.fraction, seed = arg.seed, draw = "mt19937" },
    unlabelled = copse.shards { arg.data .. "/scicap-train/*.h5", rest_of = "paired" },
  },
  stages = {
    copse.stage {
      objective = copse.objective.sclip { keywords = arg.data .. "/" .. arg.keywords },
      epochs = arg.epochs, global_batch = 128, grain = 32, rows = { unlabelled = 32 },
      crop = { 0.9, 1 }, aspect = { 3 / 4, 4 / 3 },
      optimizer = copse.adamw { lr = 5e-5, weight_decay = 0.2, beta1 = 0.9, beta2 = 0.98, eps = 1e-6 },
      schedule = copse.cosine { warmup_steps = 10 },
    },
  },
  evaluate = { copse.retrieval { name = "scicap", data = arg.data .. "/scicap-val/*.h5", k = { 1, 5, 10 } } },
}
