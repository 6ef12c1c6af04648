#!/bin/sh
# copse status on real runs: done, failed, killed, interrupted, stopped, at work; records that are damaged, old, from the future
# or from other hosts; folders that are nested, read-only, vanish, or have odd names. And what runs.facts says of a run.
. "$(dirname "$0")/../expect.sh"
cd "$scratch" || exit 1
beside=0 # a process of ours that still runs
cleanup='[ "$beside" = 0 ] || kill -KILL "$beside" 2>/dev/null'

check "a data set" copse synth set --classes 3 --train-per-class 12 --test-per-class 4 --size 32 --vocabulary 600 --seed 3
cat >job.lua <<'END_OF_JOB'
local copse = require "copse"
local arg = copse.arg { steps = 4, shards = "set/train-*.h5", lr = 1e-3, skips = 10 }
return copse.job {
  name = "demo", seed = 5, max_skipped_steps = arg.skips,
  model = copse.model {
    embed_dim = 16,
    image = copse.tower { kind = "vit", image_size = 32, patch = 16, width = 32, layers = 1, heads = 2 },
    text = copse.tower { kind = "text", width = 32, layers = 1, heads = 2 },
  },
  tokenizer = copse.tokenizer { merges = "set/tokenizer.txt", context = 24 },
  data = { paired = copse.shards { arg.shards } },
  stages = {
    copse.stage {
      objective = copse.objective.clip {}, steps = arg.steps, global_batch = 16, grain = 8,
      optimizer = copse.adamw { lr = arg.lr },
    },
  },
  evaluate = {
    copse.zero_shot { name = "names", data = "set/test-*.h5", templates = "plants", every = 2 },
    copse.retrieval { name = "pairs", data = "set/test-*.h5" },
  },
  checkpoint = copse.checkpoint { best = "names.top1", steps = 2 },
}
END_OF_JOB

train() { # train RUN OPTION...
    run_name=$1
    shift
    copse train job.lua --run "$run_name" --threads 1 --quiet "$@"
}

# One member of one run in the JSON of status: member RUN KEY [PLACE]
member() {
    "$COPSE" status --json ${3:+"$3"} 2>/dev/null | lua5.4 "$tree/tests/cli/status_member.lua" "$1" "$2"
}

says() { # says NAME WANTED RUN KEY [PLACE]
    got=$(member "$3" "$4" ${5:+"$5"} 2>&1)
    echo "$3: $4 is '$got', '$2' is wanted" >"$output"
    if [ "$got" = "$2" ]; then pass "$1"; else fail "$1" "another answer"; fi
}

# ---- nothing there ----
expect_one "no folder of runs" 69 "no run and no folder 'runs'" copse status
mkdir runs
expect "no run in it" 0 "no runs in 'runs'" copse status
expect "no run, as JSON" 0 '^\[\] $' copse status --json
expect_one "a file" 64 "'job.lua' is not a folder" copse status job.lua
expect_one "two forms at once" 64 'give one of them' copse status --json --csv
expect_one "a wait that is none" 64 "'soon': seconds from 1 to 86400" copse status --watch soon

# ---- real runs and how they end ----
check "a run" train done
expect "done" 0 'done +done +4/4 .*names.top1' copse status
says "its exit code" 0 done exit_code
says "its metric is the one that picks the best" names.top1 done metric
says "its hosts" "$(uname -n)*1" done hosts
check "job.json is there" test -s runs/done/job.json
check "a complete run again" train done
says "is still done" done done state
expect "the same name for another job" 64 'started from another job' train done --set lr=2e-3
says "leaves the run done" done done state

expect "a run without data" any 'no-such' train bare --set 'shards=set/no-such-*.h5'
says "failed" failed bare state
expect "says why" 0 'bare +failed .*no-such' copse status
mkdir broken
cp set/train-*.h5 broken/
truncate -s 2000 broken/train-00000.h5
expect "a run on a damaged shard" any 'train-00000.h5' train damaged --set 'shards=broken/train-*.h5'
says "failed too" failed damaged state
check "and mended" train damaged
says "it is done" done damaged state
says "in two tries" 2 damaged tries

CPS_FAULT=nan,0,1
export CPS_FAULT
expect "numbers that are none" 1 'was not finite' train wild --set skips=0
unset CPS_FAULT
says "failed, for a stated reason" 1 wild exit_code

check "--until" train half --until 2
says "stopped" stopped half state
says "at its step" 2 half step
check "goes on" train half
says "to its end" done half state

start_beside() { # start_beside RUN: waits until it has made steps
    "$COPSE" train job.lua --run "$1" --threads 1 --quiet --set steps=1000000 >"$1.log" 2>&1 &
    beside=$!
    tries=0
    until [ "$(member "$1" state 2>/dev/null)" = running ] && [ "$(member "$1" step)" -gt 0 ]; do
        sleep 0.25
        tries=$((tries + 1))
        [ $tries -lt 240 ] || break
    done
}

start_beside beside
expect "a run at work" 0 'beside +running +[0-9]+/1000000 +[0-9:d ]+ .*names.top1' copse status
expect "a second start of it" any '' train beside --set lr=5
says "does not hide it" running beside state
kill -TERM "$beside"
wait "$beside"
code=$?
beside=0
check "it ends with 85" test $code -eq 85
expect "and is to be continued" 0 'beside +to be continued .*a signal asked to stop' copse status
start_beside lost
kill -KILL "$beside"
wait "$beside" 2>/dev/null
expect "killed" 0 "lost +lost .*process $beside on .* has ended without a word" copse status
beside=0
check "a killed run goes on" train lost --set steps=1000000 --until 100
says "in a second try" 2 lost tries

check "on two ranks" train pair -n 2
says "which its hosts say" "$(uname -n)*2" pair hosts
check "--fresh" train pair --fresh
expect "an older run is left out" 0 '1 older runs, moved aside, are not shown' copse status
expect "and is there with --all" 0 'pair.old-1' copse status --all

# ---- forms ----
check "JSON has every run" test "$(copse status --json | grep -o '"folder"' | wc -l)" -eq 9
copse status --csv >runs.csv
check "CSV has a line each, of as many fields" lua5.4 "$tree/tests/cli/status_member.lua" --csv runs.csv 9
COLUMNS=60 copse status >narrow
copse status >wide
check "a table of 60 columns" awk 'length($0) > 60 { print; exit 1 }' narrow
check "and a wide one" awk 'BEGIN { code = 1 } length($0) > 100 { code = 0 } END { exit code }' wide
expect "one run by name" 0 '^run .*done .* 4/4' copse status done
expect "one run by folder" 0 '^run .*half .* 4/4' copse status runs/half/
expect "several places" 0 'done.*half.*2 runs: 2 done' copse status runs/done runs/half
expect "--watch until Ctrl-C" 0 '9 runs:.*9 runs:' timeout --preserve-status -s INT 4 "$COPSE" status --watch 1

# ---- records that cannot be trusted ----
mkdir odd
like_done() { # like_done NAME [SED SCRIPT]: a folder with the record of 'done', changed
    mkdir -p "odd/$1"
    sed "${2:-}" runs/done/heartbeat.json >"odd/$1/heartbeat.json"
}
at_work='s/"state":"done","exit_code":0/"state":"running"/'
elsewhere='s/"host":"[^"]*"/"host":"n99"/'
like_done ended "$at_work"
says "its process is gone" lost ended state odd
like_done other "$at_work;$elsewhere"
says "another host's is believed while it is young" running other state odd
touch -d '1 hour ago' odd/other/heartbeat.json
says "and lost when it is old" lost other state odd
expect "with its silence" 0 'no sign of life for 1:00:0' copse status odd
sed -i 's/"longest_interval":[0-9]*/"longest_interval":1200/' odd/other/heartbeat.json
touch -d '1 hour ago' odd/other/heartbeat.json
says "unless its steps take that long" running other state odd
like_done slow "s/\"state\":\"done\",\"exit_code\":0/\"state\":\"starting\"/;$elsewhere"
touch -d '10 minutes ago' odd/slow/heartbeat.json
says "a start may take its time" starting slow state odd
like_done future "$at_work;$elsewhere;s/\"written\":[0-9.]*/\"written\":$(date +%s)/"
touch -d '1 day' odd/future/heartbeat.json
says "written just now, a day ahead: a clock" running future state odd
sed -i 's/"written":[0-9.]*/"written":1000000000/' odd/future/heartbeat.json
touch -d '1 day' odd/future/heartbeat.json
says "written long ago, a day ahead" lost future state odd
like_done reboot "$at_work;s/\"boot\":\"[^\"]*\"/\"boot\":\"before\"/;s/\"pid\":[0-9]*/\"pid\":$$/"
says "of before a reboot" lost reboot state odd
mkdir odd/empty odd/half odd/list odd/pipe odd/folder odd/old odd/folder/heartbeat.json odd/strange
: >odd/empty/heartbeat.json
head -c 200 runs/done/heartbeat.json >odd/half/heartbeat.json
echo '[1,2]' >odd/list/heartbeat.json
echo '{"state":{},"step":"x","steps":-3,"evaluations":[1],"main_evaluation":7,"pid":"a","loss":null,"hosts":9,"message":[]}' \
    >odd/strange/heartbeat.json
mkfifo odd/pipe/heartbeat.json
cp runs/done/events.jsonl odd/old/
cp runs/done/events.jsonl odd/folder/
cp runs/done/events.jsonl odd/pipe/
for name in empty half list strange old folder pipe; do
    says "record '$name': unknown" unknown $name state odd
done
expect "and why" 0 'empty .*is damaged' copse status odd

# ---- names ----
mkdir names
newline=$(printf 'new\nline')
latin=$(printf 'caf\351')
long=$(printf 'x%.0s' $(seq 200))
for name in 'two words' "it's \"quoted\"" 'a,b' 'Ähre-小麦' "$newline" "$latin" "$long" '-n' '$(touch harm)' '%s%n' '..x'; do
    mkdir -p "names/$name"
    cp runs/done/heartbeat.json "names/$name/"
done
expect "odd names" 0 '10 runs: 10 done' copse status names
check "one line each" test "$(copse status names | wc -l)" -eq 12
check "and are no commands" test ! -e harm
expect "odd names as JSON" 0 'new.nline' copse status names --json
expect "odd names as CSV" 0 'two words,names/two words' copse status names --csv
expect "a long one is cut in the middle" 0 'xxx\.\.\.xxx' env COLUMNS=70 "$COPSE" status names

# ---- folders ----
mkdir -p nest/sweep/a nest/sweep/b nest/sweep/c nest/alone nest/cache/x
for name in sweep/a sweep/b alone; do cp runs/done/heartbeat.json "nest/$name/"; done
cp odd/ended/heartbeat.json nest/sweep/c/
expect "a sweep is one line" 0 'sweep/ \(3 runs\) +2 done, 1 lost +2/3' copse status nest
expect "or each" 0 'sweep/a .*sweep/b .*sweep/c' copse status nest --all
expect "or the folder itself" 0 'a +done .*b +done .*c +lost' copse status nest/sweep
ln -s .. nest/sweep/a/up
ln -s ../nest nest/loop
expect "links in a circle end" 0 'alone' copse status nest
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
    chmod 755 "$scratch"
    chmod -R a-w nest
    expect "a folder that cannot be written" 0 'alone +done' setpriv --reuid=65534 --regid=65534 --clear-groups "$COPSE" status nest
    chmod 700 nest/alone
    expect "a run that cannot be read" 0 'sweep/ .3 runs' setpriv --reuid=65534 --regid=65534 --clear-groups "$COPSE" status nest
elif [ "$(id -u)" != 0 ]; then
    chmod -R a-w nest
    expect "a folder that cannot be written" 0 'alone +done' copse status nest
    chmod -R u+w nest
else
    skip "a folder that cannot be written" "setpriv is missing"
fi
check "nothing is left behind" test -z "$(find . -name '.clock*')"

many() { # runs that come and go while they are listed
    for i in $(seq 300); do
        mkdir -p "flow/r$i" && cp runs/done/heartbeat.json "flow/r$i/"
    done
    (for i in $(seq 300); do rm -rf "flow/r$i"; done) &
    eraser=$!
    result=0
    for i in 1 2 3 4 5 6; do "$COPSE" status flow || result=1; done
    wait $eraser
    return $result
}
check "runs that vanish while they are listed" many

# ---- the queue ----
like_done queued "$at_work;$elsewhere;s/\"sessions\"/\"slurm\":{\"job\":\"4711\"},\"sessions\"/"
expect "without squeue it says so" 0 'warning: the queue was not asked: .*squeue.*queued +running' env PATH=/nonexistent "$COPSE" status odd/queued
mkdir odd/waiting
echo '{"jobs":["4712"],"tries":0,"state":"waiting"}' >odd/waiting/slurm.json
says "submitted and not begun" queued waiting state odd/waiting
echo '{"jobs":["4712"],"tries":3,"state":"stopped","reason":"no new checkpoint in two tries in a row"}' >odd/waiting/slurm.json
says "given up by its batch script" failed waiting state odd/waiting
says "after its tries" 3 waiting tries odd/waiting
cp odd/ended/heartbeat.json odd/waiting/
sed -i 's/"sessions"/"slurm":{"job":"4712"},"sessions"/' odd/waiting/heartbeat.json
says "with a record that says that it goes on" failed waiting state odd/waiting
says "for the reason of the script" 'no new checkpoint in two tries in a row' waiting reason odd/waiting
rm odd/waiting/heartbeat.json
echo '{"jobs":[{}],"tries":{},"reason":7,"nodes":{}}' >odd/waiting/slurm.json
says "and a damaged word of it" queued waiting state odd/waiting

# ---- runs.facts, through a command of its own ----
mkdir -p home
cp -RL "$COPSE_BUILD/lua" home/lua
ln -s "$COPSE_ROOT/plugins" home/plugins
cp "$tree/tests/cli/status_facts.lua" home/lua/copse/commands/status.lua
COPSE_HOME=$scratch/home
export COPSE_HOME
expect "facts of a run" 0 'state done; steps 4; curve 2; names step 4; pairs step 4; checkpoints 4; predictions names pairs; problems 0' \
    copse status runs/half
expect "its job" 0 'lr 0.001; seed 5' copse status runs/half
cp -R runs/half bits
printf '{"event":"step","st' >>bits/events.jsonl
rm bits/provenance.json
echo '{' >bits/job.json
expect "facts of a damaged one" 0 'state done; steps 4;.*problems 2.*job.json. is damaged.*provenance.json is missing' copse status bits
rm -r bits/*
expect "of an empty folder" 0 'state unknown; steps 0; .*events.jsonl is missing' copse status bits
expect "of a folder that is gone" 0 'it is gone' copse status gone
finish
