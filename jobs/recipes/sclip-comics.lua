-- S-CLIP on comics (Mo et al., NeurIPS 2023, arXiv:2305.14095): all captioned pictures of the Simpsons set, and a folder of pictures
-- of its characters without captions. What differs from the published scripts is said in sclip-remote-sensing.lua.
-- Published: the sets, 679 of 755 pairs for training (drawn with seed 42), the lists of keywords (yake-50, -100, -200, -300). Not
-- published, and taken from remote sensing here: batch, rate, warm-up, precision; from fashion: epochs; a guess: which list.
-- Data, below `data`: captions-train/, captions-val/ and characters/ with shards (captions cut to their first 77 characters),
-- yake-100.txt, merges.txt.gz (CLIP's tokenizer).
local copse = require "copse"
local arg = copse.arg {
  data = "../../../simpsons", weights = "../../../simpsons/ViT-B-32-openai.safetensors", keywords = "yake-100.txt", epochs = 10,
  seed = 0,
}

return copse.job {
  name = "sclip-comics", seed = arg.seed,
  model = copse.model { preset = "ViT-B-32-quickgelu", weights = arg.weights ~= "" and arg.weights or nil },
  tokenizer = copse.tokenizer { merges = arg.data .. "/merges.txt.gz" },
  data = {
    paired = copse.shards { arg.data .. "/captions-train/*.h5" },
    unlabelled = copse.shards { arg.data .. "/characters/*.h5" },
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
  evaluate = { copse.retrieval { name = "captions", data = arg.data .. "/captions-val/*.h5", k = { 1, 5, 10 } } },
}
