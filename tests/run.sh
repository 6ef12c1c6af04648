#!/bin/sh
# Runs test programs one after another and sums them up. A program prints "N passed, N failed, N skipped" (vectors) or is a
# cmocka program; either way its exit status decides.
passed=0; failed=0
for program in "$@"; do
    if "$program" >"${TMPDIR:-/tmp}/copse-test.$$" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1)); echo "FAILED $program"; cat "${TMPDIR:-/tmp}/copse-test.$$"
    fi
done
rm -f "${TMPDIR:-/tmp}/copse-test.$$"
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
