#!/bin/sh
# `make demo`: draws a data set of made-up plants, trains two objectives on two ranks, compares them. Runs stay in
# build/demo; a second call goes on where the first one ended.
cd "$(dirname "$0")/.." || exit 1
COPSE=${COPSE:-build/copse}
folder=build/demo
epochs=${EPOCHS:-5}

say() {
    printf '\n== %s\n' "$1"
}

if [ ! -e $folder/data/tokenizer.txt ]; then
    say "Drawing pictures of made-up plants with captions into $folder/data"
    "$COPSE" synth $folder/data || exit
fi
for objective in clip sigmoid; do
    say "Training objective '$objective' on two ranks: jobs/quickstart.lua"
    "$COPSE" train jobs/quickstart.lua -n 2 --runs $folder/runs --run "$objective" \
        --set data=../$folder/data --set objective="$objective" --set epochs="$epochs" || exit
done

say "Both on the same unseen pictures: copse compare"
"$COPSE" compare $folder/runs/clip $folder/runs/sigmoid --out $folder/comparison || exit
printf '\nThe report: %s/comparison/comparison.html. The runs: %s/runs/<objective>/ with events.jsonl, predictions/, checkpoints/, job.lua.\n' $folder $folder
printf 'Next: README.md, "Your own data in five minutes".\n'
