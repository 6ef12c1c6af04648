#!/bin/bash
# limit: 180
# The ledger of sweeps under fire: eight processes, two of them killed or frozen at every moment, and each piece of work is
# recorded once and never done by two at a time.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1

# The program with worker.lua in place of `copse sweep`.
mkdir -p home/lua/copse/commands work/alive work/through
ln -s "$tree"/lua/copse/*.lua home/lua/copse
ln -s "$COPSE_ROOT/plugins" home/plugins
ln -s "$tree/tests/lua/ledger/worker.lua" home/lua/copse/commands/sweep.lua
export COPSE_HOME="$scratch/home" LEDGER_CHILD="$tree/tests/lua/ledger/child.sh"
entries=160
workers=()
cleanup='kill -9 "${workers[@]}" 2>/dev/null'

start() { # start PLACE
    "$COPSE" sweep run work --retries $entries >>"worker-$1.log" 2>&1 &
    workers[$1]=$!
}
all_done() {
    [ "$(find work/ledger -name 'done.*' | wc -l)" -eq $entries ]
}

for place in 0 1 2 3 4 5 6 7; do start $place; done
kills=0 freezes=0
for round in $(seq 1 40); do
    sleep 0.$((RANDOM % 4 + 1))
    if all_done; then break; fi
    place=$((RANDOM % 8))
    if [ $((round % 4)) -eq 0 ]; then # longer than a claim lives
        kill -STOP "${workers[$place]}" 2>/dev/null && freezes=$((freezes + 1))
        (
            sleep 3
            kill -CONT "${workers[$place]}" 2>/dev/null
        ) &
        continue
    fi
    kill -KILL "${workers[$place]}" 2>/dev/null && kills=$((kills + 1))
    wait "${workers[$place]}" 2>/dev/null
    start $place
done
echo "$kills kills, $freezes freezes in $round rounds"
for _ in $(seq 1 60); do
    if all_done; then break; fi
    sleep 1
done
ls work/ledger >"$output"
check "all entries are done" all_done
wait_all() {
    local failed=0 pid
    for pid in "${workers[@]}"; do
        timeout 30 tail --pid="$pid" -f /dev/null || failed=1
    done
    return $failed
}
check "every process that lives ends by itself" wait_all
cat worker-*.log >"$output" 2>/dev/null
check "none of them complains" test ! -s "$output"
once() { # every entry has one state, and that is "done"; one outcome that says so
    local folder
    for folder in work/ledger/*; do
        [ "$(find "$folder" -name '*.*' ! -name 'entry.json' ! -name 'outcome.*' | wc -l)" -eq 1 ] || return 1
        [ -e "$folder"/done.* ] || return 1
        token=$(basename "$folder"/done.*) token=${token#done.}
        grep -q '"code":0' "$folder/outcome.$token.json" || return 1
    done
}
check "each is recorded once" once
[ ! -e work/violations ] || cp work/violations "$output"
check "never were two at work on one" test ! -e work/violations
through=$(find work/through -type f | wc -l)
echo "$through pieces of work were finished for $entries records"
check "what was done twice was done for a process that was killed or frozen" test $((through - entries)) -le $((kills + freezes))
check "something was killed" test "$kills" -ge 3
finish
