-- copse cancel RUN...: ends runs. Gently, the default: the signal that asks for a checkpoint, and no requeueing after it.
-- --now: at once, what came after the last checkpoint is lost.
local batch = require "copse.batch"
local runs = require "copse.runs"
local slurm = require "copse.slurm"

local goes_on = { starting = true, running = true, evaluating = true, silent = true }

local function must(worked, message)
  if not worked then system.fail("io", "%s", message) end
end

local function scancel(...)
  local output, message, code = slurm.ask { "scancel", ... }
  if not output then
    system.fail("missing", "scancel: %s%s", message, code == "ENOENT" and " (try it on a login node of the cluster)" or "")
  end
end

-- A job that waits never runs its script: its record is written here.
local function cancel_waiting(row, id)
  scancel(id)
  local record = runs.slurm(row.folder) or {}
  must(system.write(row.folder .. "/slurm.json", batch.record { job = id, state = "cancelled", code = 85, tries = record.tries,
    reason = "cancelled while it waited in the queue", script = record.script, log = record.log }))
  return ("job %s is out of the queue"):format(id)
end

-- The mark keeps the script from requeueing; it names the job, so that one left behind means nothing to another.
local function cancel_running(row, id, now)
  must(system.write(row.folder .. "/cancel", id))
  if now then
    scancel(id)
    return ("job %s is ended at once"):format(id)
  end
  scancel("--batch", "--signal=USR1", id)
  return ("job %s ends with a checkpoint after its step"):format(id)
end

local function cancel_job(row, id, now)
  local state, why = slurm.state(id)
  if not state and why then system.fail("missing", "run '%s', job %s: the queue cannot be asked: %s", row.name, id, why) end
  if state == "PENDING" or state == "REQUEUED" or state == "REQUEUE_HOLD" then return cancel_waiting(row, id) end
  if state == "COMPLETING" then return ("job %s is ending already"):format(id) end
  return state and cancel_running(row, id, now)
end

-- The pid may belong to somebody else by now: the process must have started when the record says.
local function cancel_here(row, now)
  local alive = runs.lives(row.beat)
  if alive == nil then
    system.fail("missing", "run '%s' is trained on '%s', and this is '%s': 'copse cancel' works there", row.name,
      tostring(row.beat.host), system.host)
  end
  if not alive then return nil end
  must(system.kill(math.tointeger(row.beat.pid), now and "KILL" or "USR1"))
  return now and ("process %d was ended at once"):format(row.beat.pid)
    or ("process %d ends with a checkpoint after its step"):format(row.beat.pid)
end

-- What was done, or nil when there was nothing to do.
local function cancel(row, now)
  local record = runs.slurm(row.folder)
  local ids = record and type(record.jobs) == "table" and record.jobs or {}
  local id = ids[#ids]
  local said = type(id) == "string" and id:find "^%d+$" and cancel_job(row, id, now)
  if not said and row.beat and goes_on[row.beat.state] then said = cancel_here(row, now) end
  return said
end

local function run(arguments)
  local done, idle = 0, {}
  for _, found in ipairs(runs.find(arguments.operands)) do
    local row = runs.status(found, runs.clock(found.folder))
    local said = row and cancel(row, arguments.flags.now)
    if said then
      done = done + 1
      system.print(("%s: %s"):format(found.name, said))
    else
      idle[#idle + 1] = ("%s (%s)"):format(found.name, row and row.state or "gone")
    end
  end
  if done == 0 then
    system.fail("missing", "nothing to cancel: no run goes on in %s%s", table.concat(arguments.operands, ", "),
      #idle > 0 and ": " .. table.concat(idle, ", ", 1, math.min(#idle, 5)) or "")
  end
end

return { run = run }
