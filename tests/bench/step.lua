-- A few training steps for tests/bench: real pictures and captions from a table, or shards.
local copse = require "copse"
local arg = copse.arg {
  source = "", shards = "", merges = "", context = 77, preset = "ViT-B-32", global_batch = 64, grain = 32, steps = 5,
}
return copse.job {
  name = "bench", seed = 1,
  model = copse.model { preset = arg.preset },
  tokenizer = copse.tokenizer { merges = arg.merges, context = arg.context },
  data = { paired = arg.source ~= "" and copse.shards { source = arg.source } or copse.shards { arg.shards } },
  stages = {
    copse.stage {
      objective = copse.objective.clip {},
      steps = arg.steps, global_batch = arg.global_batch, grain = arg.grain,
      optimizer = copse.adamw { lr = 1e-4, weight_decay = 0.2 },
      schedule = copse.cosine { warmup_steps = 2 },
      grad_clip_norm = 1,
    },
  },
}
