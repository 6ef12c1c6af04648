-- `copse sweep submit`: an array on Slurm. Each task is a `copse sweep run` of its own; the ledger settles who does what, so a
-- task that is requeued, submitted twice or started by hand does no harm. With halving the number of runs is not known
-- beforehand: the tasks are as many as may run at once, and each works until nothing is left.
local batch = require "copse.batch"
local ledger = require "copse.ledger"
local submit = require "copse.commands.submit"
local sweep = require "copse.sweep"

local sweep_submit = {}

local CHECKED = 3 -- jobs that are opened before anything waits in a queue

-- "0-5,8" of a list of whole numbers in order.
local function ranges(list)
  local parts, i = {}, 1
  while i <= #list do
    local last = i
    while list[last + 1] == list[last] + 1 do last = last + 1 end
    parts[#parts + 1] = last == i and tostring(list[i]) or list[i] .. "-" .. list[last]
    i = last + 1
  end
  return table.concat(parts, ",")
end

-- Places, from 0, of the runs that are to be done.
local function open_places(own, only)
  local places = {}
  for i, run in ipairs(own.runs) do
    local entry = own.view:entry(run.key)
    if not (entry and entry.state == "done") and (not only or only[run.trial.number]) then places[#places + 1] = i - 1 end
  end
  return places
end

-- Opens the jobs of a few runs as they will run, which finds what a job alone does not show: data, memory of a node.
local function check_jobs(own, plan)
  for i = 1, math.min(CHECKED, #own.runs) do
    local run = own.runs[1 + (i - 1) * (#own.runs - 1) // math.max(1, math.min(CHECKED, #own.runs) - 1)]
    local path = string.format("%s/copse-submit-%d.lua", system.environment("TMPDIR") or "/tmp", system.pid)
    local good, message = system.write(path, run.source)
    if not good then system.fail("io", "%s", message) end
    local worked, facts = pcall(submit.check_job, setmetatable({ job = path, sets = {} }, { __index = plan }))
    system.remove(path)
    if not worked then
      if type(facts) == "table" and facts.message then
        system.log("error", string.format("trial %d, seed %d:", run.trial.number, run.seed))
      end
      error(facts, 0)
    end
    submit.check_memory(plan, facts)
  end
end

-- settings: at_once, retries, lost, task: what one task of the array is told.
local function command(own, plan, settings, by_task)
  local words = { system.program, "sweep", "run", own.file, "--runs", plan.runs, "--ranks",
    tostring(plan.nodes * plan.ranks_per_node), "--retries", tostring(settings.retries), "--lost", tostring(settings.lost) }
  local function add(...)
    for _, word in ipairs { ... } do words[#words + 1] = word end
  end
  if plan.threads then add("--threads", tostring(plan.threads)) end
  if settings.only_text then add("--only", settings.only_text) end
  for _, set in ipairs(plan.sets) do add("--set", set) end
  if by_task then add("--task", { shell = '"$SLURM_ARRAY_TASK_ID"' }) end
  return words
end

-- The batch script of the array, and how many tasks it has.
local function script_of(own, plan, settings)
  local places = open_places(own, settings.only)
  if #places == 0 then return nil, 0 end
  local by_task = own.search.kind ~= "halving"
  local at_once = math.min(settings.at_once or #places, #places)
  local array = by_task and ranges(places) .. (at_once < #places and "%" .. at_once or "") or "0-" .. at_once - 1
  plan.name, plan.run = own.name, nil
  plan.script = plan.runs .. "/" .. own.name .. "/batch.sh"
  plan.log = (plan.runs .. "/" .. own.name):gsub("%%", "%%%%") .. "/logs/slurm-%A_%a.log"
  plan.command, plan.array, plan.launch = command(own, plan, settings, by_task), array, false
  return batch.script(plan), by_task and #places or at_once
end

-- settings: at_once, only, only_text, retries, lost.
function sweep_submit.run(own, arguments, settings)
  local plan = submit.make_plan(arguments)
  local depends = submit.dependency(arguments.all)
  check_jobs(own, plan)
  local text, tasks = script_of(own, plan, settings)
  if not text then
    system.log("info", string.format("sweep '%s': all its runs are done", own.name))
    return
  end
  if arguments.flags["dry-run"] then
    system.print((text:gsub("\n$", "")))
    return
  end
  sweep.keep(own)
  ledger.open(own.folder .. "/ledger"):close() -- says now what would fail in the queue
  local good, message = system.write(plan.script, text)
  if good then good, message = system.chmod(plan.script, tonumber("755", 8)) end
  if not good then system.fail("io", "%s", message) end
  local id = submit.sbatch(plan, depends)
  system.print(string.format("job %s: sweep '%s', %d runs in %d tasks%s", id, own.name, #own.runs, tasks,
    settings.at_once and ", " .. settings.at_once .. " at once" or ""))
  system.print("script  " .. plan.script)
  system.print("logs    " .. own.folder .. "/logs/")
  system.print("look    copse sweep status " .. batch.quote(own.folder))
end

return sweep_submit
