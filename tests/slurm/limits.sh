#!/bin/sh
# limit: 700
# A time limit that strikes twice and a node that loses its power, on a real Slurm: the runs are queued again by Slurm, go on
# from their last checkpoints and end with the bits of a run that nobody disturbed.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/fault/job.inc"
. "$tree/tests/slurm/lab.inc"
cd "$scratch" || exit 1
unset COPSE_SITE
export XDG_CONFIG_HOME="$scratch/config"
lab_start 5
limit=300
fault_set
fault_job long
sed -i "s/steps = 6/steps = 400/; s/steps = 2,/steps = 20,/; s/watchdog_seconds = 10/watchdog_seconds = 600/" long.lua
echo 'return { launcher = "srun --mpi=pmix --kill-on-bad-exit=1", bind = "none", threads = 1 }' >copse-site.lua

# Slurm looks at time limits twice a minute. So that the run does not end before, its ranks stand still until the signal comes.
check "a run of a minute at most" copse submit long.lua --nodes 2 --run limit --time 1 --warn 30 --sbatch=--nodelist='node[1-2]'
limit_id=$(job_of)
check "a run on two of three nodes" copse submit long.lua --nodes 2 --run power --time 10 --sbatch=--exclude='node[1-2]'
power_id=$(job_of)

ranks_of() { # ranks_of RUN NODE...: pids on this machine
    run=$1
    shift
    for node; do "$lab/node-ctl.sh" "$node" pids "--run $run" 2>/dev/null; done | grep -v -e srun -e bash -e slurmstepd | cut -d' ' -f1
}
asked() { [ "$(grep -c 'asked for a checkpoint' "runs/limit/slurm-$limit_id.log")" -ge "$1" ]; }
tried() { [ "$(record limit tries)" -ge "$1" ] 2>/dev/null && [ "$(grep -c '^stage' "runs/limit/slurm-$limit_id.log")" -ge "$1" ]; }
strike() { # strike N: the N-th signal finds the run standing still
    until_true 120 tried "$1"
    until_true 120 is_past limit $((20 * $1))
    still=$(ranks_of limit node1 node2)
    [ -z "$still" ] || kill -STOP $still # none: the signal came before
    until_true 120 asked "$1"
    [ -z "$still" ] || kill -CONT $still
}

until_true 120 is_past power 20
lost=$(scontrol -o show job "$power_id" | sed -n 's/.* NodeList=\([^ ]*\).*/\1/p')
off=$(scontrol show hostnames "$lost" | tail -n 1)
"$lab/node-ctl.sh" "$off" off
at=$(newest_step power)
check "the run was in its middle" test "$at" -lt 400

strike 1
check "the first signal came" asked 1
strike 2
check "the second, after a requeue" asked 2
check "undisturbed" copse train long.lua --threads 1 --run alone
ends_as "the run ends" limit "done" 150
check "with the bits of a run without limits" cmp runs/alone/checkpoints/step-00000400.h5 runs/limit/checkpoints/step-00000400.h5
check "one job, put back into the queue twice" grep -q "\"jobs\": \[\"$limit_id\"\]" runs/limit/slurm.json
check "three tries, or more where Slurm was quick" test "$(record limit tries)" -ge 3
expect "status knows" 0 'limit +done +400/400' copse status runs/limit

ends_as "without $off the other run ends, too" power "done" 150
check "on other nodes" sh -c "! grep -q $off runs/power/heartbeat.json"
check "as the same job" grep -q "\"jobs\": \[\"$power_id\"\]" runs/power/slurm.json
check "with the same bits" cmp runs/alone/checkpoints/step-00000400.h5 runs/power/checkpoints/step-00000400.h5
check "nothing half written is left" sh -c '! ls runs/*/checkpoints | grep -F .tmp.'
lab_finish
