#!/bin/sh
# Aerial scenes of which a tenth has captions: plain CLIP on that tenth, three ways to use the other pictures, and CLIP with all
# captions, three seeds each, all from one start. Prints a table.
. "$(dirname "$0")/study.sh"
count_runs 5 1
run start start.lua
if [ -n "$failed" ]; then
    finish
    exit
fi
for start in "$RUNS"/start/checkpoints/step-*.h5; do :; done # the last one
for seed in $SEEDS; do
    for method in clip-10 hard-pl soft-pl sclip clip-100; do
        run "$method-$seed" rs-captions.lua --set "method=$method" --set "seed=$seed" --set "start=$start"
    done
done
echo 'Zero-shot top-1 of 30 scenes; recall at 1, 5 and 10 of 480 pictures and their 2,400 captions:'
table 'CLIP, 10 % of captions=clip-10;Hard-PL=hard-pl;Soft-PL=soft-pl;S-CLIP=sclip;CLIP, all captions=clip-100' \
    'top-1=scenes.top1;image to text R@1=pairs.image_to_text_r1;R@5=pairs.image_to_text_r5;R@10=pairs.image_to_text_r10;text to image R@1=pairs.text_to_image_r1;R@5=pairs.text_to_image_r5;R@10=pairs.text_to_image_r10'
finish
