-- copse status [DIR|RUN]...: how runs stand, from their files and one question to the queue. README.md in this folder says what
-- the states mean.
local runs = require "copse.runs"
local tables = require "copse.tables"
local text = require "copse.text"

local QUEUE_SECONDS = 10
local alive = { starting = true, running = true, evaluating = true, silent = true }

-- ---- the queue ----

-- Whether the queue may know of a run: its batch script, or without one the run itself, has not ended.
local function may_be_queued(row)
  if row.is_over ~= nil then return not row.is_over end
  return row.job_id ~= nil and row.state ~= "done" and row.state ~= "failed"
end

local function job_ids(rows)
  local ids, seen = {}, {}
  for _, row in ipairs(rows) do
    local id = row.job_id
    if id and id:find("^%d+[%d_]*$") and not seen[id] and may_be_queued(row) then
      seen[id] = true
      ids[#ids + 1] = id
    end
  end
  return ids
end

-- What squeue says of the jobs: { [id] = { state, reason } }; nil and the reason where it cannot be asked.
local function ask_queue(ids)
  local answer, message = system.capture { argv = { "squeue", "--noheader", "--array", "--format=%A|%i|%T|%r",
    "--jobs=" .. table.concat(ids, ",") }, seconds = QUEUE_SECONDS }
  if not answer then return nil, message end
  if answer.code ~= 0 and not answer.errors:find("Invalid job id", 1, true) then -- it knows none of them any more
    return nil, answer.errors:match("[^\n]+") or "squeue ended with code " .. answer.code
  end
  local queue = {}
  for id, array_id, state, reason in answer.output:gmatch("(%d+)|([^|\n]*)|([^|\n]*)|([^\n]*)") do
    queue[id] = { state = state, reason = reason }
    queue[array_id] = queue[id]
  end
  return queue
end

-- Whether the record of a run is one of its job in the queue, and no older one.
local function is_of_job(row)
  local slurm = row.beat and row.beat.slurm
  return type(slurm) == "table" and slurm.job == row.job_id
end

-- The queue's word about a run.
local function take_queue(row, job)
  if not job then
    if row.state == "queued" then
      row.state, row.reason = "lost", "job " .. row.job_id .. " has left the queue without a word"
    end
    return
  end
  row.queue = job.state
  if job.state == "PENDING" then
    row.state, row.reason, row.eta_seconds = "queued", "job " .. row.job_id .. ": " .. job.reason, nil
  elseif row.state == "lost" then
    row.state, row.reason = "silent", "Slurm says " .. job.state .. "; " .. row.reason
  elseif not alive[row.state] and not is_of_job(row) then -- begun, and without a word so far
    row.state, row.reason = "starting", "Slurm says " .. job.state
  end
end

local told = false -- that the queue cannot be asked

local function add_queue(rows)
  local ids = job_ids(rows)
  if #ids == 0 then return end
  local queue, message = ask_queue(ids)
  if not queue then
    if not told then system.log("warning", "the queue was not asked: " .. message .. ". States are from files alone") end
    told = true
    return
  end
  for _, row in ipairs(rows) do
    if may_be_queued(row) then take_queue(row, queue[row.job_id]) end
  end
end

-- ---- reading ----

-- Rows of all runs; several clocks where places lie on several file systems.
local function collect(places)
  local rows = {}
  for _, place in ipairs(places) do
    local found = runs.find { place }
    local now = #found > 0 and runs.clock(found[1].folder:match("^(.+)/[^/]*$") or ".")
    for _, run in ipairs(found) do
      local row = runs.status(run, now)
      if row then rows[#rows + 1] = row end
    end
  end
  add_queue(rows)
  return rows
end

-- ---- for people ----

local function steps_of(row)
  if not row.step or (row.step == 0 and not row.steps) then return "" end
  if not row.steps or row.steps <= 0 then return string.format("%d", row.step) end
  return string.format("%d/%d", row.step, row.steps)
end

local function short_number(value)
  if not value then return "" end
  return string.format(math.abs(value) < 100 and "%.4f" or "%.4g", value)
end

-- The state in words.
local function words(state)
  return state == "checkpointed" and "to be continued" or state
end

local function state_of(row)
  return (row.state == "evaluating" or row.state == "running") and row.doing or words(row.state)
end

local columns = {
  { title = "run", shrink = 2, least = 16, middle = true }, { title = "state", shrink = 5, least = 12 },
  { title = "step", right = true }, { title = "ETA", right = true, drop = 6 }, { title = "loss", right = true, drop = 3 },
  { title = "metric", shrink = 3, least = 12, middle = true, drop = 5 }, { title = "value", right = true, drop = 5.5 },
  { title = "nodes", shrink = 4, least = 8, drop = 1 }, { title = "tries", right = true, drop = 2 },
  { title = "reason", shrink = 1, least = 12, drop = 4 },
}

local function cells(row)
  local tries = row.tries and row.tries > 1 and string.format("%d", row.tries) or ""
  return {
    row.name, state_of(row), steps_of(row), row.eta_seconds and runs.duration(row.eta_seconds) or "", short_number(row.loss),
    row.metric or "", short_number(row.value), row.hosts or "", tries, row.reason or "",
  }
end

-- "412 done, 3 running, 1 failed": in the order of first appearance.
local function counts(rows)
  local count, order = {}, {}
  for _, row in ipairs(rows) do
    if not count[row.state] then order[#order + 1] = row.state end
    count[row.state] = (count[row.state] or 0) + 1
  end
  local parts = {}
  for i, state in ipairs(order) do parts[i] = string.format("%d %s", count[state], words(state)) end
  return table.concat(parts, ", "), count
end

-- Runs of a sweep as one line: how many of them are done, and what the others do.
local function group_cells(name, rows)
  local summary, count = counts(rows)
  local eta
  for _, row in ipairs(rows) do
    if alive[row.state] and row.eta_seconds then eta = math.max(eta or 0, row.eta_seconds) end
  end
  return { string.format("%s/ (%d runs)", name, #rows), summary, string.format("%d/%d", count.done or 0, #rows),
    eta and runs.duration(eta) or "", "", "", "", "", "", "" }
end

-- Rows of the table: each run, or one for all runs of a folder below the place. Runs moved aside by --fresh are left out.
local function table_rows(rows, all)
  local shown, groups, hidden = {}, {}, 0
  for _, row in ipairs(rows) do
    if row.old and not all then
      hidden = hidden + 1
    elseif all or row.group == "" then
      shown[#shown + 1] = cells(row)
    else
      local group = groups[row.group]
      if not group then
        group = { name = row.group, at = #shown + 1, rows = {} }
        groups[row.group], shown[#shown + 1] = group, group
      end
      group.rows[#group.rows + 1] = row
    end
  end
  for _, group in pairs(groups) do shown[group.at] = group_cells(group.name, group.rows) end
  return shown, hidden
end

local function print_table(rows, all, places)
  if #rows == 0 then
    system.print("no runs in '" .. table.concat(places, "', '") .. "'")
    return
  end
  local shown, hidden = table_rows(rows, all)
  local asked = math.tointeger(tonumber(system.environment("COLUMNS") or ""))
  local width = system.terminal.output and system.terminal.columns or asked
  for _, line in ipairs(tables.lines(columns, shown, width)) do system.print(line) end
  if #rows > 1 then system.print(string.format("%d runs: %s", #rows, (counts(rows)))) end
  if hidden > 0 then system.print(string.format("%d older runs, moved aside, are not shown (--all)", hidden)) end
end

-- ---- for programs ----

local fields = { "name", "folder", "group", "state", "step", "steps", "stage", "epoch", "epochs", "loss", "metric", "value",
  "value_step", "samples_per_second", "eta_seconds", "hosts", "ranks", "threads", "tries", "job_id", "queue", "exit_code",
  "reason", "age_seconds" }

local function print_csv(rows)
  system.print(tables.csv_line(fields))
  for _, row in ipairs(rows) do
    local values = {}
    for i, field in ipairs(fields) do values[i] = row[field] end
    system.print(tables.csv_line(values, #fields))
  end
end

-- JSON is UTF-8, names of files may be anything.
local function sound(value)
  if type(value) == "string" and not utf8.len(value) then return (value:gsub("[\128-\255]", "?")) end
  return value
end

local function print_json(rows)
  local list = text.list()
  for i, row in ipairs(rows) do
    list[i] = {}
    for _, field in ipairs(fields) do list[i][field] = sound(row[field]) end
  end
  system.print(text.encode(list, "status"))
end

-- ---- the command ----

local function seconds_of(flags)
  if not flags.watch then return nil end
  local seconds = tonumber(flags.watch)
  if not seconds or not (seconds >= 1 and seconds <= 86400) then
    system.fail("usage", "--watch is '%s': seconds from 1 to 86400 are wanted", flags.watch)
  end
  return seconds
end

local function show(places, flags)
  local rows = collect(places)
  if flags.json then
    print_json(rows)
  elseif flags.csv then
    print_csv(rows)
  else
    print_table(rows, flags.all, places)
  end
end

-- Again and again until Ctrl-C, which is how it ends.
local function watch(places, flags, seconds)
  system.signals()
  while true do
    if system.terminal.output then system.print("\27[H\27[2J" .. system.date(system.now()) .. "\n") end
    show(places, flags)
    system.sleep(seconds)
    if #system.signals() > 0 then return end
  end
end

local function run(arguments)
  local flags = arguments.flags
  if flags.json and flags.csv then system.fail("usage", "--json and --csv are two forms of one output: give one of them") end
  local seconds = seconds_of(flags)
  local places = #arguments.operands > 0 and arguments.operands or { "runs" }
  if seconds then
    watch(places, flags, seconds)
  else
    show(places, flags)
  end
end

return { run = run }
