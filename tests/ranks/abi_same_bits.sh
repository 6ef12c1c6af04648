#!/bin/sh
# abi_same_bits.sh: what test objectives train and fit to is the same on 1, 2, 3 and 4 ranks, to the last bit.
# The program beside it writes digests of all parameters to a file.
program=${COPSE_ROOT:?"run it through 'make ranks'"}/tests/ranks/abi_test
here=$(dirname "$0")
scratch=$(mktemp -d "${TMPDIR:-/tmp}/copse-abi-bits.XXXXXX") || exit 74
trap 'rm -rf "$scratch"' EXIT
failed=0
passed=0
for ranks in 1 2 3 4; do
    if "$here/../mpirun.sh" "$ranks" "$program" "$scratch/result-$ranks" >"$scratch/output" 2>&1 &&
        [ -s "$scratch/result-$ranks" ] && cmp "$scratch/result-1" "$scratch/result-$ranks"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED $ranks ranks"
        cat "$scratch/output"
        diff "$scratch/result-1" "$scratch/result-$ranks"
    fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
