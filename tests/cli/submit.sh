#!/bin/sh
# copse submit, cancel and doctor as far as they go without Slurm: mistakes are told before anything is submitted, the batch
# script is shown, a run of this host is cancelled. tests/slurm/ has the rest.
. "$(dirname "$0")/../expect.sh"
. "$tree/tests/fault/job.inc"
cd "$scratch" || exit 1
unset COPSE_SITE
export XDG_CONFIG_HOME="$scratch/config" HOME="$scratch"
fault_set

# ---- mistakes
fault_job typo
sed -i 's/global_batch/global_bach/' typo.lua
expect_one "a typo in the job" 64 "typo.lua:12:.*'global_bach' .did you mean 'global_batch'" copse submit typo.lua
fault_job good
expect_one "no such job" 69 "nothing.lua" copse submit nothing.lua
expect_one "an unknown option" 64 "unknown option '--noeds' .did you mean '--nodes'" copse submit good.lua --noeds 2
expect_one "a time that is none" 64 "the time limit is '2 days'" copse submit good.lua --time '2 days'
expect_one "no number" 64 "--nodes is 'two', a whole number" copse submit good.lua --nodes two
expect_one "an option of sbatch that is none" 64 "--sbatch is 'qos'" copse submit good.lua --sbatch qos
expect_one "more ranks than parts" 64 "8 ranks.*4 parts" copse submit good.lua --nodes 2 --ranks-per-node 4
expect_one "no such run to wait for" 64 "--after is 'nothing'" copse submit good.lua --after nothing
expect_one "a run's name that leads elsewhere" 64 "'../x' is no name for a run" copse submit good.lua --run ../x
expect_one "a parameter that is not declared" 64 "'lr'" copse submit good.lua --set lr=1
mkdir without && ln -s /usr/bin/* /bin/* without/ 2>/dev/null
rm -f without/sbatch
expect_one "no sbatch" 69 "sbatch is not on the PATH.*copse train" env PATH="$scratch/without" "$COPSE" submit good.lua
check "nothing was made" test ! -e runs

# ---- the site file
site_says() { # site_says NAME PATTERN TEXT
    echo "$3" >site.lua
    expect_one "site file: $1" 64 "$2" copse submit good.lua --dry-run --site site.lua
}
site_says "an unknown key" "unknown key 'launcer' .did you mean 'launcher'" 'return { launcer = "srun" }'
site_says "a wrong type" "threads: a whole number, 1 or more is wanted, not the string 'many'" 'return { threads = "many" }'
site_says "a binding that is none" "bind: 'cores' or 'none' is wanted" 'return { bind = "socket" }'
site_says "names of the environment" "environment: a table of names and strings" 'return { environment = { ["A B"] = "c" } }'
site_says "no table" "it returns nothing, a table is wanted" 'return'
site_says "no Lua" "site.lua:[12]:" 'return {'
site_says "data alone" "it is data alone" 'return { partition = os.getenv "USER" }'
expect_one "site file: not there" 69 "nowhere.lua" copse submit good.lua --site nowhere.lua
echo 'return { node_memory_mb = 60 }' >site.lua
expect_one "more memory than a node has" 64 "MiB on a node .2 ranks of [0-9]+ MiB., a node has 60" \
    copse submit good.lua --ranks-per-node 2 --site site.lua
shows() { # shows NAME PATTERN ARGUMENT...
    name=$1 pattern=$2
    shift 2
    expect "$name" 0 "$pattern" copse submit good.lua --dry-run "$@"
}
mkdir -p config/copse
echo 'return { partition = "home" }' >config/copse/site.lua
shows "the user's site file" "--partition=home" --threads 1
echo 'return { partition = "beside" }' >copse-site.lua
shows "comes after the one beside the job" "--partition=beside" --threads 1
echo 'return { partition = "named" }' >named.lua
expect "comes after COPSE_SITE" 0 "--partition=named" env COPSE_SITE=named.lua "$COPSE" submit good.lua --dry-run --threads 1
shows "comes after --site" "--partition=named" --threads 1 --site named.lua
shows "comes after the command line" "--partition=typed" --threads 1 --partition typed

# ---- the script
cat >copse-site.lua <<'END'
return { launcher = "mpirun", modules = { "module load openmpi/4.1" }, account = "plants", ranks_per_socket = 2, interface = "ib0",
         environment = { OMPI_MCA_pml = "o b'1" }, sbatch = { "--exclusive" }, warn = 300 }
END
"$COPSE" submit good.lua --nodes 3 --ranks-per-node 1 --threads 4 --time 1-12 --run "it's" --runs 'my runs' --sbatch=--qos=long \
    --dry-run >script.sh 2>"$output"
check "bash reads the script" bash -n script.sh
holds() { check "the script has $1" grep -q -x -F -e "$1" script.sh; }
holds '#SBATCH --nodes=3'
holds '#SBATCH --ntasks-per-node=1'
holds '#SBATCH --ntasks-per-socket=2'
holds '#SBATCH --cpus-per-task=4'
holds '#SBATCH --time=1-12'
holds '#SBATCH --account=plants'
holds '#SBATCH --signal=B:USR1@300'
holds '#SBATCH --exclusive'
holds '#SBATCH --qos=long'
holds '#SBATCH --requeue'
holds 'module load openmpi/4.1'
holds 'export OMPI_MCA_btl_tcp_if_include=ib0'
holds "export OMPI_MCA_pml='o b'\\''1'"
holds 'launcher=(mpirun --map-by ppr:2:socket:PE=4 --bind-to core)'
check "and names quoted" grep -q "^run='$scratch/my runs/it'.''s' " script.sh

# ---- a run of this host
sed 's/"good"/"here"/; s/steps = 6/steps = 100000/' good.lua >here.lua
"$COPSE" train here.lua -n 2 --threads 1 >here.log 2>&1 </dev/null &
launcher=$!
tries=0
while [ ! -e runs/here/checkpoints/step-00000002.h5 ] && [ $tries -lt 600 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
expect_one "a run of this host is not submitted" 64 "run 'here' is being trained here by process" copse submit here.lua --threads 1
expect "cancel a run of this host" 0 "here: process [0-9]+ ends with a checkpoint" copse cancel here
wait $launcher
code=$?
cp here.log "$output"
judge "it ends with a checkpoint" 85 "a signal asked to stop: checkpointed"
expect_one "then there is nothing to cancel" 69 "nothing to cancel: no run goes on in here: here .checkpointed" copse cancel here
expect_one "no such run" 69 "no run and no folder 'nobody'" copse cancel nobody

# ---- doctor
echo 'return { launcher = "mpirun" }' >copse-site.lua
expect "doctor" 0 "ok +program: .*ok +objectives: [1-9].*ok +two ranks: mpirun -np 2 .*: worked.* 0 wrong" \
    env -u OMPI_ALLOW_RUN_AS_ROOT -u OMPI_ALLOW_RUN_AS_ROOT_CONFIRM "$COPSE" doctor
check "leaves nothing behind" test -z "$(ls -A runs | grep doctor)"
echo 'return { launcher = "mpirun", interface = "ib7" }' >copse-site.lua
expect "an interface that is not there" 69 "wrong   network: there is no interface 'ib7'" copse doctor
touch file
expect "a runs folder that is none" 69 "wrong   runs folder: " copse doctor --runs file
finish
