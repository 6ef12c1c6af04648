# What test scripts share: a scratch folder, running the program, judging exit code and message, the sum at the end.
#     . "$(dirname "$0")/../expect.sh"
#     expect "unknown command" 64 "did you mean 'train'" copse trian
#     finish
# Environment, set by make: COPSE (the program), COPSE_ROOT (its build folder, with plugins/ and tests/), COPSE_BUILD, MAKE, CC.
# shellcheck shell=sh
tree=$(cd "$(dirname "$0")/../.." && pwd)
COPSE=${COPSE:-$tree/build/copse}
COPSE_BUILD=${COPSE_BUILD:-$tree/build}
COPSE_ROOT=${COPSE_ROOT:-$COPSE_BUILD/float}
MAKE=${MAKE:-make}
CC=${CC:-cc}
shared=$tree/../shared
# This process is no part of a make: a make that a test starts must not talk to it.
unset MAKEFLAGS MFLAGS MAKELEVEL
[ "$(id -u)" != 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

scratch=$(mktemp -d "${TMPDIR:-/tmp}/copse-test.XXXXXX") || exit 1
output=$scratch/.output
limit=120 # seconds of one command
cleanup=:
trap 'eval "$cleanup"; rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
# Session files of killed runs must not pile up.
export OMPI_MCA_orte_tmpdir_base="$scratch"
passed=0
failed=0
skipped=0

copse() {
    "$COPSE" "$@"
}

ranks() { # ranks N ARGUMENT...: the program under mpirun
    count=$1
    shift
    mpirun --oversubscribe --bind-to none --mca btl self,vader --mca mpi_yield_when_idle 1 -np "$count" "$COPSE" "$@"
}

pass() {
    passed=$((passed + 1))
    echo "ok    $1"
}

fail() { # fail NAME REASON: shows the last output
    failed=$((failed + 1))
    echo "FAIL  $1: $2; it said:"
    sed 's/^/      /' "$output"
}

skip() { # skip NAME REASON
    skipped=$((skipped + 1))
    echo "skipped: $1: $2"
}

# Judges what "run" left: expected exit code ("any" means any but 0) and an extended regular expression in what was said.
judge() { # judge NAME CODE PATTERN
    if [ "$2" = any ] && [ "$code" -eq 0 ]; then
        fail "$1" "exit code 0, a failure is wanted"
    elif [ "$2" != any ] && [ "$code" -ne "$2" ]; then
        fail "$1" "exit code $code, $2 is wanted"
    elif [ -n "$3" ] && ! tr '\n' ' ' <"$output" | grep -q -E -e "$3"; then
        fail "$1" "no '$3' in the output"
    else
        pass "$1"
    fi
}

run() { # run COMMAND...: sets code and seconds, fills $output. Programs get $limit seconds, functions what the script gets.
    start=$(date +%s)
    if [ "$1" = copse ]; then
        shift
        set -- "$COPSE" "$@"
    fi
    case $(command -v "$1") in
    */*) timeout -k 5 "$limit" "$@" >"$output" 2>&1 </dev/null ;;
    *) "$@" >"$output" 2>&1 </dev/null ;;
    esac
    code=$?
    seconds=$(($(date +%s) - start))
}

expect() { # expect NAME CODE PATTERN COMMAND...
    name=$1 want=$2 pattern=$3
    shift 3
    run "$@"
    judge "$name" "$want" "$pattern"
}

# The same, and one message only: a line that begins with "error:".
expect_one() {
    name=$1 want=$2 pattern=$3
    shift 3
    run "$@"
    if [ "$(grep -c '^error:' "$output")" -ne 1 ]; then
        fail "$name" "$(grep -c '^error:' "$output") error messages, one is wanted"
    else
        judge "$name" "$want" "$pattern"
    fi
}

check() { # check NAME COMMAND...: the command's exit status is the verdict
    name=$1
    shift
    run "$@"
    if [ "$code" -eq 0 ]; then pass "$name"; else fail "$name" "exit code $code"; fi
}

finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ] && [ $((passed + skipped)) -gt 0 ]
    exit
}
