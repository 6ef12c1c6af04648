#!/bin/sh
# limit: 600
# What packing leaves out and completes: copies, pictures of other shards, held-out names, ranks; the same bytes on 1 to 4 ranks.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1

check "synth" copse synth set --classes 3 --train-per-class 12 --test-per-class 4 --seed 5
check "pictures of it" copse inspect set/train-*.h5 --table a --records 24
cp -r a b
cp a/000003.jpg b/copy.jpg
cp a/000003.jpg b/again.jpg
cp a/000005.jpg b/other.jpg
: >b/empty1.jpg
: >b/empty2.jpg
# 24 pictures; copies of number 3 that say the same or more, one of number 5 under another label, two empty files.
{
    echo 'file,caption,label,genus'
    i=0
    while [ "$i" -lt 24 ]; do
        printf '%06d.jpg,a plant %d,class %d,Poa\n' "$i" "$((i % 7))" "$((i % 3))"
        i=$((i + 1))
    done
    echo 'copy.jpg,a plant 3,class 0,Poa'
    echo 'again.jpg,seen twice,class 0,Poa'
    echo 'other.jpg,another,class 1,Poa'
    echo 'empty1.jpg,nothing,,'
    echo 'empty2.jpg,nothing,,'
} >b/list.csv
{
    echo 'file,caption,label'
    printf '%06d.jpg,kept for tests,class 0\n' 0 9 21
} >a/test.csv

sources=b/list.csv
packs() { # packs NAME RANKS OPTION...: into NAME/, its report in NAME.txt
    name=$1 on=$2
    shift 2
    run ranks "$on" pack "$name/" "$sources" --shard-images 5 "$@"
    cp "$output" "$name.txt"
    [ "$code" -eq 0 ]
}

says() { # says NAME PATTERN
    if grep -q -E -e "$2" "$1.txt"; then
        pass "$1: $2"
    else
        fail "$1" "no '$2'"
    fi
}

same() { # same NAME OPTION...: the shards of 1, 2, 3 and 4 ranks
    what=$1
    shift
    for on in 1 2 3 4; do
        packs "$what$on" "$on" "$@" || fail "$what on $on ranks" "exit code $code"
    done
    for on in 2 3 4; do
        check "$what: the same shards on $on ranks" diff -r "${what}1" "$what$on"
        sed -i "s/^$what$on/${what}1/" "$what$on.txt"
        check "$what: the same report on $on ranks" diff "${what}1.txt" "$what$on.txt"
    done
}

same plain
says plain1 '^plain1/: 29 records'
same dedup --dedup
says dedup1 '^dedup1/: 26 records'
says dedup1 "3 records are left out: .* copies of others'; 1 captions went .* 1 differ"
says dedup1 "^    other.jpg = 000005.jpg \(label 'class 1', kept is 'class 2'\)"
says dedup1 '^    copy.jpg = 000003.jpg$'
says dedup1 '^    again.jpg = 000003.jpg$'
says dedup1 '^  2 pictures cannot be read'
check "record 3" copse inspect dedup1/data-00000.h5 --sample 3 --out sample
expect "has the captions of its copies, once" 0 '"caption": *\[ *"a plant 3", *"seen twice" *\]' cat sample/record.json

# Shards that are to share no picture: as they came, reduced, and under other names.
check "pack tests" copse pack tests/ a/test.csv
check "pack tests, encoded anew" copse pack small/ a/test.csv --resize 20 --quality 60
mkdir renamed
for i in 0 9 21; do cp "a/$(printf %06d $i).jpg" "renamed/test$i.jpg"; done
printf 'file,caption\ntest0.jpg,x\ntest9.jpg,x\ntest21.jpg,x\n' >renamed/test.csv
check "pack tests, encoded anew under other names" copse pack moved/ renamed/test.csv --resize 20
check "verify them" copse verify small/data-00000.h5 moved/data-00000.h5
for kind in tests small moved; do
    same "$kind.left" --exclude "$kind"
    says "$kind.left1" ': 26 records'
    says "$kind.left1" '3 records are left out: their pictures are in the shards to exclude'
done
same both --exclude 'te*s/data-*.h5' --exclude moved --dedup
says both1 ': 23 records'
check "excluded and plain differ in what they say they are" test -n "$(diff plain1/data-00000.h5 tests.left1/data-00000.h5)"

# Held-out names, and copies of held-out pictures under other names.
printf '000003.jpg\nelsewhere/000005.jpg\nclass 1\n' >held.txt
same held --hold-out held.txt
says held1 ': 18 records'
says held1 '9 records are held out by species and 2 by file, 3 names in the lists'
expect "the class is gone with its records" 0 '2 classes' copse inspect held1/*.h5
same heldcopies --hold-out held.txt --dedup --exclude tests
says heldcopies1 ': 13 records'
says heldcopies1 '2 records are left out: their pictures are copies of held-out ones'
says heldcopies1 '3 records are left out: their pictures are in the shards'

# Ranks and common names from tables.
printf 'kingdom,phylum,class,order,family,genus,species\nPlantae,Tracheophyta,Liliopsida,Poales,Poaceae,Poa,annua\n' >backbone.csv
printf 'scientific_name,common_name\nPoa annua,meadow-grass\nPoa annua,another\n' >common.csv
sed -e '1s/genus/genus,species,family/' -e '2,20s/Poa/Poa,annua,/' -e '21,$s/,Poa$/,Poa,,Poaceae/' -e '/empty/s/,$/,,,/' b/list.csv >b/ranks.csv
sources=b/ranks.csv
same filled --backbone backbone.csv --common common.csv --dedup
says filled1 '26 records'
says filled1 "27 records of the sources got ranks from the backbone's"
says filled1 'family filled in 19'
says filled1 '19 records of the sources got a common name from a list of 1'
sources=b/list.csv
expect_one "nothing is left" 64 'no record is left of 3: 0 are held out, the pictures of 3' copse pack none/ a/test.csv --exclude tests
expect_one "exclude: no such shard" 69 "exclude.*'nowhere/\*.h5'|exclude.*nowhere" copse pack none/ a/test.csv --exclude 'nowhere/*.h5'
expect_one "exclude: not a shard" 65 'exclude.*list.csv' copse pack none/ a/test.csv --exclude b/list.csv
cp tests/data-00000.h5 cut.h5
truncate -s -100 cut.h5
expect_one "exclude: a damaged shard, on one rank of three" 65 'exclude.*cut.h5' \
    ranks 3 pack none/ b/list.csv --exclude tests --exclude cut.h5
check "nothing was written" test ! -e none
finish
