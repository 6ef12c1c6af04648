#!/bin/sh
# eval_same_bits.sh: metrics and predictions of evaluations are the same bytes on 1, 2, 3 and 4 ranks and with 1, 2 and 3
# threads a rank. The programs beside it write them to a file.
programs=${COPSE_ROOT:?"run it through 'make ranks'"}/tests/ranks
here=$(dirname "$0")
scratch=$(mktemp -d "${TMPDIR:-/tmp}/copse-eval-bits.XXXXXX") || exit 74
trap 'rm -rf "$scratch"' EXIT
failed=0
passed=0
for program in eval_test eval_taxa_test; do
    for run in "1 1" "2 1" "3 2" "4 1" "1 3"; do
        set -- $run
        result=$scratch/$program-$1-$2
        if "$here/../mpirun.sh" "$1" "$programs/$program" "$result" "$2" >"$scratch/output" 2>&1 &&
            [ -s "$result" ] && cmp "$scratch/$program-1-1" "$result"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
            echo "FAILED $program on $1 ranks with $2 threads"
            cat "$scratch/output"
            diff "$scratch/$program-1-1" "$result"
        fi
    done
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
