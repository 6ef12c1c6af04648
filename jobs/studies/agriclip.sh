#!/bin/sh
# AgriCLIP's stages and their ablation on leaves of crops: CLIP and DINO towers that learnt from other pictures (default) or from leaves
# (adapted), in all four pairs, mapped onto each other and tested, three seeds each. Prints three tables.
. "$(dirname "$0")/study.sh"
count_runs 9
# the last checkpoint of a run
last() {
    for file in "$RUNS/$1"/checkpoints/step-*.h5; do :; done
    echo "$file"
}
for seed in $SEEDS; do
    run "untrained-$seed" agriclip.lua --set part=untrained --set "seed=$seed"
    for on in default adapted; do
        run "dino-$on-$seed" agriclip.lua --set part=dino --set "on=$on" --set "seed=$seed"
    done
    run "clip-default-$seed" agriclip.lua --set part=clip --set "seed=$seed"
    stock=$(last "clip-default-$seed")
    run "clip-adapted-$seed" agriclip.lua --set part=clip --set on=adapted --set "seed=$seed" --set "clip=$stock"
    for ssl in default adapted; do
        for clip in default adapted; do
            run "align-$ssl-$clip-$seed" agriclip.lua --set part=align --set "seed=$seed" --set "stock=$stock" \
                --set "ssl=$(last "dino-$ssl-$seed")" --set "clip=$(last "clip-$clip-$seed")"
        done
    done
done
echo 'The 20 conditions of leaves in crops told by their neighbours in the features of DINO (chance 0.05):'
table 'untrained=untrained;default=dino-default;adapted=dino-adapted' 'top-1=neighbours.top1;top-5=neighbours.top5'
echo 'Told by CLIP alone, zero-shot:'
table 'default=clip-default;adapted=clip-adapted' 'top-1=clip.top1;top-5=clip.top5'
echo "Told by the mapped DINO features, zero-shot; texts of the CLIP that is mapped to, or of the default CLIP (stock); bias consistent or as\
 published (code); R2 of the map on pictures that it was fitted to, and on those kept apart:"
rows=
for ssl in default adapted; do
    for clip in default adapted; do
        rows="$rows;DINO $ssl, CLIP $clip=align-$ssl-$clip"
    done
done
table "${rows#;}" 'top-1=consistent.top1;code=code.top1;stock=consistent-stock.top1;stock, code=code-stock.top1;R2=finish:consistent.r2;held out=finish:consistent.heldout_r2'
finish
