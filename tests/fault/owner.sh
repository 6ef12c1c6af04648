#!/bin/sh
# A run belongs to the process that started last. A second start on the same host is refused while the first lives; where the
# first is out of sight (a lost node), the second takes the run, and the first leaves without writing another byte.
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

fault_job reference
sed -i 's/steps = 6/steps = 300/' reference.lua
check "a run that nobody disturbs" copse train reference.lua --threads 1

# The same host.
sed 's/"reference"/"busy"/; s/steps = 300/steps = 100000/' reference.lua >busy.lua
"$COPSE" train busy.lua --threads 1 >busy.log 2>&1 </dev/null &
first=$!
await runs/busy/checkpoints/step-00000002.h5
expect_one "a second start on the same host" 69 "run 'busy' is being trained by process $first of this host" copse train busy.lua --threads 1
expect_one "and one that would begin anew" 69 "is being trained by process $first" copse train busy.lua --fresh --threads 1
check "the first trains on" kill -0 $first

# The folder is taken away from under it.
mv runs/busy runs/moved
wait $first
code=$?
cp busy.log "$output"
judge "a folder that is moved ends its run" 1 "the folder of run 'busy' was removed or moved"
check "nothing is written to the old place" test ! -e runs/busy

# Another host, as its record would look: all ranks leave together.
sed 's/"reference"/"taken"/; s/steps = 300/steps = 100000/' reference.lua >taken.lua
"$COPSE" train taken.lua -n 2 --threads 1 >taken.log 2>&1 </dev/null &
first=$!
await runs/taken/checkpoints/step-00000002.h5
echo '{"host":"n17","pid":4711,"process_start":1,"slurm_job":"12.1","token":"x"}' >owner && mv owner runs/taken/owner.json
wait $first
code=$?
cp taken.log "$output"
judge "both ranks leave" 1 "^.*error: run 'taken' was taken over by process 4711 on 'n17', Slurm job 12.1"
check "with one message" test "$(grep -c '^error:' taken.log)" -eq 1

# Another host: a process that stands still on a node that seems lost.
if ! unshare --uts true 2>/dev/null; then
    skip "two hosts" "this user may not make a host name of its own (unshare --uts)"
    finish
fi
sed 's/"reference"/"lost"/; s/watchdog_seconds = 10/watchdog_seconds = 1000/' reference.lua >lost.lua
"$COPSE" train lost.lua --threads 1 >lost.log 2>&1 </dev/null &
first=$!
await runs/lost/checkpoints/step-00000004.h5
kill -STOP $first
check "it stands still before the end" test ! -e runs/lost/checkpoints/step-00000300.h5
check "another host goes on with the run" timeout 60 unshare --uts sh -c 'hostname elsewhere && exec "$0" "$@"' \
    "$COPSE" train lost.lua --threads 1
cp -r runs/lost before
kill -CONT $first
wait $first
code=$?
cp lost.log "$output"
judge "the first leaves when it wakes up" 1 "run 'lost' was taken over by process [0-9]+ on 'elsewhere'"
check "and has written nothing" diff -r before runs/lost
check "same bits as undisturbed" cmp runs/reference/checkpoints/step-00000300.h5 runs/lost/checkpoints/step-00000300.h5
finish
