#!/bin/sh
# `make demo`: draws a data set of made-up plants, trains two objectives on two ranks, shows both in one table. Runs stay in
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

# The last evaluation of each run, from its events.
value() { # value OBJECTIVE EVALUATION KEY
    grep '"event":"evaluation"' "$folder/runs/$1/events.jsonl" | grep "\"name\":\"$2\"" | tail -n 1 |
        sed -n "s/.*\"$3\":\([-0-9.eE+]*\).*/\1/p"
}
say "Both on the same unseen pictures"
printf '%-10s %14s %24s %24s\n' objective 'zero-shot top-1' 'image to text R@1' 'text to image R@1'
for objective in clip sigmoid; do
    printf '%-10s %14.3f %24.3f %24.3f\n' $objective "$(value $objective plants top1)" \
        "$(value $objective pairs image_to_text_r1)" "$(value $objective pairs text_to_image_r1)"
done
printf '\nWhat came out: %s/runs/<objective>/ with events.jsonl, predictions/, checkpoints/, job.lua.\n' $folder
printf 'Next: README.md, "Your own data in five minutes".\n'
