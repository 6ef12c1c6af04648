#!/bin/sh
# limit: 120
# copse status beside a real Slurm of two nodes: runs that wait, run on another host, are silent, are cancelled, vanish from the
# queue; and a queue that does not answer.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/fault/job.inc"
. "$tree/tests/slurm/lab.inc"
cd "$scratch" || exit 1
unset COPSE_SITE
export XDG_CONFIG_HOME="$scratch/config"
lab_seconds=150
lab_start 2
fault_set
fault_job short
fault_job work
sed -i 's/steps = 6/steps = 100000/; s/watchdog_seconds = 10/watchdog_seconds = 600/' work.lua
echo 'return { launcher = "srun --mpi=pmix --kill-on-bad-exit=1", bind = "none", threads = 1, time = "5" }' >copse-site.lua

check "a run" copse submit work.lua
work=$(squeue -h -n work -o %i)
check "one that waits for it" copse submit short.lua --run waits --after work
check "one that leaves the queue by itself" copse submit short.lua --run gone --after work
check "one of two nodes" copse submit short.lua --run pair --nodes 2
check "a local one, to be continued" copse train short.lua --run local --threads 1 --until 2
check "submitted now" copse submit short.lua --run local --after work
until_true 60 is_past work 4
expect "at work on another host" 0 'work +running +[0-9]+/100000 +[0-9:d ]+ .*node[12]\*1' copse status
expect "what Slurm says of it" 0 '"name":"work".*"queue":"RUNNING"' copse status --json
expect "waits, and why" 0 'waits +queued .*job [0-9]+: Dependency' copse status
expect "waits to go on" 0 'local +queued .*2/6 .*Dependency' copse status
until_true 60 has_ended pair
expect "done on two nodes" 0 'pair +done +6/6 .*node1\*1 node2\*1' copse status
scancel "$(squeue -h -n gone -o %i)"
expect "gone from the queue" 0 'gone +lost .*has left the queue without a word' copse status
expect "no word of the queue" 0 'warning: the queue was not asked: .*waits +queued.*work +running' env SLURM_CONF=/nowhere "$COPSE" status
check "said once" test "$(grep -c 'the queue was not asked' "$output")" -eq 1

# Its rank stands still: the record grows old while Slurm says that it is there.
for node in node1 node2; do "$lab/node-ctl.sh" $node pids "--run work"; done | grep -v -e srun -e bash -e slurmstepd |
    cut -d' ' -f1 >ranks
check "its rank is found" test -s ranks
xargs kill -STOP <ranks
touch -d '1 hour ago' runs/work/heartbeat.json
expect "silent, though Slurm says that it runs" 0 'work +silent .*Slurm says RUNNING; no sign of life for 1:00:' copse status
xargs kill -CONT <ranks
check "cancelled" copse cancel work --now
until_true 30 has_ended work
expect "is cancelled" 0 'work +cancelled' copse status
lab_finish
