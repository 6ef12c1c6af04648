#!/bin/sh
# limit: 1500
# Every command of README.md, block by block, in a copy of the tree as a clone would be. `make test` is left out, since this
# is part of it. The text's photos/ are made from a drawn data set before; its Lua and CSV files are cut out of the text.
. "$(dirname "$0")/../expect.sh"
cd "$tree" || exit 1
clone=$scratch/copse
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files -z | xargs -0 cp --parents -t "$(mkdir -p "$clone" && echo "$clone")" 2>"$output"
else
    mkdir "$clone" && cp -r runtime plugins lua shards jobs tests Makefile README.md LICENSE "$clone"
fi
cd "$clone" || exit 1
limit=900
unset COPSE_HOME

# Fenced blocks of one language, in files block-01.LANGUAGE, ...
awk -v folder="$scratch" '
    /^```/ && inside { inside = 0; close(file); next }
    /^```/ { language = substr($0, 4); inside = 1; file = sprintf("%s/block-%02d.%s", folder, ++count, language == "" ? "text" : language); next }
    inside { print >file }' README.md

photos() { # pictures of the program's own drawing, with captions and labels
    mkdir -p photos/drawn
    build/copse synth photos/drawn --classes 8 --train-per-class 40 --seed 5 || return 1
    shard=$(ls photos/drawn/train-*.h5 | head -n 1)
    build/copse inspect "$shard" --table photos || return 1
}

run_block() { # each line on its own: a reader types them so
    while read -r line; do
        [ -n "$line" ] || continue
        expect "README: $line" 0 '' sh -c "$line"
    done <"$1"
}

for block in "$scratch"/block-*.sh; do
    case $(cat "$block") in
    'make test') continue ;;
    *'copse pack photos/'*)
        check "README: make" "$MAKE"
        check "photos/ of the text" photos
        cp "$(grep -l '^return copse.job' "$scratch"/block-*.lua)" photos/job.lua
        cp "$(grep -l '^return copse.sweep' "$scratch"/block-*.lua)" photos/sweep.lua
        ;;
    esac
    run_block "$block"
done
finish
