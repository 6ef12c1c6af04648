#!/bin/sh
# What DALIP's second feature, distances between the channels of all tokens, is worth: DALIP against CLIP from scratch on taxa and on
# crops, three seeds each, tested with the first feature, the second and both. Prints two tables.
. "$(dirname "$0")/study.sh"
count_runs 4
for seed in $SEEDS; do
    for set in taxa crops; do
        for method in clip dalip; do
            run "$set-$method-$seed" dalip.lua --set "set=$set" --set "method=$method" --set "seed=$seed"
        done
    done
done
columns='top-1, first feature=first.top1;second=second.top1;both=both.top1;top-5, first feature=first.top5;second=second.top5;both=both.top5'
echo '501 species of taxa (a label and its ranks as caption):'
table 'CLIP=taxa-clip;DALIP=taxa-dalip' "$columns"
echo '20 conditions of leaves in crops:'
table 'CLIP=crops-clip;DALIP=crops-dalip' "$columns"
finish
