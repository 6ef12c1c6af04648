#!/bin/sh
# Runs test programs of several ranks: run.sh [-n "1 2 3 4"] [-t SECONDS] PROGRAM...
# Each program is started with each number of ranks; one rank goes without a launcher, as users start it. Running over the
# time limit is a failure. Prints what failed with its output; exit status 0 when nothing did.
ranks="1 2 3 4"; limit=120
while getopts n:t: option; do
    case $option in
    n) ranks=$OPTARG ;;
    t) limit=$OPTARG ;;
    *) exit 64 ;;
    esac
done
shift $((OPTIND - 1))
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
output=$(mktemp) || exit 74
trap 'rm -f "$output"' EXIT
passed=0; failed=0; skipped=0
for program in "$@"; do
    for n in $ranks; do
        if [ "$n" -eq 1 ]; then
            timeout -k 5 "$limit" "$program" >"$output" 2>&1
        else
            timeout -k 5 "$limit" mpirun --oversubscribe --bind-to none --mca btl self,vader \
                --mca mpi_yield_when_idle 1 -np "$n" "$program" >"$output" 2>&1
        fi
        status=$?
        if [ "$status" -eq 0 ] && grep -q '^skipped' "$output"; then
            skipped=$((skipped + 1)); echo "$program on $n ranks: $(grep -m 1 '^skipped' "$output")"
        elif [ "$status" -eq 0 ]; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
            if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
                echo "FAILED $program on $n ranks: over $limit s"
            else
                echo "FAILED $program on $n ranks: exit status $status"
            fi
            cat "$output"
        fi
    done
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
