#!/bin/sh
# checkpoint_same_bytes.sh: checkpoints of the same state are the same bytes on 1, 2, 3 and 4 ranks; 5 steps = 2, save, load
# on another number of ranks, 3; a run that is killed between writing and renaming leaves the older checkpoint, which goes on
# to the same bytes.
program=${COPSE_ROOT:?"run it through 'make ranks'"}/tests/ranks/checkpoint_test
here=$(dirname "$0")
scratch=$(mktemp -d "${TMPDIR:-/tmp}/copse-checkpoint-bytes.XXXXXX") || exit 74
trap 'rm -rf "$scratch"' EXIT
passed=0
failed=0

steps() { # steps RANKS FOLDER LAST [FAULT]
    mkdir -p "$scratch/$2"
    env ${4:+"CPS_FAULT=$4"} timeout -k 5 120 "$here/../mpirun.sh" "$1" "$program" "$scratch/$2" "$3" >"$scratch/output" 2>&1
}

judge() { # judge WHAT: the last command's status
    if [ $? -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED $1"
        cat "$scratch/output"
    fi
}

first=step-00000002.h5
last=step-00000005.h5
for ranks in 1 2 3 4; do
    steps $ranks "straight-$ranks" 5 && cmp "$scratch/straight-1/$last" "$scratch/straight-$ranks/$last"
    judge "5 steps on $ranks ranks"
done
for pair in "1 3" "3 2" "4 1" "2 4"; do
    set -- $pair
    steps "$1" "resumed-$1" 2 && steps "$2" "resumed-$1" 5 && cmp "$scratch/straight-1/$last" "$scratch/resumed-$1/$last"
    judge "2 steps on $1 ranks, 3 on $2"
done

steps 3 killed 2 && ! steps 3 killed 5 kill_checkpoint,1,5 && [ -f "$scratch/killed/$first" ] &&
    [ ! -e "$scratch/killed/$last" ] && steps 2 killed 5 && cmp "$scratch/straight-1/$last" "$scratch/killed/$last"
judge "killed while writing"

! steps 3 failed 5 checkpoint,2,5 && grep -q "rank 2 .*a fault was asked for at 'checkpoint'" "$scratch/output" &&
    [ -z "$(ls "$scratch/failed")" ]
judge "a rank that fails while writing"

echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
