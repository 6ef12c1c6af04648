#!/bin/sh
# Runs tests one after another and sums up what they count.
#     tests/run.sh COMMAND...
# A COMMAND is a command line ("tests/mpirun.sh 2 build/float/tests/ranks/x_test"). What it prints decides what it counts:
# cmocka's summary lines, or a last line "N passed, N failed, N skipped"; a command that says neither counts as one by its
# exit status. Exit 77 is a skip: its last line is the reason. A command that fails, counts nothing or outlives its limit is
# a failure, and its output is shown. The limit is 300 seconds, or what a line "# limit: SECONDS" of a script says.
# The last line is the sum; exit 0 when something passed and nothing failed.
passed=0
failed=0
skipped=0
scratch=$(mktemp -d "${TMPDIR:-/tmp}/copse-tests.XXXXXX") || exit 1
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
output=$scratch/output
here=$(dirname "$0")
LSAN_OPTIONS=suppressions=$here/leaks.supp:print_suppressions=0
ASAN_OPTIONS=fast_unwind_on_malloc=0 # frames of libraries without frame pointers
export LSAN_OPTIONS ASAN_OPTIONS

limit_of() { # the script may be the first word of the command, or the second ("lua5.4 tests/x.lua")
    for word in $1; do
        case $word in
        *.sh | *.lua) sed -n 's/^# limit: \([0-9][0-9]*\)$/\1/p' "$word" | head -n 1 ;;
        esac
    done | head -n 1
}

# Sets p f s from the output: sums over all summaries of cmocka, else the last "N passed, ..." line, else nothing.
count() {
    eval "$(awk '
        /^\[  PASSED  \] [0-9]+ test/ { cmocka = 1; p += $4 }
        /^\[  FAILED  \] [0-9]+ test/ { cmocka = 1; f += $4 }
        /^\[  SKIPPED \] [0-9]+ test/ { cmocka = 1; s += $4 }
        /^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$/ { line = 1; lp = $1; lf = $3; ls = $5 + 0 }
        END {
            if (cmocka) printf "p=%d f=%d s=%d", p, f, s
            else if (line) printf "p=%d f=%d s=%d", lp, lf, ls
            else printf "p= f= s="
        }' "$output")"
}

for command in "$@"; do
    limit=$(limit_of "$command")
    start=$(date +%s)
    timeout -k 10 "${limit:-300}" sh -c "exec $command" >"$output" 2>&1 </dev/null
    code=$?
    seconds=$(($(date +%s) - start))
    count
    reason=
    case $code in
    0)
        if [ -z "$p" ]; then
            p=1 f=0 s=0
        elif [ $((p + f + s)) -eq 0 ]; then
            f=1 reason='it ran no test'
        fi
        ;;
    77) [ -n "$p" ] || p=0 f=0 s=1 ;;
    124 | 137) p=${p:-0} f=$((${f:-0} + 1)) s=${s:-0} reason="no end within ${limit:-300} seconds" ;;
    *)
        reason="exit status $code"
        [ -n "$p" ] || p=0 f=1 s=0
        [ "$f" -gt 0 ] || f=1
        ;;
    esac
    passed=$((passed + p))
    failed=$((failed + f))
    skipped=$((skipped + s))
    if [ "$f" -gt 0 ]; then
        echo "FAIL  $command (${reason:-$f failed}, $seconds s); its output:"
        sed 's/^/      /' "$output"
    elif [ $((p)) -eq 0 ]; then
        echo "skip  $command: $(tail -n 1 "$output")"
    else
        echo "ok    $command: $p passed$([ "$s" -eq 0 ] || echo ", $s skipped") ($seconds s)"
        grep -h -i 'skip[ped]*:' "$output" | sort -u | head -n 5 | sed 's/^/      /'
    fi
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
