#!/bin/bash
# limit: 900
# Sweeps: plan, run, status, results; what happens to them: signals, crashes, failures, other runners, deleted and damaged files.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1
limit=500 # a sweep is many runs
check "a data set" copse synth set --classes 4 --train-per-class 24 --test-per-class 4 --seed 3

cat >small.lua <<'END'
local copse = require "copse"
local arg = copse.arg { name = "small", steps = 2, more = false, bad = false, twist = 0 }
return copse.sweep {
  name = arg.name,
  space = {
    lr = arg.more and { 1e-4, 1e-3, 1e-2 } or { 1e-4, 1e-3 },
    method = arg.bad and { "clip", "missing" } or { "clip" },
    idle = { 1, 2 },
  },
  job = function(p)
    local set = p.method == "missing" and "nowhere" or "set"
    return copse.job {
      seed = p.seed + arg.twist,
      model = copse.model { preset = "ViT-Micro-8" },
      tokenizer = copse.tokenizer { merges = "set/tokenizer.txt" },
      data = { paired = copse.shards { set .. "/train-*.h5" } },
      stages = { copse.stage { objective = copse.objective.clip {}, steps = arg.steps, global_batch = 16, grain = 8,
        optimizer = copse.adamw { lr = p.lr } } },
      evaluate = { copse.zero_shot { name = "plants", data = "set/test-*.h5", templates = "plants" } },
      checkpoint = copse.checkpoint { steps = 20 },
    }
  end,
}
END
run_of() { # run_of PATTERN: folder of the only run that matches
    set -- runs/$1
    [ $# -eq 1 ] && echo "$1"
}
beat() { # beat RUN KEY: of its heartbeat
    sed -n "s/.*\"$2\": *\"\{0,1\}\([^\",}]*\).*/\1/p" "$1/heartbeat.json" | head -n 1
}
wait_for() { # wait_for SECONDS COMMAND...
    for _ in $(seq 1 $(($1 * 5))); do
        if "${@:2}"; then return 0; fi
        sleep 0.2
    done
    return 1
}

# ---- plan, run, results
expect "a plan" 0 "idle +lr +method.*= trial.*2 different runs.*'idle' is read by no trial.*TFLOP" copse sweep plan small.lua --check 1
check "a plan writes nothing" test ! -e runs
expect_one "a sweep is no job" 64 "small.lua:3: this file returns a sweep, not a job: 'copse sweep plan'" copse train small.lua
expect_one "a job is no sweep" 64 "returns a job, not a sweep: 'copse train' runs it" copse sweep plan "$tree/jobs/quickstart.lua"
expect "a sweep" 0 "2 of 2 runs done, 0 failed" copse sweep run small.lua -j 2
expect "once more: nothing is left" 0 "2 runs of 4 trials, 2 done;.*2 of 2 runs done" copse sweep run small.lua
check "nothing was trained twice" test "$(beat "$(run_of 'small/001-*')" sessions)" = 1
expect "status of the file" 0 "done.*sweep 'small', 2 runs: 2 done" copse sweep status small.lua
expect "status of the folder" 0 "done.*sweep 'small', 2 runs: 2 done" copse sweep status runs/small
expect "results" 0 'plants.top1.*lr = 0.001' copse sweep results runs/small
expect "results as files" 0 'lines' copse sweep results runs/small --csv out.csv --json out.jsonl
check "a row for each trial, seed and evaluation" test "$(wc -l <out.csv)" -eq 5
check "as JSON lines too" test "$(grep -c '"evaluation":"plants".*"metrics":{.*"parameters":{"lr":' out.jsonl)" -eq 4
expect "importance" 0 'parameter.*share.*by chance.*variance of plants.top1' copse sweep results runs/small --importance
expect_one "a metric that no run gave" 64 "no run gave the metric 'plants.top2' .did you mean" copse sweep results runs/small --metric plants.top2
expect_one "a folder that is no sweep's" 64 "no sweep.json in it" copse sweep status set
expect_one "nothing of that name" 69 "there is no sweep 'nowhere'" copse sweep status nowhere
expect_one "--only of what is not there" 64 "names trial 9" copse sweep run small.lua --only 1,9
expect_one "--only that is none" 64 "numbers of trials are wanted" copse sweep run small.lua --only first

# ---- trials that come and go
expect "a trial is added" 0 "3 runs of 6 trials, 2 done;.*3 of 3 runs done" copse sweep run small.lua --set more=true
check "those that were there stay" test "$(beat "$(run_of 'small/001-*')" sessions)" = 1
expect "it is no longer in the sweep" 0 "no longer in the sweep: 00.-" copse sweep status small.lua
expect "a change makes other trials" 0 "2 different runs; 0 done.*no longer in the sweep, kept in" copse sweep plan small.lua --set twist=1 --check 0

# ---- failures
expect "a trial fails, the others do not" 1 "2 of 4 runs done, 2 failed.*failed: .*nowhere.*logs/" \
    copse sweep run small.lua --set name=broken --set bad=true
check "a stated reason is not tried again" test "$(find runs/broken/ledger -name 'ended.1.*' | wc -l)" -eq 2
expect "status says why" 0 "failed: 00.-.*nowhere.*see runs/broken/logs/" copse sweep status runs/broken
expect "again, when asked" 1 "2 of 4 runs done, 2 failed" copse sweep run small.lua --set name=broken --set bad=true --again
check "and only then" test "$(find runs/broken/ledger -name 'ended.1.*' | wc -l)" -eq 2

# ---- files of users and of bad days
mkdir other && cp small.lua other/small.lua
expect_one "two sweeps of one name" 64 "holds the sweep of another file, .*/small.lua: give this one another name" copse sweep run other/small.lua
key=$(basename "$(run_of 'small/001-*')")
rm -r "runs/small/$key"
expect "a run deleted by hand is seen" 0 "removed.*1 done, 1 deleted by hand" copse sweep status small.lua
printf '{"name":"sma' >runs/small/sweep.json
printf '{"run":"00' >"runs/small/ledger/$key/entry.json"
expect_one "status of a folder whose sweep.json is cut" 65 "sweep.json" copse sweep status runs/small
expect "deleted and cut files: it is done again" 0 \
    "sweep.json was damaged: it is written anew.*entry.json is written anew.*folder was deleted: it is done again.*2 of 2 runs done" \
    copse sweep run small.lua
check "under its name" test -e "runs/small/$key/job.lua"
for file in runs/small/ledger/"$key"/outcome.*; do printf '{"code":' >"$file"; done
expect "an outcome that is cut changes nothing" 0 '2 of 2 runs done' copse sweep run small.lua
rm runs/small/ledger/"$key"/done.*
expect "an entry without a state" 1 "ledger entry damaged, no file says its state: delete the folder runs/small/ledger/$key" copse sweep run small.lua
rm -r "runs/small/ledger/$key"
expect "once it is deleted" 0 '2 of 2 runs done' copse sweep run small.lua
# A claim of a host that is gone, with a time in the future (its clock was wrong): it is watched, then taken.
mv runs/small/ledger/"$key"/done.* "runs/small/ledger/$key/claimed.1.99999-1-ab-node17"
touch -d '+2 years' "runs/small/ledger/$key/claimed.1.99999-1-ab-node17"
expect "a claim from the future" 0 '2 of 2 runs done' copse sweep run small.lua --lost 2
check "its second try" test -n "$(find runs/small/ledger/"$key" -name 'done.2.*')"
mv runs/small/ledger/"$key"/done.* "runs/small/ledger/$key/claimed.3.99999-1-ab-node17"
touch -d '-1 hour' "runs/small/ledger/$key/claimed.3.99999-1-ab-node17"
expect "lost too often" 1 'its runner was lost, after 3 tries' copse sweep run small.lua --lost 2
expect "but not for ever" 0 '2 of 2 runs done' copse sweep run small.lua --again
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
    as="setpriv --reuid=65534 --regid=65534 --clear-groups"
    chmod 755 "$scratch" && touch .try && chmod 644 small.lua
    if $as "$COPSE" --version >/dev/null 2>&1; then
        # shellcheck disable=SC2086
        expect_one "a ledger that may not be written" 74 "may not|cannot" $as "$COPSE" sweep run small.lua
    else
        skip "a ledger that may not be written" "another user cannot start $COPSE"
    fi
else
    chmod -w runs/small runs/small/ledger
    expect_one "a ledger that may not be written" 74 "cannot" copse sweep run small.lua
    chmod +w runs/small runs/small/ledger
fi

# ---- signals and crashes
pid=
cleanup='[ -z "$pid" ] || kill -9 $pid 2>/dev/null'
start() { # start NAME OPTION...: a sweep of long runs
    "$COPSE" sweep run small.lua --set name="$1" --set steps=150 "${@:2}" >"$1.log" 2>&1 &
    pid=$!
}
trained() { # trained NAME STEP: its first run has a checkpoint
    [ -e runs/"$1"/001-*/checkpoints/step-"$(printf %08d "$2")".h5 ]
}
start long --only 1
check "a run is under way" wait_for 100 trained long 20
train=$(beat "$(run_of 'long/001-*')" pid)
kill -9 "$train"
tried() { grep -q 'exit code 137.*tried again' long.log; }
wait_for 30 tried
cp long.log "$output"
check "a run that is killed is tried again" tried
check "it goes on" wait_for 100 trained long 60
kill -TERM $pid
wait $pid
code=$?
pid=
cp long.log "$output"
judge "a signal ends it with checkpoints" 85 "SIGTERM: 1 runs end with a checkpoint"
check "its claim is given back, the try is not counted" test -n "$(find runs/long/ledger/001-* -name 'pending.1')"
start long --only 1
check "another start goes on" wait_for 100 trained long 80
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
start long --only 1
second=$pid
sleep 0.5
start long --only 1
wait $second
first=$?
wait $pid
code=$?
pid=
cp long.log "$output"
judge "two runners after one that was killed: both end well" 0 ''
check "the other one too" test $first -eq 0
check "the run is done" test -n "$(find runs/long/ledger/001-* -name 'done.*')"
check "and whole" trained long 140

# ---- two runners at once
"$COPSE" sweep run small.lua --set name=two --set more=true >two.log 2>&1 &
pid=$!
expect "two runners share the work" 0 "sweep 'two'" copse sweep run small.lua --set name=two --set more=true
wait $pid
check "the other ends well too" test $? -eq 0
pid=
sessions() { for run in runs/two/00*; do [ "$(beat "$run" sessions)" = 1 ] || return 1; done; }
check "no run was trained twice" sessions
check "all are done" test "$(find runs/two/ledger -name 'done.*' | wc -l)" -eq 3
finish
