#!/bin/sh
# limit: 300
# `make install` into a staging folder, moved elsewhere: the program finds its Lua library and plugins; an objective that
# knows nothing but the installed headers is built, listed and trained; uninstall leaves nothing.
. "$(dirname "$0")/../expect.sh"
cd "$tree" || exit 1

check "make install honours PREFIX and DESTDIR" \
    "$MAKE" -s BUILD="$COPSE_BUILD" PREFIX=/opt/copse DESTDIR="$scratch/stage" install
check "nothing outside of PREFIX" test "$(ls "$scratch/stage")" = opt
prefix=$scratch/elsewhere
cp -r "$scratch/stage/opt/copse" "$prefix"
COPSE=$prefix/bin/copse
unset COPSE_HOME
expect "the installed program finds its plugins" 0 'clip.*sigmoid' copse objectives

mkdir "$scratch/mine"
cp tests/install/local.c "$scratch/mine"
cd "$scratch/mine" || exit 1
build_outside() {
    # shellcheck disable=SC2046
    "$CC" -O2 -Wall -Wextra -Wpedantic -Wconversion -Werror \
        $(PKG_CONFIG_PATH=$prefix/lib/pkgconfig pkg-config --define-variable=prefix="$prefix" --cflags copse) local.c -o local.so \
        $(PKG_CONFIG_PATH=$prefix/lib/pkgconfig pkg-config --define-variable=prefix="$prefix" --libs copse)
}
check "an objective builds against installed headers alone" build_outside
expect "it is listed" 0 'local .*CLIP.s loss inside each grain' copse objectives --plugin ./local.so
expect "its options are shown" 0 'scale.*10.*factor of the similarities' copse objectives local --plugin ./local.so

check "a data set is drawn" copse synth data --classes 4 --train-per-class 24 --test-per-class 4 --size 64 --seed 1
cat >job.lua <<'END'
local copse = require "copse"
return copse.job {
  name = "outside", seed = 1,
  model = copse.model { preset = "ViT-Micro-8" },
  tokenizer = copse.tokenizer { merges = "data/tokenizer.txt" },
  data = { paired = copse.shards { "data/train-*.h5" } },
  stages = { copse.stage { objective = copse.objective.load("./local.so", "local") { scale = 5 }, steps = 2,
                           global_batch = 32, grain = 16, optimizer = copse.adamw { lr = 1e-4 } } },
}
END
expect "a job trains with it" 0 '' copse train job.lua --threads 1
expect "and on two ranks, to the same bits" 0 '' copse train job.lua -n 2 --threads 1 --run two
check "the same bits" cmp runs/outside/checkpoints/step-00000002.h5 runs/two/checkpoints/step-00000002.h5
sed 's/scale = 5/scael = 5/' job.lua >wrong.lua
expect "its options are checked" 64 "scael.*did you mean 'scale'" copse check wrong.lua

cd "$tree" || exit 1
check "make uninstall" "$MAKE" -s BUILD="$COPSE_BUILD" PREFIX=/opt/copse DESTDIR="$scratch/stage" uninstall
check "nothing is left" test -z "$(find "$scratch/stage" -type f)"
finish
