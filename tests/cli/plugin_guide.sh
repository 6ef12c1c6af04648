#!/bin/sh
# The example of plugins/README.md: taken out of the page, under 100 lines, built against the headers alone, listed, checked and trained.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1
sed -n '/^```c$/,/^```$/p' "$tree/plugins/README.md" | sed '1d;$d' >classify.c
check "the example has under 100 lines of code" test "$(grep -c '[^[:space:]]' classify.c)" -lt 100
for header in plugin/copse_objective.h plugin/services.inc base/types.h tensor/op_types.h tensor/ops.inc; do
    mkdir -p "runtime/$(dirname $header)"
    cp "$tree/runtime/$header" "runtime/$header"
done
# The page's own command, warnings as errors.
command=$(sed -n 's/^cc \(.*-Iruntime .*\)$/\1/p' "$tree/plugins/README.md")
real=
[ "${REAL:-float}" = float ] || real=-DCPS_REAL_DOUBLE
# shellcheck disable=SC2086
check "it builds with the page's command" "$CC" -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror $real $command
expect "it is listed" 0 'classify.*A linear classifier over the values of a text field' copse objectives --plugin ./classify.so

check "a data set" copse synth set --classes 4 --train-per-class 24 --test-per-class 4 --size 32 --seed 3
line=$(sed -n 's/^\(objective = copse.objective.load.*\)$/\1/p' "$tree/plugins/README.md")
cat >job.lua <<END
local copse = require "copse"
return copse.job {
  name = "guide", seed = 1,
  model = copse.model {
    embed_dim = 16,
    image = copse.tower { kind = "vit", image_size = 32, patch = 16, width = 32, layers = 1, heads = 2 },
    text = copse.tower { kind = "text", width = 32, layers = 1, heads = 2 },
  },
  tokenizer = copse.tokenizer { merges = "set/tokenizer.txt", context = 16 },
  data = { paired = copse.shards { "set/train-*.h5" } },
  stages = { copse.stage {
    $line
    steps = 30, global_batch = 32, grain = 8, optimizer = copse.adamw { lr = 3e-3 } } },
}
END
expect "a job with the page's line is fine" 0 'the job is fine' copse check job.lua
expect "and trains" 0 '' copse train job.lua --threads 1
expect "on two ranks too" 0 '' copse train job.lua -n 2 --threads 1 --run two
check "to the same bits" cmp runs/guide/checkpoints/step-00000030.h5 runs/two/checkpoints/step-00000030.h5
loss() { sed -n "s/.*\"event\":\"step\",\"step\":$1,.*\"cross_entropy\":\([0-9.e-]*\).*/\1/p" runs/guide/events.jsonl; }
check "it learns: $(loss 1) in the first step, $(loss 30) in the last" awk "BEGIN { exit !($(loss 30) + 0 < 0.8 * ($(loss 1) + 0)) }"
finish
