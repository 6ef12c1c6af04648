#!/bin/sh
# limit: 600
# Organisms: what newcomers do with columns of ranks, hold-out lists and folders of iNaturalist; the data beside the tree, if it is there.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1

check "synth" copse synth set --classes 3 --train-per-class 6 --test-per-class 2 --seed 9
check "pictures of it" copse inspect set/train-*.h5 --table photos --records 8
cat >photos/birds.csv <<'END'
,filepath,Kingdom,CLS,Order,Family,Genus,Species,Common Name
0,000000.jpg,Animalia,Aves,Passeriformes,Corvidae,Pica,Pica hudsonia,magpie
1,000001.jpg,Animalia,Aves,Passeriformes,Corvidae,Pica,Pica pica,
2,000002.jpg,Animalia,Aves,Passeriformes,Corvidae,Corvus,corax,raven
3,000003.jpg,Animalia,Aves,,Sulidae,Morus,bassanus,gannet
4,000004.jpg,Plantae,,,Moraceae,Morus,alba,mulberry
5,000005.jpg,,,,,,,
END
expect "pack a table of birds" 0 'birds: 6 records.* 0 captions, 6 records without one' copse pack birds photos/birds.csv
expect "its report" 0 \
    'known ranks: 6 in 3 records, 5 in 1 records, 4 in 1 records, none in 1; no common name in 1.*species in 5 records; 1 names at two' \
    copse pack birds photos/birds.csv
expect "inspect sums up" 0 'gaps above the lowest known rank in 5 records.*genus morus: kingdom animalia, kingdom plantae|genus morus: family sulidae, family moraceae' copse inspect birds-00000.h5
expect "as JSON" 0 '"taxonomy".*"homonyms": *[{] *"count": *1' copse inspect birds-00000.h5 --json
check "a species with its genus" copse inspect birds-00000.h5 --sample 0 --out sample
expect "is kept as it was written" 0 '"species": *\[ *"Pica hudsonia" *\]' cat sample/record.json
printf 'file,caption,label\n000000.jpg,a plant,x\n' >photos/plain.csv
run copse pack plain photos/plain.csv
if grep -q 'rank' "$output"; then fail "a table without ranks" "it tells of ranks"; else pass "a table without ranks says nothing of them"; fi
printf 'file,Class\n000000.jpg,rust\n000001.jpg,healthy\n' >photos/label.csv
expect "a label that is called class" 0 'only the class is known.*--label-column' copse pack label photos/label.csv
expect "and then as the label" 0 '2 classes; 2 text fields' copse pack label2 photos/label.csv --label-column Class --caption-column ''

# ---- in a job ----
job() { # job SOURCE OBJECTIVE
    cat >job.lua <<END
local copse = require "copse"
return copse.job {
  name = "birds", seed = 1,
  model = copse.model { preset = "ViT-Micro-8" },
  tokenizer = copse.tokenizer { merges = "set/tokenizer.txt" },
  data = { paired = copse.shards { source = "$1" } },
  stages = { copse.stage { objective = copse.objective.$2 {}, steps = 1, global_batch = 2, grain = 2, optimizer = copse.adamw { lr = 1e-3 } } },
}
END
}
job photos/birds.csv bioclip
expect "a job packs the same table" 0 'packed 6 records.*the job is fine' copse check job.lua
printf 'filename\n000000.jpg\n000001.jpg\n' >photos/pictures.csv
job photos/pictures.csv clip
expect_one "a table of pictures alone, where captions are read" 65 'none of 2 records.* has a text in field .caption' copse check job.lua
job photos/lost.csv bioclip
expect_one "no such table" 69 'lost.csv' copse check job.lua

# ---- columns ----
printf 'file,class,cls\n000000.jpg,rust,Aves\n' >photos/two.csv
expect_one "two columns for one rank" 64 "'class' and 'cls' both stand for 'class'.*--label-column" copse pack x photos/two.csv
printf 'file,species,speciesEpithet\n000000.jpg,a,b\n' >photos/two.csv
expect_one "two columns of species" 64 "'species' and 'speciesEpithet' both stand for 'species'" copse pack x photos/two.csv
printf 'file,genus\n000000.jpg,P\377ca\n' >photos/bytes.csv
expect_one "a rank that is no UTF-8" 65 'bytes.csv:2: not UTF-8' copse pack x photos/bytes.csv
printf 'file,species,genus\n000000.jpg,hudsonia,Pica\nlost.jpg,pica,Pica\n' >photos/lost.csv
expect_one "a missing file" 69 '1 of 2 image files are not there.*lost.jpg' copse pack x photos/lost.csv

# ---- hold-out lists ----
echo 'Pica hudsonia' >list.txt
expect "hold out a species" 0 '5 records.*1 records are held out by species and 0 by file, 1 names' copse pack held photos/birds.csv --hold-out list.txt
printf 'Pica hudsonia\nPica hudsonia\nPica_hudsonia\n000003.jpg\n' >list.txt
expect "names that are there twice, a file" 0 '1 records are held out by species and 1 by file, 3 names' copse pack held photos/birds.csv --hold-out list.txt --overwrite
printf 'Pica hudsonia\nPica hudsonica\nMorus basanus\n00003.jpg\n' >list.txt
expect_one "misspelt names" 64 "3 of 4 names.*'Pica hudsonica' .did you mean 'Pica hudsonia'.*'Morus bassanus'.*'000003.jpg'.*--hold-out-missing allow" \
    copse pack x photos/birds.csv --hold-out list.txt
expect "may be allowed" 0 "1 records are held out.*warning: 3 of these names.*did you mean 'Pica hudsonia'" \
    copse pack held3 photos/birds.csv --hold-out list.txt --hold-out-missing allow
expect_one "no such list" 69 "no hold-out list 'lists.txt'" copse pack x photos/birds.csv --hold-out lists.txt
: >empty.txt
expect_one "an empty list" 64 "'empty.txt' names nothing" copse pack x photos/birds.csv --hold-out empty.txt
printf '{"Animalia-Chordata-Aves-Passeriformes-Corvidae-Corvus-corax": ["/fs/2024-03-20/000002.jpg"], "Pica pica": []}' >rare.json
expect "a list as BioCLIP's" 0 '2 records are held out by species and 0 by file, 3 names' copse pack held4 photos/birds.csv --hold-out rare.json
expect "its files alone" 0 '0 records are held out by species and 1 by file, 1 names' copse pack held5 photos/birds.csv --hold-out rare.json --hold-out-by file
printf '{"Pica": ["a.jpg"]}' >rare.json
expect_one "a key that is no species" 64 "its key 'Pica' is no species" copse pack x photos/birds.csv --hold-out rare.json
printf '{"Pica pica": ["a.jpg"' >rare.json
expect_one "JSON that is cut" 65 'rare.json' copse pack x photos/birds.csv --hold-out rare.json
expect_one "everything is held out" 64 'no record is left of 1: 1 are held out' copse pack x photos/plain.csv --hold-out photos/plain.csv
expect_one "a wrong choice" 64 "hold_out_by.*'specie'.*species" copse pack x photos/birds.csv --hold-out list.txt --hold-out-by specie
expect_one "a shard as a source" 64 "birds-00000.h5' is a shard.*in quotes" copse pack x birds-00000.h5
expect_one "a picture as a source" 64 "000000.jpg' is a picture: name its folder" copse pack x photos/000000.jpg
check "nothing was written by what failed" test ! -e x-00000.h5

# ---- ranks and common names from tables ----
printf 'kingdom,phylum,class,order,family,genus,species\nAnimalia,Chordata,Aves,Suliformes,Sulidae,Morus,bassanus\n' >backbone.csv
printf 'scientific_name,common_name\nPica pica,Eurasian magpie\n' >common.csv
expect "complete ranks" 0 '4 records of the sources got ranks.*: phylum filled in 4, order filled in 1; what they had is in the field ranks_given' \
    copse pack filled photos/birds.csv --backbone backbone.csv
check "a completed record" copse inspect filled-00000.h5 --sample 3 --out sample
expect "keeps what it had" 0 '"ranks_given": *\[ *"Animalia[|][|]Aves[|][|]Sulidae[|]Morus[|]bassanus" *\]' cat sample/record.json
expect "a common name" 0 'got a common name from a list of 1.*no common name in 0' copse pack named photos/birds.csv --common common.csv
expect_one "no such backbone" 69 '--backbone.*back.csv' copse pack x photos/birds.csv --backbone back.csv
expect_one "a backbone without ranks" 64 "'kingdom' is not among these" copse pack x photos/birds.csv --backbone common.csv
expect_one "records without ranks" 64 '--backbone has nothing to work on' copse pack x photos/plain.csv --backbone backbone.csv
expect_one "a list without common names" 64 'no column of common names' copse pack x photos/birds.csv --common backbone.csv

# ---- folders of iNaturalist 2021 ----
for class in 00000_Animalia_Chordata_Aves_Passeriformes_Corvidae_Pica_hudsonia 00001_Plantae_Tracheophyta_Magnoliopsida_Rosales_Moraceae_Morus_alba; do
    mkdir -p "inat/$class"
    cp photos/000000.jpg "inat/$class/"
done
expect "class folders of iNat21" 0 "2 classes.*2 class folders are named as iNaturalist 2021's.*7 in 2 records" copse pack inat21 inat
expect "have names of species as labels" 0 'Morus alba.*Pica hudsonia' copse inspect inat21-00000.h5
expect "read plainly" 0 '1 text|2 text' copse pack plainly inat --folders plain
expect "labels are their names then" 0 '00001_Plantae' copse inspect plainly-00000.h5
expect_one "the folder above" 64 'no class folder is named' copse pack x . --folders inat21
mkdir inat/birds
cp photos/000000.jpg inat/birds
expect_one "one that is not named so" 64 "2 of 3 class folders.*not 'birds'" copse pack x inat --folders inat21

# ---- data beside the tree ----
taxa=$shared/data/taxa
if [ -e "$taxa/train.csv" ]; then
    expect "the birds and leaves beside the tree" 0 \
        '2541 records.*known ranks: 7 in 2541 records, none in 0; no common name in 176.*species in 2541 records; 1 names at two' \
        copse pack taxa "$taxa/train.csv" --dedup
    expect "inspect them" 0 'species +501 .*several words in 40.*genus morus: family moraceae, family sulidae' copse inspect taxa-00000.h5
    expect "the test part shares no picture" 0 '2541 records in' sh -c "'$COPSE' pack tests '$taxa/test.csv' && '$COPSE' pack both '$taxa/train.csv' --exclude tests-00000.h5"
    expect_one "hold out all of it" 64 'no record is left of 2541: 2541 are held out' copse pack x "$taxa/train.csv" --hold-out "$taxa/taxonomy.csv"
else
    skip "real organisms" "there is no $taxa"
fi
finish
