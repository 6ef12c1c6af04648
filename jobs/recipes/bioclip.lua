-- BioCLIP (Stevens et al., CVPR 2024, arXiv:2311.18803): CLIP's ViT-B/16, trained on pictures of organisms with five kinds of names.
-- The settings are those of the released model on TreeOfLife-10M. Unlike there:
--   pictures    are seen once an epoch, in a new order; there shards were drawn with replacement
--   squashing   the released pictures are squashed to 224 x 224 beforehand; ours are packed as they come, and cropped
--   mean, std   CLIP's own, for training and evaluation; the published training used ImageNet's, its evaluation CLIP's
--   activation  QuickGELU, that of the start; the released model was trained with it, but is evaluated with exact GELU
--   precision   "auto", bf16 where the CPU is fast at it; there fp16 with loss scaling
-- Data, below `data`: shards train-*.h5 and val-*.h5 (TreeOfLife-10M), rare-*.h5 (Rare Species), with the seven ranks as text
-- fields, and merges.txt.gz, CLIP's tokenizer.
local copse = require "copse"
local arg = copse.arg {
  data = "../../../treeoflife-10m", weights = "../../../treeoflife-10m/ViT-B-16-openai.safetensors",
  epochs = 100, warmup = 1000, global_batch = 32768, -- there: 8 GPUs of 4,096, nothing accumulated
}

return copse.job {
  name = "bioclip", seed = 42, precision = "auto",
  parts = 128, -- the most ranks that a step can be dealt to
  model = copse.model {
    preset = "ViT-B-16-quickgelu", weights = arg.weights ~= "" and arg.weights or nil,
    image = copse.tower {
      mean = { 0.48145466, 0.4578275, 0.40821073 }, std = { 0.26862954, 0.26130258, 0.27577711 },
      interpolation = "bicubic", resize = "crop",
    },
  },
  tokenizer = copse.tokenizer { merges = arg.data .. "/merges.txt.gz" },
  data = { paired = copse.shards { arg.data .. "/train-*.h5" } },
  stages = {
    copse.stage {
      -- One of the five texts for all pictures of a step, drawn as the published code does; the paper says: for each picture,
      -- scope = "image".
      objective = copse.objective.bioclip {
        text_types = { sci = 1, com = 1, taxon = 1, sci_com = 1, taxon_com = 1 }, scope = "step",
      },
      epochs = arg.epochs, global_batch = arg.global_batch, grain = 64,
      crop = { 0.9, 1 }, aspect = { 3 / 4, 4 / 3 },
      optimizer = copse.adamw { lr = 1e-4, weight_decay = 0.2, beta1 = 0.9, beta2 = 0.98, eps = 1e-6 },
      schedule = copse.cosine { warmup_steps = arg.warmup },
    },
  },
  evaluate = {
    copse.validation_loss { name = "val", data = arg.data .. "/val-*.h5", batch = 4096, every = "epoch" }, -- depends on the batch
    copse.zero_shot {
      name = "rare", data = arg.data .. "/rare-*.h5", text = "taxon_com", every = "epoch",
      templates = "imagenet", -- the 80 of the published classifiers; the published evaluation has "a photo of {}." in front of them
    },
    copse.few_shot { name = "rare-shots", data = arg.data .. "/rare-*.h5", shots = { 1, 5 }, folds = 5 },
  },
  checkpoint = copse.checkpoint { seconds = 1800, best = "val.loss" }, -- the model card: lowest validation loss
}
