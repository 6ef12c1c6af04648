#!/bin/sh
# eval_same_bits.sh: metrics and predictions of evaluations are the same bytes on 1, 2, 3 and 4 ranks and with 1, 2 and 3
# threads a rank. The program beside it writes them to a file.
program=${COPSE_ROOT:?"run it through 'make ranks'"}/tests/ranks/eval_test
here=$(dirname "$0")
scratch=$(mktemp -d "${TMPDIR:-/tmp}/copse-eval-bits.XXXXXX") || exit 74
trap 'rm -rf "$scratch"' EXIT
failed=0
passed=0
for run in "1 1" "2 1" "3 2" "4 1" "1 3"; do
    set -- $run
    if "$here/../mpirun.sh" "$1" "$program" "$scratch/result-$1-$2" "$2" >"$scratch/output" 2>&1 &&
        [ -s "$scratch/result-$1-$2" ] && cmp "$scratch/result-1-1" "$scratch/result-$1-$2"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED $1 ranks with $2 threads"
        cat "$scratch/output"
        diff "$scratch/result-1-1" "$scratch/result-$1-$2"
    fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
