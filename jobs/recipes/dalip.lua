-- DALIP (Wu et al., 2025, arXiv:2504.01386): CLIP's ViT-B/16 on plants, with a second feature made of the distances between channels,
-- and general pictures beside the plants, so that what the model knew is kept. Of the published training only the model, the objective
-- (plugins/dalip/dalip.md) and the data are known: 10 million plant pairs and 3 million general ones. What is marked [?] below was
-- published nowhere; its values are our recommendation, BioCLIP's settings, and not the paper's.
--   share       said to follow a law of data mixing: jobs/studies/mixing-law.sh finds the share of other data in the same way
--   mean, std   CLIP's own; weights of other origin may want others
--   scores      published code uses the first feature alone; with `second` evaluations follow with the second and with both
--   prompts     [?]; species are named as BioCLIP names them, general sets have CLIP's 80 sentences
-- Data, below `data`: shards plants-*.h5 and general-*.h5, val-plants-*.h5 and val-general-*.h5 apart from them; for zero-shot tests a
-- folder of shards a set, named below; merges.txt.gz, CLIP's tokenizer.
local copse = require "copse"
local arg = copse.arg {
  data = "../../../plantmix-13m", weights = "../../../plantmix-13m/ViT-B-16-laion400m_e32.safetensors", -- [?]: an open_clip ViT-B/16
  general = 3 / 13,    -- share of general pairs
  lr = 1e-4, epochs = 100, warmup = 1000, weight_decay = 0.2, global_batch = 32768, -- [?]
  new_layers_first = 0, -- [?]: steps in which only the layers of the second feature learn; some hundred make a gentler start
  second = false,
}

local function shards(name, weight)
  return copse.shards { arg.data .. "/" .. name .. "-*.h5", weight = weight }
end

local function stage(fields)
  fields.objective = copse.objective.dalip {}
  fields.global_batch, fields.grain = arg.global_batch, 64 -- the norm of the reduced tokens takes its statistics of a grain
  fields.crop, fields.aspect = { 0.9, 1 }, { 3 / 4, 4 / 3 }
  fields.optimizer = copse.adamw { lr = arg.lr, weight_decay = arg.weight_decay, beta1 = 0.9, beta2 = 0.98, eps = 1e-6 }
  return copse.stage(fields)
end

local stages = {}
if arg.new_layers_first > 0 then
  stages[1] = stage {
    name = "new-layers", steps = arg.new_layers_first, train = { "visual.fc?.weight", "visual.vbdc.*", "fc?.weight", "tbdc.*" },
    schedule = copse.constant {},
  }
end
stages[#stages + 1] = stage { name = "dalip", epochs = arg.epochs, schedule = copse.cosine { warmup_steps = arg.warmup } }

local evaluate = {
  copse.validation_loss { name = "plants", data = arg.data .. "/val-plants-*.h5", batch = 1024, every = "epoch" },
  copse.validation_loss { name = "general", data = arg.data .. "/val-general-*.h5", batch = 1024, every = "epoch" },
}
local function tested(name, text, templates)
  local scores = arg.second and { [""] = { 1, 0 }, ["-second"] = { 0, 1 }, ["-both"] = { 0.5, 0.5 } } or { [""] = { 1, 0 } }
  for suffix, score in pairs(scores) do
    evaluate[#evaluate + 1] = copse.zero_shot {
      name = name .. suffix, data = arg.data .. "/" .. name .. "/*.h5", text = text, templates = templates, score = score,
      stages = { "dalip" },
    }
  end
end
for _, name in ipairs { "plantnet", "fungi", "medicinal-leaf" } do tested(name, "taxon_com", { "a photo of {}." }) end
for _, name in ipairs { "plantvillage", "plantdoc" } do tested(name, "label", { "a photo of {}." }) end -- diseases have no ranks
for _, name in ipairs { "imagenet-1k", "cifar-100", "stanford-cars", "oxford-pets", "sun397" } do tested(name, "label", "imagenet") end

return copse.job {
  name = "dalip", seed = 42, precision = "auto",
  parts = 128, -- the most ranks that a step can be dealt to
  model = copse.model {
    preset = "ViT-B-16", weights = arg.weights ~= "" and arg.weights or nil, -- plain CLIP: the second feature's layers begin afresh
    image = copse.tower { mean = { 0.48145466, 0.4578275, 0.40821073 }, std = { 0.26862954, 0.26130258, 0.27577711 } },
  },
  tokenizer = copse.tokenizer { merges = arg.data .. "/merges.txt.gz" },
  data = { paired = copse.mixture { shards("plants", 1 - arg.general), shards("general", arg.general) } },
  stages = stages,
  evaluate = evaluate,
  checkpoint = copse.checkpoint { seconds = 1800, best = "plants.first" },
}
