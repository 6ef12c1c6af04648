-- BioCLIP 2 (Gu et al., NeurIPS 2025, arXiv:2505.23883): ViT-L/14 from LAION-2B weights, trained on TreeOfLife-200M beside a stream of
-- general captions, so that what the model knew is not forgotten. Settings of the release; what differs from bioclip.lua's paper is said
-- there, and beside it:
--   mean, std   the start was trained with 0.5, the release with ImageNet's; ours are CLIP's, for training and evaluation
--   optimizer   betas, eps and crops are not stated for the release: those of BioCLIP
-- Data, below `data`: shards train-*.h5 and val-*.h5 (TreeOfLife-200M), rare-*.h5 (Rare Species), laion-*.h5 (the first 4,000 archives of
-- LAION-2B-en), and merges.txt.gz, CLIP's tokenizer.
local copse = require "copse"
local arg = copse.arg {
  data = "../../../treeoflife-200m", weights = "../../../treeoflife-200m/ViT-L-14-laion2b_s32b_b82k.safetensors",
  epochs = 30, warmup = 1875, global_batch = 90112, -- organisms; there: 32 GPUs of 2,816, and 320 general pairs each
}

return copse.job {
  name = "bioclip-2", seed = 42, precision = "auto",
  parts = 256, -- the most ranks that a step can be dealt to
  model = copse.model {
    preset = "ViT-L-14", weights = arg.weights ~= "" and arg.weights or nil,
    image = copse.tower { mean = { 0.48145466, 0.4578275, 0.40821073 }, std = { 0.26862954, 0.26130258, 0.27577711 } },
  },
  tokenizer = copse.tokenizer { merges = arg.data .. "/merges.txt.gz" },
  data = {
    paired = copse.shards { arg.data .. "/train-*.h5" },
    general = copse.shards { arg.data .. "/laion-*.h5" },
  },
  stages = {
    copse.stage {
      -- The general pairs have a projection of their own, and are contrasted among themselves.
      objective = copse.objective.bioclip { replay = "general", replay_weight = 1 },
      epochs = arg.epochs, global_batch = arg.global_batch, grain = 88, rows = { general = 10 }, -- 10,240 general pairs a step
      crop = { 0.9, 1 }, aspect = { 3 / 4, 4 / 3 },
      optimizer = copse.adamw { lr = 1e-4, weight_decay = 0.2, beta1 = 0.9, beta2 = 0.98, eps = 1e-6 },
      schedule = copse.cosine { warmup_steps = arg.warmup },
    },
  },
  evaluate = {
    copse.validation_loss { name = "val", data = arg.data .. "/val-*.h5", batch = 2816, grain = 88, every = "epoch" },
    copse.zero_shot {
      name = "rare", data = arg.data .. "/rare-*.h5", text = "taxon_com", templates = "imagenet", every = "epoch",
    },
    copse.few_shot { name = "rare-shots", data = arg.data .. "/rare-*.h5", shots = { 1, 5 }, folds = 5 },
  },
  checkpoint = copse.checkpoint { seconds = 1800, best = "val.loss" },
}
