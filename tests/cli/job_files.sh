#!/bin/sh
# limit: 600
# Every job of jobs/ is checked with drawn data in the places that it names, in a copy of the folder; those of papers with batches
# that small data can fill. The studies run a step of each of their runs.
. "$(dirname "$0")/../expect.sh"
mkdir -p "$scratch/tree" "$scratch/shared/data/clip-bpe" || exit 1
cp -r "$tree/jobs" "$scratch/tree/"
cd "$scratch/tree" || exit 1

# ---- data: a set as ../shared/data has them, and shards ----
set=$scratch/shared/data/drawn
# The table of a set with ranks that follow the label, its last column.
with_ranks() {
    awk -F, '
        NR == 1 { print $0 ",kingdom,phylum,class,order,family,genus,species,common_name"; next }
        !($NF in letter) { letter[$NF] = substr("abcdefghijklmnopqrstuvwxyz", ++n, 1) }
        { l = letter[$NF]; printf "%s,Plantae,Tracheophyta,Liliopsida,Order,Family%s,Genus%s,species%s,%s\n", $0, l, l, l, $NF }' "$1"
}
check "a drawn set" copse synth "$scratch/drawn" --classes 16 --train-per-class 40 --test-per-class 4 --size 48 --vocabulary 600
check "its pictures as files" copse inspect "$scratch"/drawn/train-*.h5 --table "$set" --records 640
with_ranks "$set/captions.csv" >"$set/train.csv"
check "those of the test as well" copse inspect "$scratch"/drawn/test-*.h5 --table "$set/t" --records 64
with_ranks "$set/t/captions.csv" | sed "s,^\\([^f]\\),t/\\1," >"$set/test.csv"
cp "$set/train.csv" "$set/train_paired10.csv"
cp "$set/train.csv" "$set/train_unpaired90.csv"
cp "$scratch/drawn/classes.txt" "$set/classnames.txt"
tr -cs 'a-z' '\n' <"$scratch/drawn/captions.txt" | sort -u | grep '....' >"$set/keywords.txt"
cp "$scratch/drawn/tokenizer.txt" "$scratch/shared/data/clip-bpe/bpe_simple_vocab_16e6.txt.gz"
for name in crops produce taxa rs-captions rs-eurosat fashion; do
    ln -s drawn "$scratch/shared/data/$name"
done
mkdir -p build/quickstart
cp "$scratch"/drawn/* build/quickstart/

# place FOLDER SET...: shards of each set below a recipe's folder, its tokenizer and keywords
place() {
    folder=$scratch/$1
    shift
    mkdir -p "$folder"
    for name in "$@"; do
        case $name in
        */) mkdir -p "$folder/$name" && cp "$scratch"/drawn/train-*.h5 "$folder/$name" ;;
        *) cp "$scratch"/drawn/train-00000.h5 "$folder/$name-00000.h5" ;;
        esac
    done
    cp "$scratch/drawn/tokenizer.txt" "$folder/merges.txt.gz"
    cp "$set/keywords.txt" "$folder/class-name.txt"
    cp "$set/keywords.txt" "$folder/yake-100.txt"
}
place treeoflife-10m train val rare
place treeoflife-200m train val rare laion
place remote-sensing rsicd-train/ ucm-train/ sydney-train/ resisc45/ rsicd-cls/ ucm-cls/ whu-rs19/ rsscn7/ aid/ rsicd-val/ ucm-val/ \
    sydney-val/
place fashion fashion200k-train/ fashiongen-train/ polyvore-train/ fashion200k-category/ fashion200k-subcategory/ \
    fashiongen-category/ fashiongen-subcategory/ polyvore-category/ fashion200k-val/ fashiongen-val/ polyvore-val/
place scicap scicap-train/ scicap-val/
place simpsons captions-train/ captions-val/ characters/

place plantmix-13m plants general val-plants val-general plantnet/ fungi/ medicinal-leaf/ plantvillage/ plantdoc/ imagenet-1k/ \
    cifar-100/ stanford-cars/ oxford-pets/ sun397/
place alive train acquarium-fish/ animal-2/ banana-deficiency/ bean-lesion/ chicken-fecus/ cid/ citrus-fruits/ citrus-leaves/ \
    cow-breed/ deepfish/ fish-freshness/ fish-species/ fruits-diseases/ horse-breed/ supermarket-fish/

# ---- jobs ----
fine() { # fine JOB PATTERN [--set KEY=VALUE]...
    file=$1 pattern=$2
    shift 2
    expect "$file $*" 0 "$pattern.*the job is fine" copse check "jobs/$file" "$@"
}

for file in $(cd jobs && find . -name '*.lua' | sed 's,^\./,,' | LC_ALL=C sort); do
    case $file in
    recipes/bioclip.lua)
        fine "$file" 'global batch 640 = 10 grains of 64' --set weights= --set global_batch=640 --set warmup=10
        expect_one "$file, its own batch" 64 '640.*32768' copse check "jobs/$file" --set weights=
        ;;
    recipes/bioclip-2.lua)
        fine "$file" "616 = 7 grains of 88.*'general': 640 records.*10 rows a grain" --set weights= --set global_batch=616 --set warmup=10
        ;;
    recipes/sclip-remote-sensing.lua)
        fine "$file" "4 grains of 32.*'paired': 192 records.*'unlabelled': [0-9]+ records.*32 rows a grain" --set weights=
        fine "$file" "'unlabelled': 640 records" --set weights= --set unlabelled=resisc45
        ;;
    recipes/sclip-fashion.lua) fine "$file" "4 grains of 32.*'paired': 192 records" --set weights= ;;
    recipes/sclip-figures.lua) fine "$file" "'paired': 320 records.*'unlabelled': 320" --set weights= --set fraction=0.5 ;;
    recipes/sclip-comics.lua) fine "$file" "'paired': 640 records.*'unlabelled': 640" --set weights= ;;
    rs-captions-sclip.lua)
        fine "$file" "'unlabelled': 640 records"
        fine "$file" "'paired': 640 records" --set method=clip
        ;;
    recipes/dalip.lua)
        fine "$file" "640 = 10 grains of 64.*'paired': 1280 records" --set weights= --set global_batch=640 --set warmup=10
        fine "$file" "'new-layers': 2 steps.*'dalip': 200 steps.*'plantnet-both'" --set weights= --set global_batch=640 --set warmup=10 \
            --set new_layers_first=2 --set second=true
        ;;
    recipes/agriclip.lua)
        fine "$file" "'clip': 150 steps.*'dino': 1000 steps.*4 grains of 16.*'align': 490 steps" --set weights= --set warmup=10
        fine "$file" "'dino'.*1 grains of 64.*'cid'" --set weights= --set warmup=10 --set backbone=vit-b-16 --set dino=resnet \
            --set dino_grain=64
        expect_one "$file, a backbone of no recipe" 64 'there are resnet-50 and vit-b-16' copse check "jobs/$file" --set backbone=vgg
        ;;
    taxa-classes.lua)
        fine "$file" "5 an epoch"
        fine "$file" "5 an epoch" --set objective=bioclip.ce
        ;;
    head-to-head.lua)
        expect "plan of $file" 0 '5 trials x 3 seeds are 15 different runs' copse sweep plan "jobs/$file" --set fraction=0.5
        expect "plan of $file, crops" 0 'bioclip.*15 different runs' copse sweep plan "jobs/$file" --set set=crops
        expect "plan of $file, all methods" 0 'sclip.*bioclip.*18 different runs' copse sweep plan "jobs/$file" --set set=crops \
            --set fraction=0.5
        expect_one "$file, no such set" 64 'there are rs-captions and crops' copse sweep plan "jobs/$file" --set set=corn
        ;;
    sweeps/bioclip.lua) expect "plan of $file" 0 '= trial 7.*18 trials x 3 seeds are 24 different runs' copse sweep plan "jobs/$file" ;;
    sweeps/*) expect "plan of $file" 0 'trials x 3 seeds are [0-9]+ different runs' copse sweep plan "jobs/$file" ;;
    studies/mixing-law-fit.lua) ;; # a script
    studies/mixing-law.lua) fine "$file" steps --set method=dalip --set share=0.25 ;;
    studies/taxa.lua | studies/rs-captions.lua | studies/dalip.lua | studies/agriclip.lua) ;; # below
    *) fine "$file" 'steps' ;;
    esac
done

# ---- studies ----
export COPSE
for study in 'taxa 6' 'rs-captions 6' 'dalip 4' 'agriclip 9'; do
    count=${study#* }
    study=${study% *}
    expect "study $study, a step of each run" 0 "$count of $count: .*0 of 1" \
        env SEEDS=0 OPTIONS='--until 1 --threads 1' "jobs/studies/$study.sh"
    expect "study $study, a program that fails" 1 'of [0-9]: .*exit code 1.*failed: ' \
        env SEEDS=0 COPSE=false RUNS=failing "jobs/studies/$study.sh"
done
ln -s "$tree/lua" lua
expect "study mixing-law, a step of the runs that the law is fitted to" 0 '6 of 8: .*0.5 \| – \| – \| 0 of 1.*No law: .*not 0' \
    env SEEDS=0 OPTIONS='--until 1 --threads 1' jobs/studies/mixing-law.sh
expect "a method of no study" 64 "METHOD is 'sigmoid': clip or dalip" env METHOD=sigmoid jobs/studies/mixing-law.sh
expect "a study without a program" 69 'nothing-here' env COPSE=./nothing-here jobs/studies/taxa.sh
for seed in 0 1 2; do
    mkdir -p "told/taxa/com-$seed"
    printf '{"event":"evaluation","name":"%s","step":%s,"top1":%s,"rank_genus":0.5}\n' com 1 0.9 com 2 "0.$((seed + 3))" \
        sci 2 1e-1 >"told/taxa/com-$seed/events.jsonl"
done
rm -r told/taxa/com-2
mkdir -p told/taxa/taxon-1
printf '{"event":"evaluation","name":"taxon","step":3,"top1":null}\n' >told/taxa/taxon-1/events.jsonl
expect "a table: mean and deviation over the runs that are there" 0 \
    'common name \(com\) \| 0.350 ± 0.071 \| 0.100 ± 0.000 \| – \| – \| – \| 2 of 3' env RUNS=told jobs/studies/taxa.sh table
expect "and the second, by rank" 0 'com\) \| – \| – \| – \| – \| – \| 0.500 ± 0.000 \| – \| – \| 2 of 3' env RUNS=told \
    jobs/studies/taxa.sh table
mkdir -p told/agriclip/align-default-default-0
printf '{"event":"finish","objective":"agriclip.align","stage":"%s","heldout_r2":%s,"r2":%s}\n' consistent 0.75 0.8 code 0.1 0.2 \
    >told/agriclip/align-default-default-0/events.jsonl
expect "a table of what was reported at the end of a stage" 0 'CLIP default \| – \| – \| – \| – \| 0.800 \| 0.750 \|' env RUNS=told \
    SEEDS=0 jobs/studies/agriclip.sh table

# ---- the mixing law of losses that were told ----
told() { # told RUN GENERAL TARGET
    mkdir -p "told/mixing-law/$1"
    printf '{"event":"evaluation","name":"%s","step":9,"loss":%s}\n' general "$2" target "$3" >"told/mixing-law/$1/events.jsonl"
}
# general 4.4 + exp(-3 x - 0.1), two seeds 0.02 apart: in the mean 4.602 is reached at ln(0.192) + 0.1 by -3, 132 of 256
told start 4.6019 7
for line in '0.1 5.070 4.509' '0.2 4.897 4.560' '0.3 4.768 4.612' '0.4 4.673 4.665' '0.5 4.602 4.718'; do
    # shellcheck disable=SC2086 # three words
    set -- $line
    told "share-$1-0" "$2" "$3"
    told "share-$1-1" "$(awk "BEGIN { print $2 + 0.02 }")" "$3"
done
told share-0.515625-0 4.611 4.720
expect "the law of losses that were told" 0 \
    'start: 4.602.*\| general \| 4\.4[0-9]+ \| -[23]\.[0-9]+ \| .*critical share \| 0.515625 \| 4.60[0-9] \| 4.611 \| .*seed 1 alone: critical' \
    env RUNS=told SEEDS='0 1' jobs/studies/mixing-law.sh table
rm -r told/mixing-law/start
expect "without the start there is no critical share" 0 'critical share \| none: ' env RUNS=told SEEDS='0 1' \
    jobs/studies/mixing-law.sh table
finish
