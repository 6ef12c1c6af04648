#!/bin/sh
# limit: 600
# The memory that a run plans before its first step is never exceeded, and where every caption fills the context, the plan is
# at most a tenth too large.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1
check "a data set" copse synth set --classes 4 --train-per-class 40 --test-per-class 20 --captions 1 --seed 3

cat >memory.lua <<'END'
local copse = require "copse"
return copse.job {
  name = "memory", seed = 1,
  model = copse.model { preset = "ViT-Micro-8" },
  tokenizer = copse.tokenizer { merges = "set/tokenizer.txt", context = 6 },
  data = { paired = copse.shards { "set/train-*.h5" } },
  stages = {
    copse.stage { objective = copse.objective.clip {}, steps = 2, global_batch = 128, grain = 64, optimizer = copse.adamw { lr = 1e-4 } },
  },
  evaluate = {
    copse.zero_shot { name = "plants", data = "set/test-*.h5", templates = "plants" },
    copse.retrieval { name = "pairs", data = "set/test-*.h5" },
    copse.validation_loss { name = "val", data = "set/test-*.h5", batch = 64 },
  },
}
END

# fits LOG: "peak memory of a rank: X MiB of Y MiB planned"
fits() {
    sed -n 's/^peak memory of a rank: \([0-9]*\) MiB of \([0-9]*\) MiB planned$/\1 \2/p' "$1" |
        awk '{ seen = 1; good = $1 <= $2 && $1 >= 0.9 * $2 } END { exit !(seen && good) }' || { cat "$1"; return 1; }
}
for ranks in 1 2; do
    check "$ranks ranks" sh -c "\"$COPSE\" train memory.lua -n $ranks --threads 1 --run on$ranks >log$ranks 2>&1"
    check "the plan of $ranks ranks fits" fits "log$ranks"
done

# Many grains that add up a long row each: the outputs of a head. No reading of its plan from above: the tower is tiny.
cat >dino.lua <<'END'
local copse = require "copse"
return copse.job {
  name = "dino", seed = 1,
  model = copse.model { towers = { ssl = copse.tower { kind = "vit", variant = "dino", image_size = 32, patch = 8, width = 32, layers = 1,
    heads = 1 } } },
  data = { paired = copse.shards { "set/train-*.h5" } },
  stages = {
    copse.stage { objective = copse.objective.agriclip.dino { K = 30000, hidden = 32, bottleneck = 16, local_crops = 2 }, steps = 3,
      global_batch = 160, grain = 2, optimizer = copse.adamw { lr = 1e-4 } },
  },
}
END
below() { # below LOG: no more was taken than planned, and it was no little
    sed -n 's/^peak memory of a rank: \([0-9]*\) MiB of \([0-9]*\) MiB planned$/\1 \2/p' "$1" |
        awk '{ seen = 1; good = $1 <= $2 && $1 >= 60 } END { exit !(seen && good) }' || { cat "$1"; return 1; }
}
check "sums over grains" sh -c "\"$COPSE\" train dino.lua -n 1 --threads 1 >log 2>&1"
check "its plan is enough" below log
finish
