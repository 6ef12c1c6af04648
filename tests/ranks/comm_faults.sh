#!/bin/sh
# One rank breaks in each way; all ranks must end in time, non-zero, with one message of ours that names the rank to blame.
#     tests/ranks/comm_faults.sh [PATH-TO-COMM_TEST]
program=${1:-${COPSE_ROOT:-build/float}/tests/ranks/comm_test}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
output=$(mktemp) || exit 74
trap 'rm -f "$output"' EXIT
passed=0; failed=0

# expect MODE EXIT-STATUS PATTERN
expect() {
    timeout -k 5 30 mpirun --oversubscribe --bind-to none --mca btl self,vader --mca mpi_yield_when_idle 1 -np 3 \
        "$program" "$1" >"$output" 2>&1
    status=$?
    # Debian's Open MPI 4.1.4 now and then crashes in mpirun's own clean-up after an abort, when all ranks have ended already.
    if [ "$2" -eq 70 ] && [ "$status" -eq 139 ] && grep -q 'PMIx_server_finalize' "$output"; then
        status=70
    fi
    lines=$(grep -c '^copse: rank' "$output")
    if [ "$status" -eq "$2" ] && { [ -z "$3" ] || { [ "$lines" -eq 1 ] && grep -q "$3" "$output"; }; }; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1)); echo "FAILED $1: exit status $status, $lines messages, wanted $2 and '$3'"; cat "$output"
    fi
}

expect panic 70 '^copse: rank 2 (.*): internal error at .*comm_test.c'
expect hang 70 '^copse: rank 2 (.*): no sign of life for 2 s in test work after'
expect stop 70 "^copse: rank 0 (.*): no agreement in 'place of the test' for [5-9] s: rank 2 (.*) did not come"
CPS_FAULT=read,1,3 expect site 137 ''
CPS_FAULT=nonsense expect '' 64 ''
if grep -q "CPS_FAULT is 'nonsense', 'site,rank,step' is wanted" "$output"; then
    passed=$((passed + 1))
else
    failed=$((failed + 1)); echo "FAILED message of a wrong CPS_FAULT"
fi
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
