#!/bin/sh
# limit: 900
# One rank of three breaks at each named site: all end within 30 seconds, non-zero, with one message that names the rank and
# what happened; the last checkpoint loads, and the same command then finishes the run.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/fault/job.inc"
cd "$scratch" || exit 1
fault_set

await() { # await FILE: at most 60 seconds
    tries=0
    while [ ! -e "$1" ] && [ $tries -lt 600 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
}

break_rank() { # break_rank SITE CODE PATTERN [STEP]
    fault_job "$1"
    name="$1 breaks on rank 1 in step ${4:-3}"
    run env CPS_FAULT="$1,1,${4:-3}" "$COPSE" train "$1.lua" -n 3 --threads 1
    errors=$(grep -c -E '^(error|copse): ' "$output")
    if [ "$seconds" -gt 30 ]; then
        fail "$name" "it took $seconds seconds"
    elif [ "$errors" -ne 1 ]; then
        fail "$name" "$errors messages, one is wanted"
    else
        judge "$name" "$2" "$3"
    fi
    expect "the same command goes on after '$1'" 0 '' copse train "$1.lua" -n 2 --threads 1
    check "and is complete" test -e "runs/$1/checkpoints/step-00000006.h5"
}
break_rank read any 'rank 1'
break_rank head any 'rank 1'
break_rank loss any 'rank 1'
break_rank update any 'rank 1'
break_rank checkpoint 74 'rank 1' 4
break_rank kill 70 'rank 1 .*signal 9'
break_rank hang 70 "rank 1 .*no sign of life for [0-9]+ s"

# The same under a launcher that users start themselves: its own message will do.
fault_job launched
expect "a rank is killed under mpirun" any 'rank 1.*signal 9' env CPS_FAULT=kill,1,3 mpirun --oversubscribe --bind-to none -np 3 \
    "$COPSE" train launched.lua --threads 1
[ "$seconds" -le 30 ] || fail "a rank is killed under mpirun" "it took $seconds seconds"

# A process that stands still altogether cannot speak: rank 0 names it.
fault_job stopped
sed -i 's/steps = 6/steps = 100000/' stopped.lua
start=$(date +%s)
"$COPSE" train stopped.lua -n 3 --threads 1 >"$output" 2>&1 </dev/null &
launcher=$!
await runs/stopped/checkpoints/step-00000002.h5
for environ in /proc/[0-9]*/environ; do
    settings=$(cat "$environ" 2>/dev/null | tr '\0' '\n' | grep -x -e "OMPI_MCA_orte_tmpdir_base=$scratch" -e OMPI_COMM_WORLD_RANK=1)
    if [ "$(echo "$settings" | wc -l)" -eq 2 ]; then
        kill -STOP "$(basename "${environ%/environ}")"
    fi
done
wait $launcher
code=$?
seconds=$(($(date +%s) - start))
judge "rank 1 stands still" 70 "no agreement in '.*' for [0-9]+ s: rank 1 .* did not come"
check "one message" test "$(grep -c -E '^(error|copse): ' "$output")" -eq 1
[ "$seconds" -le 40 ] || fail "rank 1 stands still" "it took $seconds seconds"

# A number that is not finite on one rank: every rank skips the step and says where it came from.
fault_job nan
expect "NaN on rank 1: the step is skipped, rank and tensor are named" 0 "step 4 is skipped: '[a-z_.0-9]+' is not finite on rank 1" \
    env CPS_FAULT=nan,1,3 "$COPSE" train nan.lua -n 3 --threads 1
check "the events have it" grep -q '"step":4,.*"grad_norm":null,.*"skipped":true,"bad_tensor":"[a-z].*","bad_rank":1' runs/nan/events.jsonl
check "no parameter is NaN: the last checkpoint loads" copse inspect runs/nan/checkpoints/step-00000006.h5
fault_job nan_ends 'max_skipped_steps = 0,'
expect_one "too many skipped steps end the run" 1 'skipped' \
    env CPS_FAULT=nan,1,3 "$COPSE" train nan_ends.lua -n 3 --threads 1

# Weights that blow up: every later step is skipped, the eleventh in a row ends the run; no checkpoint is spoilt on disk.
fault_job explodes
sed -i 's/steps = 6/steps = 40/; s/lr = 1e-3/lr = 1e6/' explodes.lua
expect_one "a learning rate that is far too high" 1 "11 steps in a row were skipped.*max_skipped_steps allows 10" \
    "$COPSE" train explodes.lua -n 2 --threads 1
check "its last checkpoint loads" copse inspect "runs/explodes/checkpoints/$(ls runs/explodes/checkpoints | tail -n 1)"

# A plugin that fails where only one rank works.
cp "$COPSE_ROOT/tests/plugins/fails.so" .
fault_job plugin '' 'copse.objective.load("./fails.so", "fails") { step = 3, grain = 1 }'
expect_one "a plugin fails on one rank" 65 'rank 1 .*this objective fails in step 3, grain 1' copse train plugin.lua -n 3 --threads 1
[ "$seconds" -le 30 ] || fail "a plugin fails on one rank" "it took $seconds seconds"

# Signals.
fault_job signal
sed -i 's/steps = 6/steps = 100000/' signal.lua
"$COPSE" train signal.lua -n 2 --threads 1 >"$output" 2>&1 </dev/null &
launcher=$!
await runs/signal/checkpoints/step-00000002.h5
kill -TERM $launcher || :
wait $launcher
code=$?
judge "SIGTERM to 'train -n' ends with a checkpoint" 85 'checkpoint'
last=$(ls runs/signal/checkpoints | tail -n 1)
check "which loads" copse inspect "runs/signal/checkpoints/$last"
finish
