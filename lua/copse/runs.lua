-- Runs on disk, for drivers: finding them, how they stand, what they gave. Everything is read from files that may be half
-- written, old, damaged, or vanish while they are read: what cannot be read is nil and named in `problems`, never an error.
-- Needs `system` (runtime/job/README.md); the members of heartbeat.json are in runtime/report/README.md.
local runs = {}

local DEPTH = 4 -- of folders below the one that was named
local MOST_BYTES = { heartbeat = 4 * 2 ^ 20, json = 64 * 2 ^ 20 }
local LOST_SECONDS, LOST_STARTING_SECONDS = 120, 1800 -- without a sign of life, before a run on another host counts as lost
local FUTURE_SECONDS = 60

-- ---- small pieces ----

local function base_name(path)
  return path:gsub("/+$", ""):match("[^/]*$")
end

local function join(folder, name)
  return folder == "" and name or folder .. "/" .. name
end

-- A JSON object in a file, or nil, the reason, and the error's name. Other things than files are not opened: a pipe would wait.
local function read_object(path, most)
  local facts, message, code = system.stat(path)
  if not facts then return nil, message, code end
  if facts.kind ~= "file" then return nil, "'" .. path .. "' is not a file", "EINVAL" end
  local text
  text, message, code = system.read(path, most)
  if not text then return nil, message, code end
  local value
  value, message = system.decode(text, path)
  if type(value) ~= "table" then
    return nil, "'" .. path .. "' is damaged: " .. (message or "an object is wanted"), "EBADMSG"
  end
  return value, facts.time
end

local function is_file(path)
  local facts = system.stat(path)
  return facts ~= nil and facts.kind == "file"
end

-- `value` where it has the type that is wanted; files may hold anything.
local function typed(value, kind)
  if type(value) == kind then return value end
end

-- ---- finding ----

-- Folders without runs: of features and shards beside runs, of a sweep's own papers.
local not_runs = { cache = true, shards = true }
local not_trials = { ledger = true, jobs = true, logs = true }

local function is_skipped(name, of_sweep)
  return name:sub(1, 1) == "." or not_runs[name] or (of_sweep and not_trials[name])
end

-- Runs in and below `folder`, into `found`; returns whether there are any. `name` is what it is called, "" at the top.
local function search(folder, name, group, depth, found)
  if is_file(folder .. "/heartbeat.json") then
    found[#found + 1] = { folder = folder, name = name, group = group }
    return true
  end
  local before, of_sweep = #found, is_file(folder .. "/sweep.json")
  for _, entry in ipairs(depth > 0 and system.list(folder) or {}) do
    if not is_skipped(entry, of_sweep) then search(folder .. "/" .. entry, join(name, entry), name, depth - 1, found) end
  end
  if #found == before and (is_file(folder .. "/events.jsonl") or is_file(folder .. "/slurm.json")) then
    found[#found + 1] = { folder = folder, name = name, group = group }
  end
  return #found > before
end

-- What a word of the command line names: a folder, or a run in the folder `runs`.
local function place_of(word)
  local facts = system.stat(word)
  if facts then return word, facts end
  if not word:find("/", 1, true) then
    facts = system.stat("runs/" .. word)
    if facts then return "runs/" .. word, facts end
  end
end

-- Runs in the folders `places` (paths; or names of runs in ./runs), each a run, a folder of runs, or one of a sweep: a list of
-- { folder, name = path below the place, group = folder of several runs that it lies in, "" at the top,
--   old = moved aside by --fresh }.
-- A place that is not there ends the command.
function runs.find(places)
  local found = {}
  for _, word in ipairs(places) do
    local place, facts = place_of(word)
    if not place then
      system.fail("missing", "there is no run and no folder '%s': name a run, or the folder that holds runs ('runs' where "
        .. "'copse train' was started)", word)
    elseif facts.kind ~= "folder" then
      system.fail("usage", "'%s' is not a folder: name a run, or the folder that holds runs", word)
    end
    local first = #found + 1
    search(place:gsub("(.)/+$", "%1"), "", "", DEPTH, found)
    for i = first, #found do
      local run = found[i]
      if run.name == "" then run.name = base_name(system.absolute(place) or place) end
      run.old = run.name:find("%.old%-%d+$") ~= nil
    end
  end
  return found
end

-- ---- how a run stands ----

-- The file system's clock of `folder`: mtimes are its time, and nodes' clocks may differ from it. Where nothing can be written,
-- this host's.
function runs.clock(folder)
  local path = string.format("%s/.clock-%s-%d", folder, system.host, system.pid)
  if not system.create(path, "") then return system.now() end
  system.touch(path)
  local facts = system.stat(path)
  system.remove(path)
  return facts and facts.time or system.now()
end

-- Start of a process of this machine in ticks since it booted, as cps_process_start; nil: there is none.
function runs.process_start(pid)
  local stat = system.read("/proc/" .. pid .. "/stat")
  local fields, count = stat and stat:match(".*%)(.*)") or "", 0
  if fields:find("^ [ZX]") then return nil end -- has ended, and its parent has not looked yet
  for field in fields:gmatch("%S+") do
    count = count + 1
    if count == 20 then return tonumber(field) end
  end
end

local boot -- of this machine, read once
local function boot_id()
  boot = boot or (system.read("/proc/sys/kernel/random/boot_id") or ""):gsub("%s+$", "")
  return boot
end

-- Whether the process of rank 0 lives: true, false, or nil where this host cannot tell.
local function lives(beat)
  local pid = math.tointeger(beat.pid)
  if beat.host ~= system.host or not pid then return nil end
  if typed(beat.boot, "string") and beat.boot ~= "" and beat.boot ~= boot_id() then return false end
  return runs.process_start(pid) == beat.process_start
end

-- Whether rank 0's process of a record lives, as above: for those that would signal it.
runs.lives = lives

-- Seconds since the record was written. An mtime in the future says nothing; then the writer's own clock does.
local function age_of(beat, time, now)
  local age = now - time
  if age >= -FUTURE_SECONDS then return math.max(age, 0) end
  return math.max(system.now() - (typed(beat.written, "number") or 0), 0)
end

local goes_on = { starting = true, running = true, evaluating = true }
local has_ended = { checkpointed = true, stopped = true, done = true, failed = true }

local function silence(seconds)
  return "no sign of life for " .. runs.duration(seconds)
end

-- The state of a run whose record says that it goes on: as it says, "silent" (it should live, but does not speak), or "lost".
local function judge(beat, age)
  local longest = math.max(typed(beat.longest_interval, "number") or 0, typed(beat.interval, "number") or 0)
  local limit = math.max(beat.state == "starting" and LOST_STARTING_SECONDS or LOST_SECONDS, 4 * longest)
  local alive = lives(beat)
  if alive == false then return "lost", string.format("process %d on %s has ended without a word", beat.pid, beat.host) end
  if age <= limit then return beat.state end
  return alive and "silent" or "lost", silence(age)
end

-- 4:05, 1:02:03, 2d 03:04
function runs.duration(seconds)
  if type(seconds) ~= "number" or seconds ~= seconds or seconds < 0 or seconds > 1e9 then return "?" end
  local s = math.floor(seconds + 0.5)
  local hours, minutes = s // 3600, s // 60 % 60
  if hours >= 24 then return string.format("%dd %02d:%02d", hours // 24, hours % 24, minutes) end
  if hours > 0 then return string.format("%d:%02d:%02d", hours, minutes, s % 60) end
  return string.format("%d:%02d", minutes, s % 60)
end

-- The number that stands for a run: its name, value and step.
local function main_metric(beat)
  local all = typed(beat.evaluations, "table") or {}
  local name = typed(beat.main_evaluation, "string")
  local evaluation = typed(all[name or ""], "table")
  local key = evaluation and typed(evaluation.metric, "string")
  local value = key and typed(evaluation.values, "table") and typed(evaluation.values[key], "number")
  if value then return name .. "." .. key, value, typed(evaluation.step, "number") end
end

local function first_line(message)
  return type(message) == "string" and (message:match("[^\n]+") or "") or nil
end

-- What the batch script leaves beside a run (batch.lua): { jobs = list of ids, state, tries, nodes, reason, ... }, or nil.
function runs.slurm(folder)
  local slurm = read_object(folder .. "/slurm.json", MOST_BYTES.json)
  return slurm
end

local function copy_numbers(from, to, keys)
  for _, key in ipairs(keys) do to[key] = typed(from[key], "number") end
end

local function take_record(row, beat, age)
  row.beat, row.age_seconds = beat, age
  copy_numbers(beat, row, { "step", "steps", "stage_number", "stages", "epoch", "epochs", "loss", "samples_per_second",
    "eta_seconds", "skipped", "bad_images", "checkpoint_step", "exit_code", "ranks", "threads", "started", "sessions" })
  row.stage, row.doing = typed(beat.stage, "string"), typed(beat.doing, "string")
  row.hosts = typed(beat.hosts, "string")
  row.metric, row.value, row.value_step = main_metric(beat)
  if has_ended[beat.state] then
    row.state, row.reason = beat.state, first_line(beat.message)
  elseif goes_on[beat.state] then
    row.state, row.reason = judge(beat, age)
  else
    row.state, row.reason = "unknown", "heartbeat.json names no state that this version knows"
  end
  if not goes_on[row.state] then row.eta_seconds = nil end
end

-- States of a batch script whose run has no record of its own.
local batch_states = { running = "starting", stopped = "failed", ended = "failed", cancelled = "cancelled", done = "done" }
local is_over = { stopped = true, ended = true, cancelled = true, done = true } -- for a batch script

-- The batch script knows more than the run of its tries, and of an end that the run could not write down.
local function take_slurm(row, slurm)
  local jobs, reason = typed(slurm.jobs, "table"), first_line(slurm.reason)
  local newest = jobs and jobs[#jobs]
  row.slurm = slurm
  if type(newest) == "string" then row.job_id = newest end
  row.tries = typed(slurm.tries, "number")
  row.hosts = row.hosts or typed(slurm.nodes, "string")
  row.is_over = is_over[slurm.state] or false
  if not row.beat then row.state = batch_states[slurm.state] or "queued" end
  if slurm.state == "cancelled" and row.state ~= "done" then row.state = "cancelled" end
  if row.state == "lost" and row.is_over then row.state = "failed" end -- given up
  local knows_more = not has_ended[row.beat and row.beat.state or ""] or row.state == "cancelled" or not row.reason
  if reason and reason ~= "" and knows_more and row.state ~= "done" then row.reason = reason end
end

-- How a run of runs.find stands, from heartbeat.json alone (and slurm.json where there is one): nil when its folder has
-- vanished. `now`: runs.clock. Members: name, folder, group, state (starting running evaluating checkpointed stopped done
-- failed, silent lost queued cancelled unknown), and where known step, steps, stage, epoch, loss, samples_per_second,
-- eta_seconds, metric, value, value_step, hosts, tries, job_id, is_over (for its batch script), reason, age_seconds, beat (the
-- record).
function runs.status(run, now)
  local row = { name = run.name, folder = run.folder, group = run.group, old = run.old }
  local beat, time, code = read_object(run.folder .. "/heartbeat.json", MOST_BYTES.heartbeat)
  if beat then
    take_record(row, beat, age_of(beat, time, now))
  elseif code == "ENOENT" or code == "ENOTDIR" then
    if not system.stat(run.folder) then return nil end
  else -- damaged
    row.state, row.reason = "unknown", time
  end
  row.job_id = beat and typed(beat.slurm, "table") and typed(beat.slurm.job, "string")
  local slurm = runs.slurm(run.folder)
  if slurm then take_slurm(row, slurm) end
  row.tries = row.tries or row.sessions
  if not row.state then row.state, row.reason = "unknown", "there is no heartbeat.json: made by an older Copse" end
  return row
end

-- ---- what a run gave ----

local function numbers_of(event)
  local metrics = {}
  for key, value in pairs(event) do
    if type(value) == "number" and key ~= "step" then metrics[key] = value end
  end
  return metrics
end

-- Evaluations by name: { step, stage, metrics, event }, the last of each; and the order of their first appearance.
local function last_evaluations(events)
  local last, order = {}, {}
  for _, event in ipairs(events) do
    local name = typed(event.name, "string")
    if name then
      if not last[name] then order[#order + 1] = name end
      last[name] = { name = name, step = event.step, stage = event.stage, metrics = numbers_of(event), event = event }
    end
  end
  return last, order
end

-- What the sessions of a run cost, together; `complete` is false where one ended without saying it (it was killed).
local function cost_of(ends, sessions)
  local complete = #ends > 0 and #ends >= (sessions or #ends)
  local cost = { sessions = #ends, complete = complete, seconds = {}, wall_seconds = 0, samples = 0 }
  for _, event in ipairs(ends) do
    for phase, seconds in pairs(typed(event.seconds, "table") or {}) do
      cost.seconds[phase] = (cost.seconds[phase] or 0) + (typed(seconds, "number") or 0)
    end
    cost.wall_seconds = cost.wall_seconds + (typed(event.wall_seconds, "number") or 0)
    cost.samples = cost.samples + (typed(event.samples, "number") or 0)
    cost.bytes_sent = (cost.bytes_sent or 0) + (typed(event.bytes_sent, "number") or 0)
    cost.peak_memory_bytes = math.max(cost.peak_memory_bytes or 0, typed(event.peak_memory_bytes, "number") or 0)
  end
  local steps = cost.seconds.steps or 0
  cost.samples_per_second = steps > 0 and cost.samples / steps or nil
  return cost
end

-- Files of a folder whose names match `pattern`, as { key = what it captures, path }.
local function files_in(folder, pattern)
  local files = {}
  for _, name in ipairs(system.list(folder) or {}) do
    local key = name:match(pattern)
    if key then files[#files + 1] = { key = key, path = folder .. "/" .. name } end
  end
  return files
end

local function read_part(facts, key, name)
  local value, message, code = read_object(facts.folder .. "/" .. name, MOST_BYTES.json)
  facts[key] = value
  if not value then
    facts.problems[#facts.problems + 1] = code == "ENOENT" and name .. " is missing" or message
  end
end

local function read_events(facts, points)
  local path = facts.folder .. "/events.jsonl"
  facts.events = { steps = 0, curve = {}, evaluations = {}, finishes = {}, ends = {}, resumes = 0, broken = 0 }
  local kind = system.stat(path)
  if not kind or kind.kind ~= "file" then
    facts.problems[#facts.problems + 1] = "events.jsonl is missing"
    return
  end
  local worked, result = pcall(system.service, "events", { path = path, points = points })
  if worked then
    facts.events = result
  else
    facts.problems[#facts.problems + 1] = type(result) == "table" and result.message or tostring(result)
  end
  if facts.events.broken > 0 then
    facts.problems[#facts.problems + 1] = string.format("events.jsonl: %d lines are damaged", facts.events.broken)
  end
end

-- Everything that reports and comparisons want of one run:
--   folder, name, state, reason      as runs.status
--   beat                             heartbeat.json
--   job                              the resolved job (job.json)
--   events                           of the service "events": curve (thinned to `points`, default 400), evaluations, finishes,
--                                    ends
--   evaluations, evaluation_names    last of each name, and their order
--   cost                             wall_seconds, seconds by phase, samples, samples_per_second, bytes_sent,
--                                    peak_memory_bytes, sessions, complete
--   provenance                       provenance.json
--   checkpoints                      { step, path }, oldest first
--   predictions                      by evaluation: path
--   problems                         what is missing or damaged, in words
-- nil when the folder is gone.
function runs.facts(folder, points)
  local name = base_name(system.absolute(folder) or folder)
  local row = runs.status({ folder = folder, name = name, group = "" }, runs.clock(folder))
  if not row then return nil end
  local facts = { folder = folder, name = row.name, state = row.state, reason = row.reason, beat = row.beat, problems = {} }
  if not row.beat then facts.problems[1] = row.reason end
  read_part(facts, "job", "job.json")
  read_part(facts, "provenance", "provenance.json")
  read_events(facts, points or 400)
  facts.evaluations, facts.evaluation_names = last_evaluations(facts.events.evaluations)
  facts.cost = cost_of(facts.events.ends, row.sessions)
  facts.checkpoints, facts.predictions = {}, {}
  for _, file in ipairs(files_in(folder .. "/checkpoints", "^step%-(%d+)%.h5$")) do
    facts.checkpoints[#facts.checkpoints + 1] = { step = math.tointeger(tonumber(file.key)), path = file.path }
  end
  table.sort(facts.checkpoints, function(a, b) return a.step < b.step end)
  for _, file in ipairs(files_in(folder .. "/predictions", "^(.*)%.h5$")) do facts.predictions[file.key] = file.path end
  return facts
end

return runs
