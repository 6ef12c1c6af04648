# What the studies share: runs that go on where they ended, and tables of those that are there. Each study's script reads it:
#     jobs/studies/taxa.sh           trains what is not complete yet, then the tables
#     jobs/studies/taxa.sh table     the tables of what there is
# Environment: COPSE (the program, default build/copse), RUNS (folder, default runs/studies), SEEDS (default "0 1 2"), OPTIONS
# (of every `copse train`, such as "--threads 4").
cd "$(dirname "$0")/../.." || exit 1
COPSE=${COPSE:-build/copse}
SEEDS=${SEEDS:-0 1 2}
RUNS=${RUNS:-runs/studies}/$(basename "$0" .sh)
case $RUNS in
/*) ;;
*) RUNS=$PWD/$RUNS ;;
esac
mode=${1:-run}
number=0
run_count=0
failed=
stopped=
case $mode in
table) ;;
run)
    command -v "$COPSE" >/dev/null || { echo "$0: there is no program '$COPSE': make builds it, COPSE names another" >&2; exit 69; }
    mkdir -p "$RUNS" || exit 74
    trap 'stopped=yes' INT TERM # the run at work gets the signal too, or ends at its own pace
    ;;
*)
    echo "$0: '$mode' is no mode: leave it out to train, or write 'table' for the tables alone" >&2
    exit 64
    ;;
esac

# count_runs EACH [ONCE]: how many runs there will be, EACH for every seed.
count_runs() {
    each=$1 once=${2:-0}
    # shellcheck disable=SC2086 # a list of words
    set -- $SEEDS
    run_count=$((each * $# + once))
}

# run NAME JOB [--set KEY=VALUE]...: trains it, goes on with it, or finds it complete. A run that fails is listed at the end; one that
# is interrupted ends the study.
run() {
    name=$1 job=$2
    shift 2
    number=$((number + 1))
    [ "$mode" = run ] || return 0
    begun=$(date +%s)
    # shellcheck disable=SC2086 # a list of options
    "$COPSE" train "jobs/studies/$job" --runs "$RUNS" --run "$name" $OPTIONS "$@" >"$RUNS/$name.log" 2>&1
    code=$?
    if [ -n "$stopped" ] || [ $code -eq 85 ] || [ $code -gt 128 ]; then
        echo "interrupted at $name, $number of $run_count: the same command goes on"
        exit 85
    fi
    if [ $code -eq 0 ]; then
        echo "$number of $run_count: $name, $(($(date +%s) - begun)) s"
    else
        echo "$number of $run_count: $name failed with exit code $code: $(tail -n 1 "$RUNS/$name.log")"
        failed="$failed $name"
    fi
}

# table ROWS COLUMNS: lists with ';' between elements. A row is LABEL=RUN or LABEL=RUN=WORD, its runs are RUN-<seed>; a column is
# HEADER=EVALUATION.METRIC, or HEADER=finish:STAGE.NUMBER, where '%' stands for the row's word. Markdown: mean ± standard deviation
# over the seeds that are there.
table() {
    echo
    awk -v runs="$RUNS" -v seeds="$SEEDS" -v rows="$1" -v columns="$2" -f jobs/studies/table.awk
    echo
}

# value RUN EVALUATION.METRIC: the last one of a run, or nothing.
value() {
    awk -v runs="$RUNS" -v run="$1" -v metric="$2" -f jobs/studies/table.awk
}

# The end of a study; its exit status.
finish() {
    [ -z "$failed" ] || echo "failed:$failed (what they said: $RUNS/<run>.log)"
    [ -z "$failed" ]
}
