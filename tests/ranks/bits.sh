#!/bin/sh
# limit: 600
# design.md 2.4, the whole program: parameters, optimizer state, buffers, metrics and predictions are the same bytes on 1, 2, 3
# and 4 ranks, with 6, 8 and 13 grains, recordings kept or made again, for each kernel family of this CPU; with any number of
# threads; with several grains in a part.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/ranks/bits.inc"
cd "$scratch" || exit 1
bits_set

train() { # train RUN RANKS THREADS SETTING...: quiet unless it fails
    run_name=$1 ranks=$2 threads=$3
    shift 3
    settings=
    for setting in "$@"; do
        settings="$settings --set $setting"
    done
    # shellcheck disable=SC2086
    run copse train bits.lua --run "$run_name" -n "$ranks" --threads "$threads" --quiet $settings
    [ "$code" -eq 0 ]
}

compare() { # compare NAME RUN REFERENCE: after a training
    if [ "$code" -ne 0 ]; then
        fail "$1" "exit code $code"
    elif ! same_bits "runs/$3" "runs/$2" >"$output" 2>&1; then
        fail "$1" "the bits differ from those of '$3'"
    else
        pass "$1"
        rm -r "runs/$2"
    fi
}

cores=Haswell
grep -q -w avx512vl /proc/cpuinfo && cores="Haswell SkylakeX"
[ "$cores" != Haswell ] || skip "kernel family SkylakeX" "this CPU has no AVX-512"
for core in $cores; do
    OPENBLAS_CORETYPE=$core
    export OPENBLAS_CORETYPE
    for grains in 6 8 13; do
        reference=$core-$grains
        train "$reference" 1 1 grains=$grains
        check "$core, $grains grains: reference" test "$code" -eq 0 -a -s "runs/$reference/checkpoints/step-00000003.h5"
        for budget in -1 0; do
            for ranks in 1 2 3 4; do
                [ "$ranks $budget" != "1 -1" ] || continue
                train again "$ranks" 1 grains=$grains budget=$budget
                compare "$core, $grains grains, $ranks ranks, budget $budget" again "$reference"
            done
        done
    done
    train again 1 2 grains=8
    compare "$core, 1 rank with 2 threads" again "$core-8"
    train again 2 3 grains=8 budget=0
    compare "$core, 2 ranks with 3 threads, budget 0" again "$core-8"
done
unset OPENBLAS_CORETYPE

# Several grains in a part, more ranks than some parts have grains, tiles of products that are cut (39 rows of 17 tokens), and a
# budget that keeps some recordings.
train parts 1 1 grains=13 parts=5 grain=10
for ranks in 2 3 4; do
    train again $ranks 1 grains=13 parts=5 grain=10 budget=10
    compare "13 grains in 5 parts, $ranks ranks" again parts
done
train sigmoid 1 1 grains=6 objective=sigmoid
train again 4 1 grains=6 objective=sigmoid
compare "sigmoid, 4 ranks" again sigmoid

# The comparison sees what it must see: sums in another order, which reproducible = "run" allows, give other bits.
train run1 1 1 reproducible=run
train run3 3 1 reproducible=run
if same_bits runs/run1 runs/run3 >"$output" 2>&1; then
    fail "another order of sums gives other bits" "1 and 3 ranks with reproducible = run agree: the test may compare nothing"
else
    pass "another order of sums gives other bits"
fi
finish
