#!/bin/sh
# limit: 600
# Data commands with what newcomers bring: wrong paths, empty tables, missing columns, no image, one image, damaged files.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1

check "synth draws a set" copse synth set --classes 4 --train-per-class 10 --test-per-class 4 --seed 3
expect_one "synth where nothing can be written" any "/dev/null" copse synth /dev/null/x
shard=$(ls set/train-*.h5 | head -n 1)
mkdir packed killed
cp "$shard" packed/train-00000.h5
expect_one "synth beside shards of another origin" 64 "packed.*did not draw.*--overwrite" copse synth packed --classes 4 --train-per-class 10 --test-per-class 4 --seed 3
check "it leaves them alone" cmp "$shard" packed/train-00000.h5
printf unfinished >killed/synth.txt
: >killed/train-00000.h5
check "a killed drawing begins again" copse synth killed --classes 4 --train-per-class 10 --test-per-class 4 --seed 3
check "to the same bytes" cmp "$shard" "killed/$(basename "$shard")"
check "verify" copse verify "$shard"
expect "inspect a shard" 0 'caption' copse inspect "$shard"
cp "$shard" cut.h5
truncate -s -1000 cut.h5
expect_one "verify finds a cut file" 65 'cut.h5' copse verify cut.h5
expect_one "inspect too" 65 'cut.h5' copse inspect cut.h5
cp "$shard" flipped.h5
# Four bytes in the middle: pictures fill most of a shard.
size=$(stat -c %s flipped.h5)
printf '\377\376\375\374' | dd of=flipped.h5 bs=1 seek=$((size / 2)) conv=notrunc 2>/dev/null
expect_one "verify finds changed bytes" 65 'flipped.h5' copse verify flipped.h5
: >empty.h5
expect_one "an empty file" 65 'empty.h5' copse verify empty.h5
expect_one "no such file" 69 'nothing.h5' copse verify nothing.h5
expect_one "inspect: no such file" 69 "'nothing.h5' cannot be opened: No such file" copse inspect nothing.h5
expect_one "inspect a folder" 64 "is a folder, a file is wanted" copse inspect .
printf 'hello, this is text' >text.txt
expect_one "inspect something else" 65 "text.txt.*neither" copse inspect text.txt

# A safetensors header that lies.
printf '\110\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4]}}            ' >lies.safetensors
expect_one "a safetensors header that lies" 65 'lies.safetensors' copse inspect lies.safetensors
printf '\377\377\377\377\377\377\377\177{"a":1}' >long.safetensors
expect_one "a safetensors header longer than the file" 65 'long.safetensors' copse inspect long.safetensors

# ---- pack ----
check "inspect writes a sample out" copse inspect "$shard" --sample 0 --out pictures
mv pictures/*.jpg pictures/one.jpg 2>/dev/null || mv pictures/*.png pictures/one.jpg
check "inspect writes a table out" copse inspect "$shard" --table table --records 5
check "which packs again" copse pack again/ table/captions.csv
expect_one "pack: wrong path" 69 'nowhere.csv' copse pack out nowhere.csv
: >empty.csv
expect_one "pack: empty table" any 'empty.csv' copse pack out empty.csv
printf 'name,caption\npictures/one.jpg,a plant\n' >nofile.csv
expect_one "pack: no column 'file'" any "file" copse pack out nofile.csv
printf 'file,caption\n' >zero.csv
expect_one "pack: no image" any 'zero.csv' copse pack out zero.csv
printf 'file,caption\npictures/missing.jpg,a plant\n' >missing.csv
expect_one "pack: a missing file" any 'missing.jpg' copse pack out missing.csv
printf 'file,caption\npictures/one.jpg,a plant\n' >one.csv
check "pack: one image" copse pack one one.csv
check "which verifies" copse verify one-*.h5
mkdir empty
expect_one "pack: a folder without images" any 'empty' copse pack out empty

# ---- tokenizer ----
printf 'a red leaf\na green leaf\na leaf with spots\n' >texts.txt
check "tokenizer train" copse tokenizer train merges.txt texts.txt --vocabulary 520
expect_one "tokenizer train: no such file" 69 "'nothing.txt' cannot be opened" copse tokenizer train m.txt nothing.txt
expect_one "tokenizer train: shard without that field" 65 "no text field 'poem'" \
    copse tokenizer train m.txt "$shard" --field poem
expect_one "tokenizer train: vocabulary too small" 64 'from 514' copse tokenizer train m.txt texts.txt --vocabulary 100
finish
