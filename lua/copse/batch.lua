-- The batch script of a run on Slurm, as text. A pure function of its plan: submit and sweep call it, tests read it.
--
-- batch.script {
--   name = "flowers",                        -- of the job in the queue
--   command = { "/opt/copse/bin/copse", "train", ... },  -- a word each; { shell = '"$SLURM_ARRAY_TASK_ID"' }: as shell
--   script = "/path/runs/flowers/batch.sh",  -- where the text will be: it submits itself again where it cannot requeue
--   log = "/path/runs/flowers/slurm-%j.log", -- as sbatch --output takes it
--   run = "/path/runs/flowers",              -- folder of the run: progress is read and slurm.json written there; nil: neither
--   nodes = 2, ranks_per_node = 4, threads = 8 (nil: not asked for), time = "1-12:00:00" (nil: the partition's),
--   launch = true,                           -- false: the command starts its ranks itself (copse sweep run -n ...)
--   supervise = true,                        -- false: the command is run once, whatever it says
--   array = "0-11%4",                        -- nil: one job
--   tries = 20, stall = 1800, warn = 120,    -- starts at most; seconds without a sign of life; seconds before the time limit
--   site = require "copse.site".load(...),   -- partition, account, launcher, modules, ...
--   options = { "--qos=long" },              -- further #SBATCH lines
-- } -> text
--
-- README.md in commands/ says what the script promises.
local batch = {}

local defaults = { nodes = 1, ranks_per_node = 1, tries = 20, stall = 1800, warn = 120, supervise = true, launch = true }

-- A word as a shell reads it back.
function batch.quote(word)
  if word ~= "" and not word:find "[^%w@%%+=:,./_-]" then return word end
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

local function words(list)
  local out = {}
  for i, word in ipairs(list) do out[i] = type(word) == "table" and word.shell or batch.quote(word) end
  return table.concat(out, " ")
end

-- A value in a #SBATCH line: sbatch knows double quotes and backslashes there.
local function directive_value(value)
  if not value:find "[^%w@%%+=:,./_-]" then return value end
  return '"' .. value:gsub('[\\"]', "\\%0") .. '"'
end

local function directives(plan)
  local site, lines = plan.site or {}, {}
  local function add(name, value)
    if value == nil or value == false then return end
    lines[#lines + 1] = "#SBATCH --" .. name .. (value == true and "" or "=" .. directive_value(tostring(value)))
  end
  add("job-name", plan.name)
  add("nodes", plan.nodes)
  add("ntasks-per-node", plan.ranks_per_node)
  add("ntasks-per-socket", site.ranks_per_socket)
  add("cpus-per-task", plan.threads)
  add("time", plan.time)
  add("partition", plan.partition or site.partition)
  add("account", plan.account or site.account)
  add("array", plan.array)
  add("output", plan.log)
  add("open-mode", "append")
  add("requeue", true)
  add("signal", "B:USR1@" .. plan.warn)
  for _, list in ipairs { site.sbatch or {}, plan.options or {} } do
    for _, option in ipairs(list) do
      local name, value = option:match "^%-%-([^=]+)=?(.*)$"
      add(name, value ~= "" and value or true)
    end
  end
  return table.concat(lines, "\n")
end

-- Name of the launcher: "srun", "mpirun" or another.
function batch.launcher_kind(launcher)
  local name = launcher[1]:match "[^/]*$"
  return (name == "mpiexec" or name == "orterun") and "mpirun" or name
end

-- The launcher's words for this plan: how ranks are bound to cores is its business.
function batch.launcher(plan)
  local site = plan.site or {}
  local list = { table.unpack(site.launcher or { "mpirun" }) }
  local kind, bind = batch.launcher_kind(list), site.bind or "cores"
  local function add(...)
    for _, word in ipairs { ... } do list[#list + 1] = word end
  end
  if kind == "srun" then
    if plan.threads then add("--cpus-per-task=" .. plan.threads) end -- srun does not take it from sbatch
    if bind ~= "none" then add("--cpu-bind=" .. bind) end
  elseif kind == "mpirun" then
    if bind == "none" then
      add("--bind-to", "none")
    else
      local count, where = plan.ranks_per_node, "node"
      if site.ranks_per_socket then count, where = site.ranks_per_socket, "socket" end
      add("--map-by", ("ppr:%d:%s:PE=%d"):format(count, where, plan.threads or 1), "--bind-to", "core")
    end
  end
  return list
end

local function environment(site)
  local lines = {}
  for _, line in ipairs(site.modules or {}) do lines[#lines + 1] = line end
  if site.interface then
    lines[#lines + 1] = "export OMPI_MCA_btl_tcp_if_include=" .. batch.quote(site.interface)
    lines[#lines + 1] = "export OMPI_MCA_oob_tcp_if_include=" .. batch.quote(site.interface)
  end
  local names = {}
  for name in pairs(site.environment or {}) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do lines[#lines + 1] = "export " .. name .. "=" .. batch.quote(site.environment[name]) end
  if #lines == 0 then return "" end
  return "\n# ---- the site's environment\n" .. table.concat(lines, "\n") .. "\n"
end

local head = [=[
#!/bin/bash
# @NAME@: Copse on Slurm. Written by 'copse @COMMAND@'; works by hand, too:   sbatch @SCRIPT@
@WHAT@
@DIRECTIVES@
@ENVIRONMENT@
# ---- what is run
command=(@WORDS@)
launcher=(@LAUNCHER@)
]=]

local supervised = [=[
# It starts the command, passes the signal before the time limit on to it, and starts it again where that makes sense:
#   0                finished: the job ends
#   85               a checkpoint was written after a signal: back into the queue
#   1, 64, 65, 69    ended for a stated reason that another try would not change: the job ends
#   anything else    a crash, a lost node, a hang: again from the last checkpoint
# Two tries in a row without a new checkpoint end the job with a reason, and so do @TRIES@ tries in all.]=]

-- Without a folder of a run there is nothing to judge another try by.
local relayed = [=[
# It starts the command, passes the signal before the time limit on to it, and puts the job back into the queue when the
# command ends with 85 (a checkpoint was written). Any other end is the job's: the command keeps its own record.]=]

local once = [=[
# It runs the command once and passes on the signal before the time limit.]=]

local run_once = [=[

pid=
trap '[ -z "$pid" ] || kill -USR1 "$pid"' USR1
trap '[ -z "$pid" ] || kill -TERM "$pid"' TERM
"${launcher[@]}" "${command[@]}" </dev/null &
pid=$!
while kill -0 "$pid" 2>/dev/null; do wait "$pid"; done
wait "$pid"
]=]

local supervisor = [=[
run=@RUN@            # folder of the run; empty: the command keeps its own record
script=@SCRIPT@
log=@LOG@
most_tries=@TRIES@   # starts of the command, over all requeues
stall=@STALL@        # seconds without a sign of life after which the run counts as hung

# ---- who we are
id=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_JOB_ID-}" ]; then id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
me=$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}    # this incarnation of the job
record=$run/slurm.json

say() { printf '%s job %s try %s: %s\n' "$(date +%FT%T)" "$me" "$tries" "$*"; }

# ---- the record beside the run, for 'copse status' and for the next incarnation
field() { sed -n "s/^  \"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" "$record" 2>/dev/null | head -n 1; }
number() { case ${1-} in '' | *[!0-9]*) echo 0 ;; *) echo "$1" ;; esac; }
json() {
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    printf '"%s"' "${text//[[:cntrl:]]/ }"
}
# A later incarnation may run while this one still lives on a node that was lost: then this one keeps quiet.
is_ours() { [ -z "$run" ] || [ "$(field incarnation)" = "$me" ]; }
write_record() { # STATE CODE REASON
    [ -n "$run" ] || return 0
    {
        printf '{\n  "incarnation": "%s",\n  "state": "%s",\n  "code": %s,\n' "$me" "$1" "$2"
        printf '  "reason": %s,\n  "tries": %s,\n  "stuck": %s,\n  "from": "%s",\n' "$(json "$3")" "$tries" "$stuck" "$from"
        printf '  "nodes": %s,\n  "jobs": [%s],\n' "$(json "${SLURM_JOB_NODELIST-}")" "$jobs"
        printf '  "script": %s,\n  "log": %s\n}\n' "$(json "$script")" "$(json "$log")"
    } >"$record.tmp.$me" && mv -f "$record.tmp.$me" "$record"
}
note() { # STATE CODE REASON
    say "$3"
    if is_ours; then write_record "$@"; fi
}

# ---- progress and signs of life, from what the run writes
# The newest checkpoint, "step-00000020.h5 1795359275". Under its final name a checkpoint is complete.
progress() {
    local file newest=
    [ -n "$run" ] || return 0
    for file in "$run"/checkpoints/step-*.h5; do newest=$file; done
    stat -c '%n %Y' "$newest" 2>/dev/null | sed 's|.*/||'
}
signs() { [ -z "$run" ] || stat -c '%n %i %s %Y' "$run"/heartbeat.json "$run"/events.jsonl "$run"/checkpoints/* 2>/dev/null; }
judge() { if [ -n "$run" ] && [ "$(progress)" = "$from" ]; then stuck=$((stuck + 1)); else stuck=0; fi; }

# ---- ends
finish() { # STATE CODE REASON
    note "$@"
    exit "$2"
}
is_cancelled() { [ -n "$run" ] && [ "$(cat "$run/cancel" 2>/dev/null)" = "$SLURM_JOB_ID" ]; }
# Slurm keeps apart who ended a job: a time limit, or somebody.
was_cancelled_by_slurm() { scontrol -o show job "$SLURM_JOB_ID" 2>/dev/null | grep -q 'JobState=CANCELLED'; }
stop_if_hopeless() { # CODE REASON
    if [ "$stuck" -ge 2 ]; then finish stopped "$1" "$2; no new checkpoint in two tries in a row"; fi
    if [ "$tries" -ge "$most_tries" ]; then finish stopped "$1" "$2; that was try $tries of at most $most_tries"; fi
}
# Slurm ends all processes of this script at once, often before scontrol can say that it worked: it must not take that for a no.
requeue() {
    local answer
    command -v scontrol >/dev/null || return 1
    (trap '' TERM && exec scontrol requeue "$id")
    answer=$?
    [ "$answer" = 0 ] || [ "$answer" -ge 128 ]
}
# Back into the queue; where that is not possible, a new job that waits for the end of this one.
queue_again() { # REASON
    local again next
    stop_if_hopeless 85 "$1"
    is_ours || exit 0
    note waiting 85 "$1: back into the queue"
    if requeue; then
        trap 'exit 85' TERM
        sleep 600 # Slurm ends this script
        exit 85
    fi
    again=(sbatch --parsable --dependency="afterany:$id")
    [ -z "${SLURM_ARRAY_TASK_ID-}" ] || again+=(--array="$SLURM_ARRAY_TASK_ID")
    if next=$(env -u SLURM_RESTART_COUNT "${again[@]}" "$script"); then
        jobs="$jobs, \"${next%%;*}\""
        finish waiting 85 "$1: Slurm would not requeue, job ${next%%;*} goes on"
    fi
    finish stopped 85 "$1, but Slurm neither requeued this job nor took a new one: sbatch $script"
}

# ---- signals: before the time limit Slurm sends USR1 to this script alone, at the end TERM to everybody
asked='' pid=''
trap 'heed usr1 "asked for a checkpoint: the time limit is near, or copse cancel"' USR1
trap 'heed term "Slurm ends this job"' TERM
pass_on() { [ -z "$pid" ] || kill -USR1 "$pid" 2>/dev/null; }
heed() { # SIGNAL WORDS
    asked="$asked $1"
    pass_on
    say "$2"
}

# ---- one try
# Steps of a launcher that was killed live on, and their ranks with them.
clear_steps() {
    local step
    for step in $(squeue -h -s -j "$id" -o %i 2>/dev/null | grep '\.[0-9][0-9]*$'); do
        scancel --signal=KILL "$step" 2>/dev/null
    done
}
end_hung() {
    say "no sign of life for $stall s: ending it"
    kill -TERM "$pid"
    for _ in {1..20}; do
        kill -0 "$pid" 2>/dev/null || return
        sleep 1
    done
    clear_steps
    sleep 2
    kill -KILL "$pid" 2>/dev/null
}
# Waits for the launcher; traps run in `wait`. Sets code and hung.
watch() {
    local seen now last=$SECONDS nap
    hung=
    seen=$(signs)
    while kill -0 "$pid" 2>/dev/null; do
        sleep 5 &
        nap=$!
        wait -n "$pid" "$nap" 2>/dev/null
        kill "$nap" 2>/dev/null
        now=$(signs)
        if [ "$now" != "$seen" ]; then seen=$now last=$SECONDS; fi
        if [ -n "$run" ] && [ $((SECONDS - last)) -gt "$stall" ]; then
            hung=yes
            end_hung
            last=$SECONDS
        fi
    done
    wait "$pid"
    code=$?
    pid=
}
# What the run itself said at its end, if it spoke in this try: launchers say 1 of failures of their own, and 137 when they
# kill ranks that were about to leave.
beat() { stat -c '%i %Y' "$run/heartbeat.json" 2>/dev/null; }
said() {
    [ -n "$run" ] && [ "$(beat)" != "$beat_before" ] || return 0
    sed -n 's/.*"exit_code":[[:space:]]*\([0-9][0-9]*\).*/\1/p' "$run/heartbeat.json" 2>/dev/null | head -n 1
}
correct_code() {
    local own
    own=$(said)
    case $own in
    85 | 1 | 64 | 65 | 69) code=$own ;;
    '') [ "$code" != 1 ] || [ -z "$run" ] || code=70 ;;
    esac
}
reason_of() {
    case $1 in
    1) echo "the run ended for the reason in its log" ;;
    64) echo "wrong use, or a mistake in the job (see the log)" ;;
    65) echo "bad data (see the log)" ;;
    69) echo "something needed is missing (see the log)" ;;
    esac
}
nodes_answer() {
    [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ] && command -v srun >/dev/null || return 0
    timeout 60 srun --overlap --ntasks-per-node=1 --nodes="$SLURM_JOB_NUM_NODES" true
}

# ---- this job
tries=0 stuck=0 from=none jobs='' why=''
if [ -n "$run" ]; then
    before=$(field incarnation) state=$(field state)
    # This job goes on, by itself or as one that it left behind; otherwise counting begins anew.
    if [ "${before%.*}" = "$SLURM_JOB_ID" ] || [ "$state" = waiting ]; then
        tries=$(number "$(field tries)") stuck=$(number "$(field stuck)") from=$(field from)
        jobs=$(sed -n 's/^  "jobs": \[\([0-9_", ]*\)\].*/\1/p' "$record" 2>/dev/null)
    fi
    case $jobs in *"\"$SLURM_JOB_ID\""*) ;; '') jobs="\"$SLURM_JOB_ID\"" ;; *) jobs="$jobs, \"$SLURM_JOB_ID\"" ;; esac
    # Nobody wrote down how the last try ended: its node was lost, or the job was pre-empted.
    case $state:$tries in running:[1-9]*) judge ;; esac
    write_record running 0 ""
    stop_if_hopeless 1 "the last try ended without a word (a lost node, pre-emption, or the system)"
fi
while :; do
    if is_cancelled; then finish cancelled 85 "ended by copse cancel"; fi
    case $asked in *usr1*) queue_again "the time is over" ;; *term*) finish ended 143 "ended by Slurm before it began" ;; esac
    tries=$((tries + 1))
    from=$(progress)
    say "starts from ${from:-the beginning} on ${SLURM_JOB_NODELIST-?}"
    if is_ours; then write_record running 0 "$why"; fi
    beat_before=$(beat)
    "${launcher[@]}" "${command[@]}" </dev/null &
    pid=$!
    case $asked in ?*) pass_on ;; esac # came before pid was known
    watch
    judge
    is_ours || exit 0
    if [ "$code" = 0 ]; then finish "done" 0 "finished"; fi
    correct_code
    if is_cancelled; then finish cancelled "$code" "ended by copse cancel (exit status $code)"; fi
    case $asked in
    *term*)
        if [ "${asked#*usr1}" = "$asked" ] || was_cancelled_by_slurm; then
            finish ended 143 "ended by Slurm: cancelled, or pre-empted (then Slurm queues it again)"
        fi
        queue_again "the time limit came before a checkpoint was written"
        ;;
    *usr1*) queue_again "the time is over" ;;
    esac
    if [ "$code" = 85 ]; then queue_again "checkpointed after a signal"; fi
    case $hung:$code in :1 | :64 | :65 | :69) finish stopped "$code" "exit status $code: $(reason_of "$code")" ;; esac
    if [ -z "$run" ]; then finish stopped "$code" "exit status $code"; fi
    why="exit status $code"
    [ -z "$hung" ] || why="no sign of life for $stall s"
    say "$why"
    stop_if_hopeless "$code" "$why"
    clear_steps
    sleep 5
    if ! nodes_answer; then queue_again "$why, and a node does not answer"; fi
    why="again after: $why"
done
]=]

-- slurm.json as the script writes it and reads it back: one member a line.
function batch.record(facts)
  local text = require "copse.text"
  local function member(name, value) return ('  "%s": %s'):format(name, text.encode(value, name)) end
  local tries = math.tointeger(facts.tries) or 0
  return "{\n" .. table.concat({
    member("incarnation", facts.job .. ".0"), member("state", facts.state or "queued"), member("code", facts.code or 0),
    member("reason", facts.reason or ""), member("tries", tries), member("stuck", 0), member("from", ""), member("nodes", ""),
    ('  "jobs": ["%s"]'):format(facts.job), member("script", facts.script or ""), member("log", facts.log or ""),
  }, ",\n") .. "\n}\n"
end

local function fill(text, values)
  return (text:gsub("@(%u+)@", values))
end

local function check_texts(plan)
  local texts = { plan.name, plan.script, plan.log, plan.run or "", plan.time or "" }
  for _, word in ipairs(plan.command) do texts[#texts + 1] = type(word) == "table" and word.shell or word end
  for _, text in ipairs(texts) do
    if text:find "%c" then
      system.fail("usage", "the batch script would hold a control character, in '%s': rename it", (text:gsub("%c", "?")))
    end
  end
end

function batch.script(plan)
  plan = setmetatable(plan, { __index = defaults })
  check_texts(plan)
  local values = {
    NAME = plan.name, COMMAND = plan.array and "sweep submit" or "submit", SCRIPT = batch.quote(plan.script),
    LOG = batch.quote(plan.log), RUN = plan.run and batch.quote(plan.run) or "", TRIES = tostring(plan.tries),
    STALL = tostring(plan.stall), DIRECTIVES = directives(plan), ENVIRONMENT = environment(plan.site or {}),
    WORDS = words(plan.command), LAUNCHER = plan.launch and words(batch.launcher(plan)) or "",
  }
  values.WHAT = fill(plan.supervise and (plan.run and supervised or relayed) or once, values)
  return fill(head, values) .. fill(plan.supervise and supervisor or run_once, values)
end

return batch
