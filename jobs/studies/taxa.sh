#!/bin/sh
# Which names of organisms to train with: BioCLIP's mixture of five texts against each text alone, three seeds each, tested with all
# five (the ablation of the BioCLIP paper, on 501 species). Prints two tables.
. "$(dirname "$0")/study.sh"
count_runs 6
for seed in $SEEDS; do
    for types in mixture com sci taxon sci_com taxon_com; do
        run "$types-$seed" taxa.lua --set "types=$types" --set "seed=$seed"
    done
done
rows='mixture=mixture=taxon_com;common name (com)=com=com;scientific name (sci)=sci=sci;all ranks (taxon)=taxon=taxon;sci_com=sci_com=sci_com;taxon_com=taxon_com=taxon_com'
echo 'Zero-shot top-1; a row is what was trained with, a column what was tested with:'
table "$rows" 'com=com.top1;sci=sci.top1;taxon=taxon.top1;sci_com=sci_com.top1;taxon_com=taxon_com.top1'
echo 'Right down to a rank, tested with the text that was trained with (the mixture with taxon_com):'
table "$rows" 'kingdom=%.rank_kingdom;phylum=%.rank_phylum;class=%.rank_class;order=%.rank_order;family=%.rank_family;genus=%.rank_genus;species=%.rank_species;shared ranks of 7=%.shared_depth'
finish
