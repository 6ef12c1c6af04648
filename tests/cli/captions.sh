#!/bin/sh
# limit: 200
# Prompts as captions: AgriCLIP's caption file over folders of domains and classes, captions by class, one caption a picture for
# all times; the same shards on any ranks.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/ranks/bits.inc"
cd "$scratch" || exit 1
check "a data set" copse synth set --classes 4 --train-per-class 12 --test-per-class 4 --size 32 --seed 6
check "pictures of it" copse inspect set/train-*.h5 --table photos --records 24
mkdir -p root/Crops/train/rust root/Crops/healthy root/Fisheries/carp
n=0
for picture in photos/*.jpg; do
    case $((n % 3)) in 0) to=root/Crops/train/rust ;; 1) to=root/Crops/healthy ;; *) to=root/Fisheries/carp ;; esac
    mv "$picture" "$to/p$n.jpg"
    n=$((n + 1))
done
{
    printf 'filepath,caption\r\n'
    for i in 0 3 6 9 12 15 18 21; do
        printf '"/home/them/ALive/Crops/train/rust/p%s.jpg,""A leaf of wheat, with rust: caf\351-brown pustules."",",,,\r\n' $i
    done
    for i in 1 4 7 10 13 16 19 22; do printf '/home/them/ALive/Crops/here/healthy/p%s.jpg,A leaf of ""wheat"",,\n' $i; done
    for i in 2 5 8 11 14 17 20 23; do printf '/home/them/ALive/Fish/carp/p%s.jpg,A carp in a pond\n' $i; done
    printf 'a row of nothing\n/home/them/ALive/Crops/rust/lost.jpg,Not here\n'
} >them.csv
expect "AgriCLIP's captions" 0 \
    'alive: 24 records.*24 captions, 0 records without one; 3 classes.*25 rows, 8 with letters put right, 0 outside.*1 rows of it are left out:.*line 26: it has no comma.*1 files are missing' \
    copse pack alive them.csv --format agriclip-captions --root root --allow-missing
expect "what is missing is an error otherwise" 69 '1 of 25 image files are not there.*root/Crops/rust/lost.jpg' \
    copse pack lost them.csv --format agriclip-captions --root root
expect "on three ranks" 0 '24 records' copse pack again them.csv --format agriclip-captions --root root --allow-missing -n 3
check "the same bytes" cmp alive-00000.h5 again-00000.h5
expect "its captions, labels and domains" 0 'caf.-brown pustules' sh -c '"$COPSE" inspect alive-00000.h5 --sample 0 --out sample >/dev/null && cat sample/record.json'
check "the class folder is the label" grep -q '"rust"' sample/record.json
check "the domain is a field" grep -q '"Crops"' sample/record.json
expect "the strict reader says no" 65 'not UTF-8' copse pack no them.csv --root root
expect "another table" 64 "begins with 'file,caption.*--format table" copse pack no photos/captions.csv --format agriclip-captions
expect "no such root" 69 "the root 'nowhere' is no folder" copse pack no them.csv --root nowhere

# A pool of captions for each class; folders of classes as the source.
mkdir -p classes && cp -r root/Crops/train/rust root/Crops/healthy root/Fisheries/carp classes/
{
    echo 'label,caption'
    for i in 1 2 3 4; do printf 'rust,"rust, %s"\nhealthy,a leaf %s\ncarp,a fish %s\n' $i $i $i; done
} >prompts.csv
expect "captions of classes" 0 'pool: 24 records.*96 captions, 0 records without one; 3 classes' copse pack pool classes --class-captions prompts.csv
expect "on two ranks" 0 '96 captions' copse pack pool2 classes --class-captions prompts.csv -n 2
check "the same bytes" cmp pool-00000.h5 pool2-00000.h5
sed 's/^rust/ruts/' prompts.csv >wrong.csv
expect "a misspelt class" 64 "wrong.csv:2: no record has the label 'ruts' .did you mean 'rust'" copse pack no classes --class-captions wrong.csv
grep -v carp prompts.csv >part.csv
expect "a class without captions is told" 0 '64 captions, 8 records without one.*warning: 8 records are of classes that have no captions' \
    copse pack part classes --class-captions part.csv

cat >job.lua <<'END_OF_JOB'
local copse = require "copse"
local arg = copse.arg { draw = "fixed", from = "shards", prompts = "prompts.csv" }
local sets = {
  shards = function(draw) return copse.shards { "pool-*.h5", caption_draw = draw } end,
  table = function(draw) return copse.shards { source = "table.csv", class_captions = arg.prompts, caption_draw = draw } end,
  agriclip = function() return copse.shards { source = "them.csv", format = "agriclip-captions", root = "root", allow_missing = true } end,
  strict = function() return copse.shards { source = "them.csv", format = "agriclip-captions", root = "root" } end,
  folder = function() return copse.shards { source = "classes" } end,
}
return copse.job {
  name = "prompts", seed = 1,
  model = copse.model { preset = "ViT-Micro-8" },
  tokenizer = copse.tokenizer { merges = "set/tokenizer.txt", context = 24 },
  data = { paired = sets[arg.from](arg.draw) },
  stages = { copse.stage { objective = copse.objective.clip {}, epochs = 4, global_batch = 12, grain = 4, crop = { 1, 1 },
    optimizer = copse.sgd { lr = 0 } } },
}
END_OF_JOB
check "one caption a picture" copse train job.lua --run one --threads 1
check "on three ranks" copse train job.lua --run three -n 3 --threads 1
expect "the same bits" 0 '' same_bits runs/one runs/three
check "a caption at each access" copse train job.lua --run drawn --threads 1 --set draw=resample
differ() { # losses of two runs
    numbers_of runs/one >left && numbers_of runs/drawn >right && ! diff left right >/dev/null
}
check "is another run" differ
expect "and is no way to go on" 64 'caption_draw|other data' copse train job.lua --run one --threads 1 --set draw=resample

# The same, packed by the job.
{
    echo 'file,label'
    for picture in classes/*/*.jpg; do
        class=${picture#classes/}
        echo "$picture,${class%/*}"
    done
} >table.csv
expect "a job joins captions of classes" 0 'packed 24 records, 96 captions, 3 classes' copse train job.lua --run joined --threads 1 --set from=table
expect "once" 0 "goes on|is complete|nothing to do" copse train job.lua --run joined --threads 1 --set from=table
sed 's/a leaf/the leaf/' prompts.csv >others.csv
expect "other captions are packed anew" 0 'packed 24 records' copse train job.lua --run others --threads 1 --set from=table --set prompts=others.csv
expect "a job reads AgriCLIP's captions" 0 'packed 24 records, 24 captions, 3 classes.*1 records are left out: their files are not there.*1 rows of the caption file are left out' \
    copse train job.lua --run theirs -n 2 --threads 1 --set from=agriclip
expect "what is missing is an error there, too" 69 '1 of 25 image files are not there' copse check job.lua --set from=strict
expect "a folder is no table" 64 "is a folder, a CSV or TSV is wanted: pack the folder with 'copse pack'" copse check job.lua --set from=folder
expect "no such way" 64 "caption_draw.*should be one of 'resample', 'fixed'" copse check job.lua --set draw=once
finish
