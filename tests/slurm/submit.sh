#!/bin/sh
# limit: 700
# copse submit, cancel and doctor on a real Slurm of two nodes: what is refused before it is submitted, two nodes with srun and
# with mpirun, a crash that comes again, bad data, a hang, resubmission without scontrol, cancelling.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/fault/job.inc"
. "$tree/tests/slurm/lab.inc"
cd "$scratch" || exit 1
unset COPSE_SITE
export XDG_CONFIG_HOME="$scratch/config"
lab_start 2
fault_set
steps=40
job() { # job NAME [FIELDS] [OBJECTIVE]
    fault_job "$@"
    sed -i "s/steps = 6/steps = $steps/; s/watchdog_seconds = 10/watchdog_seconds = 600/" "$1.lua"
}
site() { echo "return { launcher = \"$1\", bind = \"none\", threads = 1, time = \"5\" }" >copse-site.lua; }
site "srun --mpi=pmix --kill-on-bad-exit=1"
queue_is_empty() { [ -z "$(squeue -h)" ]; }

# ---- refused before anybody waits in a queue (tests/cli/submit.sh has more of these)
job typo
sed -i 's/global_batch/global_bach/' typo.lua
expect_one "a typo in the job" 64 "typo.lua:12:.*'global_bach' .did you mean 'global_batch'" copse submit typo.lua
job good
expect_one "more ranks than parts" 64 "100 ranks.*4 parts" \
    copse submit good.lua --ranks-per-node 100
expect_one "a partition that Slurm does not know" 64 "sbatch refuses the job: .*[Ii]nvalid partition" copse submit good.lua --partition nowhere
sed 's/^SlurmctldPort=.*/SlurmctldPort=1/' "$SLURM_CONF" >nobody.conf
expect_one "Slurm out of reach" 69 "Slurm cannot be reached" env SLURM_CONF="$scratch/nobody.conf" "$COPSE" submit good.lua
check "nothing was submitted" queue_is_empty

# ---- two nodes; all jobs at once
check "undisturbed" copse train good.lua --threads 1 --runs alone
expect "srun on two nodes" 0 "job [0-9]+: run 'two nodes' on 2 nodes x 1 rank x 1 thread.*look    copse status" \
    copse submit good.lua --nodes 2 --run 'two nodes'
expect_one "not twice" 64 "run 'two nodes' is in the queue already" copse submit good.lua --nodes 2 --run 'two nodes'
site mpirun
check "mpirun on two nodes, two ranks each" copse submit good.lua --nodes 2 --ranks-per-node 2 --run four
site "srun --mpi=pmix --kill-on-bad-exit=1"
check "a rank that dies at one step every time" env CPS_FAULT=kill,1,7 "$COPSE" submit good.lua --nodes 2 --run dies
cp "$COPSE_ROOT/tests/plugins/fails.so" .
job fails '' 'copse.objective.load("./fails.so", "fails") { step = 3, grain = 1 }'
check "bad data" copse submit fails.lua --nodes 2
steps=100000
job long
mkdir without && ln -s /usr/bin/* /bin/* without/ 2>/dev/null
rm -f without/scontrol
check "without scontrol" env PATH="$scratch/without" "$COPSE" submit long.lua --nodes 2 --run chain
check "one to cancel" copse submit long.lua --nodes 2 --run gentle
gentle=$(squeue -h -n gentle -o %i)
check "one that waits for it" copse submit long.lua --nodes 2 --run waits --after gentle
check "one that hangs" copse submit long.lua --nodes 2 --run hangs --stall 8

# A hang: both ranks stand still, the watchdog of the script ends them and starts again.
until_true 120 is_past hangs 4
ranks_of() { for node in node1 node2; do "$lab/node-ctl.sh" $node pids "$1" 2>/dev/null; done | grep -v -e srun -e bash -e slurmstepd | cut -d' ' -f1; }
stopped=$(ranks_of "--run hangs")
kill -STOP $stopped

# The signal before the time limit, early; what it leads to where Slurm cannot requeue.
until_true 120 is_past chain 2
first=$(squeue -h -n chain -o %i)
scancel --batch --signal=USR1 "$first"
until_true 120 is_past gentle 2
expect "cancel one that waits" 0 "waits: job [0-9]+ is out of the queue" copse cancel waits
expect "cancel with a checkpoint" 0 "gentle: job $gentle ends with a checkpoint" copse cancel runs/gentle
ends_as "and so it ends" gentle cancelled 150
check "it is not in the queue again" sh -c "! squeue -h -j $gentle -t PENDING,RUNNING 2>/dev/null | grep ."
expect_one "nothing is left to cancel" 69 "nothing to cancel.*gentle .cancelled" copse cancel gentle

ends_as "srun on two nodes ends" 'two nodes' "done" 150
check "with the bits of one rank" cmp alone/good/checkpoints/step-00000040.h5 'runs/two nodes/checkpoints/step-00000040.h5'
ends_as "mpirun on two nodes ends" four "done" 150
check "with the same bits" cmp alone/good/checkpoints/step-00000040.h5 runs/four/checkpoints/step-00000040.h5
ends_as "bad data is not tried again" fails stopped 150
check "one try, with the reason" grep -q '"reason": "exit status 65: bad data' runs/fails/slurm.json
check "one try" test "$(record fails tries)" = 1
ends_as "a crash at the same step ends" dies stopped 150
check "after two tries without a checkpoint" grep -q 'no new checkpoint in two tries in a row' runs/dies/slurm.json
check "the first of them had made some" test "$(record dies tries)" = 3
expect "status says why" 0 'dies .*failed.*|dies .*lost.*' copse status

second() { squeue -h -n chain -o %i | grep -v "^$first\$"; }
until_true 120 second >/dev/null
check "without scontrol another job goes on" test -n "$(second)"
until_true 120 grep -q '^step' runs/chain/slurm-"$(second)".log
check "from where the first stood" grep -q "goes on from '.*/runs/chain/checkpoints/step-" runs/chain/slurm-"$(second)".log
check "the record has both jobs" grep -q "\"jobs\": \[\"$first\", \"$(second)\"\]" runs/chain/slurm.json
expect "cancel at once" 0 "chain: job $(second) is ended at once" copse cancel chain --now
ends_as "and it is over" chain cancelled 150

at=$(newest_step hangs)
until_true 150 is_past hangs $((at + 2))
show_run hangs >"$output"
code=0
judge "a hang is ended and begun again" 0 'no sign of life for 8 s: ending it.*try 2: starts from step-'
copse cancel hangs --now >/dev/null
ends_as "the hung run can be cancelled" hangs cancelled 150

expect "doctor tries two ranks in a job" 0 'ok +two ranks: srun .*: worked.*0 wrong' copse doctor --slurm
echo 'return { launcher = "srun --mpi=none" }' >bad-site.lua
expect "and says what is wrong" 69 'change  launcher: .*wrong   two ranks: ' copse doctor --slurm --site bad-site.lua
lab_finish
