#!/bin/sh
# limit: 600
# A run that is stopped in any way and goes on, on other ranks, ends with the bytes of one that was never stopped: 20 steps in
# one go; 7 steps, then --until, kill -9 of everything, kill -9 during a checkpoint, a signal, a damaged checkpoint; and 60 steps
# that are killed at every new checkpoint. Step 7 lies inside an epoch of 6; evaluations, the best checkpoint and on_evaluate's
# table go on too.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/ranks/bits.inc"
cd "$scratch" || exit 1
# Killed ranks leave their shared memory behind.
mkdir shm
export OMPI_MCA_btl_vader_backing_directory="$scratch/shm"
bits_set

train() { # train RUN RANKS OPTION...
    run_name=$1 ranks=$2
    shift 2
    copse train bits.lua --run "$run_name" -n "$ranks" --threads 1 --set steps=20 --set look_every=5 --set keep_every=7 "$@"
}

# The last checkpoint, predictions and numbers of a run beside those of the one that was not stopped.
same_end() { # same_end NAME RUN [REFERENCE]
    reference=${3:-whole}
    last=$(ls "runs/$reference/checkpoints" | tail -n 1)
    {
        cmp "runs/$reference/checkpoints/$last" "runs/$2/checkpoints/$last" &&
            cmp "runs/$reference/predictions/names.h5" "runs/$2/predictions/names.h5" &&
            numbers_of "runs/$reference" >left && numbers_of "runs/$2" >right && diff left right
    } >"$output" 2>&1
    code=$?
    if [ $code -eq 0 ]; then pass "$1"; else fail "$1" "it does not end with the bits of '$reference'"; fi
}

# Living processes of the session that "setsid" began.
session() { # session LEADER
    for stat in /proc/[0-9]*/stat; do
        line=$(cat "$stat" 2>/dev/null) || continue
        # shellcheck disable=SC2086
        set -- "$1" ${line##*) }
        [ "$5" != "$1" ] || [ "$2" = Z ] || basename "${stat%/stat}"
    done
}

kill_all() { # kill_all LEADER: everything of it at once, as a power failure would
    for process in $(session "$1"); do
        kill -KILL "$process" 2>/dev/null
    done
    wait "$1" 2>/dev/null
    tries=0
    while [ -n "$(session "$1")" ] && [ $tries -lt 100 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
}

await() { # await FILE: at most 60 seconds
    tries=0
    while [ ! -e "$1" ] && [ $tries -lt 1200 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
    [ -e "$1" ]
}

checkpoints() { # checkpoints RUN: names of the whole ones
    ls "runs/$1/checkpoints" 2>/dev/null | grep 'h5$'
}

check "20 steps in one go" train whole 2
check "ended at step 20" test -s runs/whole/checkpoints/step-00000020.h5
expect "a complete run says so" 0 "is complete" train whole 2

expect "--until 7" 0 '' train until 3 --until 7
check "step 7 stands" test -s runs/until/checkpoints/step-00000007.h5 -a ! -e runs/until/checkpoints/step-00000008.h5
expect "goes on" 0 "goes on from .*step-00000007" train until 1
same_end "20 = 7 on 3 ranks, then 1 rank" until

# Rank 0 stops before step 10, so that the others wait for it; then everything is killed.
CPS_FAULT=hang,0,9 setsid "$COPSE" train bits.lua --run killed -n 2 --threads 1 --set steps=20 --set look_every=5 \
    --set keep_every=7 >"$output" 2>&1 </dev/null &
leader=$!
check "a run to be killed reaches step 7" await runs/killed/checkpoints/step-00000007.h5
sleep 0.3
kill_all $leader
check "nothing of it is left" test -z "$(session $leader)"
check "step 7 is the last" test ! -e runs/killed/checkpoints/step-00000014.h5
expect "goes on" 0 "goes on from .*step-00000007" train killed 4
same_end "20 = 7, kill -9 of all, then 4 ranks" killed

expect "killed while a checkpoint is written" 70 'rank 0.*signal 9' env CPS_FAULT=kill_checkpoint,0,14 "$COPSE" train bits.lua \
    --run torn -n 3 --threads 1 --set steps=20 --set look_every=5 --set keep_every=7
check "it is left half written" test -n "$(ls runs/torn/checkpoints | grep 'step-00000014.h5.tmp')"
expect "goes on from the one before" 0 "goes on from .*step-00000010" train torn 2
check "the half-written one is gone" test -z "$(ls runs/torn/checkpoints | grep tmp)"
same_end "20 = 10 and a torn checkpoint, then 2 ranks" torn

# Alone the program gets the signal itself; with -n it passes the signal on.
long="--set steps=60 --set look_every=5"
# shellcheck disable=SC2086
check "60 steps in one go" copse train bits.lua --run long -n 2 --threads 1 $long
for signal in USR1 TERM INT; do
    for ranks in 1 2; do
        # shellcheck disable=SC2086
        "$COPSE" train bits.lua --run $signal$ranks -n $ranks --threads 1 $long --set keep_every=2 >"$output" 2>&1 </dev/null &
        launcher=$!
        tries=0
        while [ -z "$(checkpoints $signal$ranks)" ] && [ $tries -lt 1200 ]; do
            sleep 0.05
            tries=$((tries + 1))
        done
        kill -$signal $launcher
        wait $launcher
        code=$?
        judge "SIG$signal on $ranks ranks" 85 'checkpointed after step [0-9]+'
        # shellcheck disable=SC2086
        expect "goes on after SIG$signal" 0 'goes on from' \
            "$COPSE" train bits.lua --run $signal$ranks -n $((3 - ranks)) --threads 1 $long
        same_end "60 with SIG$signal on $ranks ranks" $signal$ranks long
    done
done

# A power failure at every new checkpoint.
times=0
while [ ! -e runs/often/checkpoints/step-00000060.h5 ] && [ $times -lt 40 ]; do
    before=$(checkpoints often)
    # shellcheck disable=SC2086
    setsid "$COPSE" train bits.lua --run often -n $((times % 4 + 1)) --threads 1 $long --set keep_every=12 \
        >"$output" 2>&1 </dev/null &
    leader=$!
    times=$((times + 1))
    while [ -n "$(session $leader)" ] && [ "$(checkpoints often)" = "$before" ]; do
        sleep 0.02
    done
    kill_all $leader
done
expect "60 steps, killed $times times" 0 '' copse train bits.lua --run often -n 2 --threads 1 $long
same_end "60 steps, killed $times times: the same end" often long

# The newest checkpoint is damaged on disk: the one before it serves.
expect "a run up to step 14" 0 '' train damaged 2 --until 14
check "of which two checkpoints are left" test -e runs/damaged/checkpoints/step-00000010.h5
middle=$(($(stat -c %s runs/damaged/checkpoints/step-00000014.h5) / 2))
printf 'damaged' | dd of=runs/damaged/checkpoints/step-00000014.h5 bs=1 seek=$middle conv=notrunc 2>/dev/null
expect "goes back to the one before" 0 "step-00000014.h5.*going back.*goes on from .*step-00000010" train damaged 3
same_end "20 = 14, damaged to 10, then 3 ranks" damaged

# Another folder is no other run; another job, other data or other kernels are.
mkdir elsewhere
cp -r bits.lua set elsewhere
expect "a run up to step 7" 0 '' train moved 1 --until 7
(
    cd elsewhere || exit
    train moved 2 --runs ../runs
) >"$output" 2>&1
code=$?
judge "goes on with job and data in another folder" 0 'goes on from'
same_end "20 = 7, moved, then 2 ranks" moved
expect "a run up to step 7" 0 '' train other 1 --until 7
expect_one "another learning rate" 64 "another job: stages.1..optimizer.lr was 0.001, now it is 0.002" train other 1 --set lr=2e-3
cp elsewhere/set/test-00000.h5 set/train-00009.h5
expect_one "other data" 64 "other data: the digest of 'paired'" train other 2
rm set/train-00009.h5
if grep -q -w avx512vl /proc/cpuinfo; then
    expect_one "other kernels" 64 "blas_core was \"SkylakeX\", now it is \"Haswell\".*--other-bits" \
        env OPENBLAS_CORETYPE=Haswell "$COPSE" train bits.lua --run other --threads 1 --set steps=20 --set look_every=5
    expect "other kernels, told to go on" 0 "going on with other bits: blas_core" \
        env OPENBLAS_CORETYPE=Haswell "$COPSE" train bits.lua --run other --threads 1 --set steps=20 --set look_every=5 --other-bits
else
    skip "other kernels" "this CPU has no AVX-512"
fi
expect "--fresh begins anew" 0 "moved to 'runs/other.old-1'" train other 2 --fresh
same_end "a fresh run" other
finish
