#!/bin/sh
# limit: 600
# Files that are not what they should be: a cut shard, plugins of another ABI, a disk that is full during a checkpoint.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/fault/job.inc"
cd "$scratch" || exit 1
fault_set

plugins=$COPSE_ROOT/tests/plugins
expect_one "plugin of another ABI" 69 "wrong_abi.so.*ABI" copse objectives --plugin "$plugins/wrong_abi.so"
expect_one "plugin of the other precision" 69 "wrong_real.so" copse objectives --plugin "$plugins/wrong_real.so"
expect_one "shared object without cps_plugin" 69 "no_entry.so.*cps_plugin" copse objectives --plugin "$plugins/no_entry.so"
fault_job wrong_abi '' "copse.objective.load(\"$plugins/wrong_abi.so\", \"old\") {}"
expect_one "a job that loads it, on two ranks" any "wrong_abi.so.*ABI" copse train wrong_abi.lua -n 2 --threads 1

mkdir whole && cp set/*.h5 whole
shard=$(ls set/train-*.h5 | head -n 1)
truncate -s -2000 "$shard"
fault_job cut
expect_one "a cut shard" 65 "$(basename "$shard")" copse train cut.lua -n 2 --threads 1
cp whole/*.h5 set

# A full disk: room for the data of two checkpoints and a bit, not for three (keep = 2 frees only after the third is whole).
fault_job disk
check "a run up to its first checkpoint" copse train disk.lua --threads 1 --until 2
bytes=$(stat -c %s runs/disk/checkpoints/step-00000002.h5)
mkdir small
if [ "$(id -u)" = 0 ] && mount -t tmpfs -o size=$((bytes * 2 + bytes / 2 + 200000)) tmpfs small 2>/dev/null; then
    cleanup="umount '$scratch/small'"
    expect_one "the disk is full during a checkpoint" 74 'step-00000006.h5.*No space left|No space left.*step-00000006.h5' \
        copse train disk.lua -n 2 --threads 1 --runs small
    check "the checkpoint before it loads" copse inspect small/disk/checkpoints/step-00000004.h5
    check "nothing is left of the other" test "$(ls small/disk/checkpoints | wc -l)" -eq 2
else
    skip "the disk is full during a checkpoint" "mounting a small file system needs root"
fi
finish
