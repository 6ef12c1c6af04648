#!/bin/sh
# limit: 300
# Pictures that cannot be read, in the source or damaged later inside the shard: records keep their count and order, training
# replaces and counts them, quarantine.jsonl lists each once with its reason, and bits do not depend on ranks.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/fault/job.inc"
. "$tree/tests/ranks/bits.inc"
cd "$scratch" || exit 1
fault_set

# Lines of a file of events or quarantine that have all patterns.
count_of() { # count_of FILE PATTERN
    grep -c -e "$2" "$1"
}

# Sum of "bad_images" over the steps of a run.
bad_in_steps() { # bad_in_steps RUN
    sed -n 's/^{"event":"step".*"bad_images":\([0-9]*\).*/\1/p' "$1/events.jsonl" | awk '{ sum += $1 } END { print sum + 0 }'
}

# ---- damage inside a shard ----------------------------------------------------------------------------------------------------
# 128 records in one shard; three pictures get other bytes. Two epochs of four steps meet each of them twice.
shard=set/train-00000.h5
damaged=0
for at in $(LC_ALL=C grep -obUaP '\xff\xd8\xff' $shard | cut -d: -f1 | awk 'NR == 1 || NR == 64 || NR == 128'); do
    printf 'no picture any more' | dd of=$shard bs=1 seek=$((at + 30)) conv=notrunc 2>/dev/null
    damaged=$((damaged + 1))
done
check "three pictures are damaged" test $damaged -eq 3
expect_one "verify names them" 65 'train-00000.h5.*record 0' copse verify $shard
fault_job damaged
sed -i 's/steps = 6/epochs = 2/' damaged.lua
expect "training goes on" 0 'step 8/8' copse train damaged.lua -n 2 --threads 1
check "replaced and counted in each epoch" test "$(bad_in_steps runs/damaged)" -eq 6
list=runs/damaged/quarantine.jsonl
check "listed once each" test "$(count_of $list '"reason":"[^"]')" -eq 3 -a "$(wc -l <$list)" -eq 3
check "by file and record" test "$(sed -n 's/.*train-00000.h5","record":\([0-9]*\),.*/\1/p' $list | sort -n | tr '\n' ' ')" = '0 63 127 '
expect "alone" 0 '' copse train damaged.lua --run alone --threads 1
check "the same bits alone" same_bits runs/damaged runs/alone
expect "on three ranks, interrupted" 0 '' copse train damaged.lua --run three -n 3 --threads 1 --until 3
expect "goes on" 0 'goes on' copse train damaged.lua --run three --threads 2
check "each is still listed once" test "$(sort -u runs/three/quarantine.jsonl | wc -l) $(wc -l <runs/three/quarantine.jsonl)" = '3 3'
fault_job bounded 'max_bad = 2,'
sed -i 's/steps = 6/epochs = 2/' bounded.lua
expect_one "max_bad ends the run" 1 '3 bad images.*max_bad allows 2.*quarantine.jsonl' copse train bounded.lua -n 2 --threads 1
check "with its list" test -s runs/bounded/quarantine.jsonl

# ---- odd files in the source ------------------------------------------------------------------------------------------------------
odd=$shared/data/odd-jpegs
if [ ! -d "$odd" ]; then
    skip "odd files in the source" "'../shared/data/odd-jpegs' is not there"
    finish
fi
# 24 odd files among 40 good ones: one epoch of two steps.
rm -r set
fault_set
check "good pictures" copse inspect set/train-00000.h5 --table good --records 40
ls "$odd" | grep 'jpg$' | sed "s|^|$odd/|" >odd
ls good | grep 'jpg$' | sed 's|^|good/|' >fine
check "24 odd files and 40 good ones" test "$(wc -l <odd) $(wc -l <fine)" = '24 40'
paste -d '\n' odd fine | grep . | sed = | paste -d , - - | sed 's/^\([0-9]*\),\(.*\)/\2,picture \1/' >records
{
    echo 'file,caption'
    cat records
} >mixed.csv
expect "pack keeps all" 0 'mixed: 64 records in 1 shards.* pictures cannot be read; they are kept' copse pack mixed mixed.csv -n 2
bad=$(sed -n 's/^ *\([0-9]*\) pictures cannot be read.*/\1/p' "$output")
check "and their bytes" copse verify mixed-00000.h5
record=0
while [ $record -lt 64 ]; do
    copse inspect mixed-00000.h5 --sample $record -o one >/dev/null
    grep -o 'picture [0-9]*' one/record.json
    record=$((record + 1))
done >captions 2>"$output"
check "in order" test "$(cat captions)" = "$(sed 's/.*,//' records)"

fault_job mixed
sed -i 's|set/train-|mixed-|; s/steps = 6/epochs = 1/' mixed.lua
cp -r set/tokenizer.txt .
expect "training goes on" 0 "step 2/2" copse train mixed.lua -n 2 --threads 1
list=runs/mixed/quarantine.jsonl
check "as many bad pictures as pack found: $bad" test "$(bad_in_steps runs/mixed)" -eq "$bad" -a "$(wc -l <$list)" -eq "$bad"
check "each with its reason" test "$(count_of $list '"reason":"[^"]')" -eq "$bad"
# Which they are: what README.md of the files wants skipped, and of those it leaves open at most the ones named here.
sed -n 's/.*"record":\([0-9]*\),.*/\1/p' $list | sort -n | while read -r record; do
    sed -n "$((record + 1))p" records | sed 's|,.*||; s|.*/||'
done >skipped
check "the right ones" test -z "$(printf '%s\n' 10_truncated 12_lying_dimensions 17_zero_bytes 18_html_error_page |
    while read -r file; do grep -q "^$file" skipped || echo "$file"; done)" -a -z "$(
    grep -v -E '^(10_|12_|17_|18_|06_cmyk|11_corrupt|20_no_end|22_arith)' skipped
)"
cp skipped "$output"
expect "on three ranks" 0 '' copse train mixed.lua --run three_mixed -n 3 --threads 1
check "the same bits" same_bits runs/mixed runs/three_mixed
finish
