-- A sweep as drivers see it: its trials, their runs and folders, what they gave. Made from a sweep's file (expanded in the
-- sandbox) or from the folder that `copse sweep run` keeps: runs/<sweep>/ with
--     sweep.json         the trials as they were last run; jobs/<run>.lua, logs/<run>.log
--     ledger/            who does what (ledger.lua)
--     <run>/             the run of one trial and seed
local importance = require "copse.importance"
local ledger = require "copse.ledger"
local text = require "copse.text"

local sweep = {}

local LABEL_CHARACTERS, VALUE_CHARACTERS = 40, 16

-- ---- names ------------------------------------------------------------------------------------------------------------------

function sweep.show(value)
  if type(value) ~= "number" then return tostring(value) end
  return math.type(value) == "integer" and tostring(value) or string.format("%.4g", value)
end

-- "fraction = 0.1, method = sclip"
function sweep.values_text(own, values)
  local parts = {}
  for _, name in ipairs(own.parameters) do
    if values[name] ~= nil then parts[#parts + 1] = name .. " = " .. sweep.show(values[name]) end
  end
  return table.concat(parts, ", ")
end

-- Parameters that have more than one value among the trials.
local function varying(own)
  local first, result = {}, {}
  for _, trial in ipairs(own.trials) do
    for _, name in ipairs(own.parameters) do
      local value = trial.values[name]
      if value ~= nil and first[name] == nil then first[name] = value end
      if value ~= first[name] then result[name] = true end
    end
  end
  return result
end

local function label(own, values, varies)
  local parts = {}
  for _, name in ipairs(own.parameters) do
    if varies[name] and values[name] ~= nil then
      parts[#parts + 1] = sweep.show(values[name]):gsub("[^%w._-]", "_"):sub(1, VALUE_CHARACTERS)
    end
  end
  return (table.concat(parts, "-"):sub(1, LABEL_CHARACTERS))
end

-- Runs that the ledger knows, whatever the file says now: by digest, and whose numbers are taken.
local function known_runs(view)
  local known = { by_digest = {}, numbers = {}, last = 0, all = {} }
  for _, key in ipairs(view:keys()) do
    local facts = view:facts(key)
    if facts and facts.digest and facts.run and facts.number then
      known.by_digest[facts.digest] = facts
      known.numbers[facts.number] = true
      known.last = math.max(known.last, facts.number)
      known.all[#known.all + 1] = facts
    end
  end
  return known
end

-- Numbers and run names of the trials. A trial whose job is known keeps what it has, so that a changed file never mixes runs;
-- a new one takes its place in the sweep if that is free, else the next number.
local function assign(own, known)
  local varies, last, taken, here = varying(own), known.last, known.numbers, {}
  for _, trial in ipairs(own.trials) do last = math.max(last, trial.number) end
  for _, trial in ipairs(own.trials) do
    local number
    for _, run in ipairs(trial.runs) do
      local facts = known.by_digest[run.digest]
      if facts and not here[facts.number] then number = number or facts.number end -- equal trials have numbers of their own
    end
    if not number and taken[trial.number] then
      last = last + 1
      number = last
    end
    trial.number = number or trial.number
    taken[trial.number], here[trial.number] = true, true
    local name = label(own, trial.values, varies)
    for _, run in ipairs(trial.runs) do
      local facts = known.by_digest[run.digest]
      run.key = facts and facts.run or string.format("%03d%s-seed%d", trial.number, name ~= "" and "-" .. name or "", run.seed)
    end
  end
end

-- own.runs: what is to be done, each digest once; trials whose runs are all those of earlier ones name them: same_as.
local function collect_runs(own)
  local by_digest = {}
  own.runs = {}
  for _, trial in ipairs(own.trials) do
    local shared, of = 0, nil
    for _, run in ipairs(trial.runs) do
      local first = by_digest[run.digest]
      if first then
        run.key = first.key
        if first.trial ~= trial then shared, of = shared + 1, first.trial.number end
      else
        by_digest[run.digest] = { key = run.key, trial = trial }
        own.runs[#own.runs + 1] = { key = run.key, digest = run.digest, seed = run.seed, source = run.source, trial = trial }
      end
    end
    trial.same_as = shared == #trial.runs and of or nil
  end
end

-- Runs of the ledger that the sweep no longer has.
local function collect_gone(own, known)
  local present, gone = {}, {}
  for _, run in ipairs(own.runs) do present[run.key] = true end
  for _, facts in ipairs(known.all) do
    if not present[facts.run] then
      present[facts.run] = true
      gone[#gone + 1] = facts.run
    end
  end
  own.gone = gone
end

-- ---- opening ----------------------------------------------------------------------------------------------------------------

local function finish_opening(own)
  own.view = ledger.view(own.folder .. "/ledger")
  local known = known_runs(own.view)
  assign(own, known)
  collect_runs(own)
  collect_gone(own, known)
  return own
end

-- Looks at the ledger again, where other runners may have added runs.
sweep.reopen = finish_opening

-- The sweep of a file.
function sweep.of_file(path, runs, sets)
  local own = system.service("sweep.expand", { path = path, set = text.list(sets or {}) })
  own.file = system.absolute(path)
  own.folder = runs .. "/" .. own.name
  return finish_opening(own)
end

-- The sweep that was run in a folder, nil if none was.
function sweep.of_folder(folder)
  local content = system.read(folder .. "/sweep.json")
  if not content then return nil end
  local own, why = system.decode(content, folder .. "/sweep.json")
  if type(own) ~= "table" or type(own.trials) ~= "table" then
    system.fail("data", "%s; give the sweep's file instead, or run it again", why or folder .. "/sweep.json is damaged")
  end
  own.folder = folder
  return finish_opening(own)
end

-- FILE or FOLDER of the command line.
function sweep.open(target, runs, sets)
  local facts, message = system.stat(target)
  if not facts then system.fail("missing", "there is no sweep '%s': %s", target, message) end
  if facts.kind ~= "folder" then return sweep.of_file(target, runs, sets) end
  local own = sweep.of_folder((target:gsub("(.)/+$", "%1")))
  if not own then system.fail("usage", "folder '%s' is no sweep's: there is no sweep.json in it", target) end
  return own
end

-- ---- keeping ----------------------------------------------------------------------------------------------------------------

local function check_owner(own, path)
  local content = system.read(path)
  local before = content and system.decode(content)
  if content and type(before) ~= "table" then
    system.log("warning", path .. " was damaged: it is written anew")
  elseif before and before.file and before.file ~= own.file and system.stat(before.file) then
    system.fail("usage", "'%s' holds the sweep of another file, %s: give this one another name, or another folder of runs "
      .. "(--runs)", own.folder, before.file)
  end
end

-- Makes the sweep's folder, and notes its trials there.
function sweep.keep(own)
  local path = own.folder .. "/sweep.json"
  for _, folder in ipairs { "jobs", "logs" } do
    local good, message = system.mkdir(own.folder .. "/" .. folder)
    if not good then system.fail("io", "%s", message) end
  end
  check_owner(own, path)
  local trials = text.list()
  for i, trial in ipairs(own.trials) do
    local runs = text.list()
    for k, run in ipairs(trial.runs) do runs[k] = { seed = run.seed, digest = run.digest } end
    trials[i] = { number = trial.number, values = trial.values, unused = text.list(trial.unused), stages = trial.stages,
      reads_seed = trial.reads_seed, runs = runs }
  end
  local good, message = system.write(path, text.encode({ name = own.name, file = own.file, metric = own.metric,
    search = own.search, seeds = text.list(own.seeds), parameters = text.list(own.parameters), trials = trials }, path) .. "\n")
  if not good then system.fail("io", "%s", message) end
end

-- ---- what runs gave ---------------------------------------------------------------------------------------------------------

-- Evaluations of a run's folder, in order: { name, step, metrics = { key = number } }. Lines that are cut are left out.
function sweep.evaluations(folder)
  local content, result = system.read(folder .. "/events.jsonl"), {}
  for line in (content or ""):gmatch('[^\n]*"event":"evaluation"[^\n]*') do
    local event = system.decode(line)
    if type(event) == "table" and event.name and event.step then
      local one = { name = event.name, step = event.step, metrics = {} }
      for key, value in next, event do
        if type(value) == "number" and key ~= "step" then one.metrics[key] = value end
      end
      result[#result + 1] = one
    end
  end
  return result
end

-- The last of each name, at `step` alone where that is given.
function sweep.last_evaluations(folder, step)
  local last, names = {}, {}
  for _, one in ipairs(sweep.evaluations(folder)) do
    if not step or one.step == step then
      if not last[one.name] then names[#names + 1] = one.name end
      last[one.name] = one
    end
  end
  local result = {}
  for i, name in ipairs(names) do result[i] = last[name] end
  return result
end

-- Metrics by full name, "plants.top1".
function sweep.metrics(folder, step)
  local result = {}
  for _, one in ipairs(sweep.last_evaluations(folder, step)) do
    for key, value in next, one.metrics do result[one.name .. "." .. key] = value end
  end
  return result
end

-- ---- how it stands ----------------------------------------------------------------------------------------------------------

-- The ledger's entry of a run: of halving, that of its last rung.
function sweep.entry(own, run)
  for i = #(own.search.rungs or {}), 1, -1 do
    local entry = own.view:entry(string.format("%s@%d", run.key, own.search.rungs[i]))
    if entry then return entry, own.search.rungs[i] end
  end
  return own.view:entry(run.key)
end

-- { done, running, failed, waiting, removed } over the runs, and each run's state in words. `removed`: done, but its folder was
-- deleted by hand.
function sweep.states(own)
  local counts = { done = 0, running = 0, failed = 0, waiting = 0, removed = 0, damaged = 0 }
  local words = { claimed = "running", failed = "failed", ended = "failed", pending = "waiting", done = "done",
    damaged = "damaged" }
  local states = {}
  for _, run in ipairs(own.runs) do
    local entry, rung = sweep.entry(own, run)
    local state = entry and words[entry.state] or "waiting"
    if state == "done" and not system.stat(own.folder .. "/" .. run.key) then state = "removed" end
    counts[state] = counts[state] + 1
    states[run.key] = { state = state, tries = entry and entry.tries or 0, entry = entry, rung = rung }
  end
  return counts, states
end

-- Mean over the runs of a trial that have the metric, and their number.
local function mean_of(runs, metric)
  local sum, count = 0, 0
  for _, run in ipairs(runs) do
    local value = run.metrics[metric]
    if value then sum, count = sum + value, count + 1 end
  end
  return count > 0 and sum / count or nil, count
end

-- Whether trial a comes before b: one that got further in halving, then the better mean, then the smaller number.
function sweep.comes_before(a, b, falls)
  if (a.mean == nil) ~= (b.mean == nil) then return a.mean ~= nil end
  if a.rung ~= b.rung then return (a.rung or 0) > (b.rung or 0) end
  if a.mean ~= b.mean then
    if falls then return a.mean < b.mean end
    return a.mean > b.mean
  end
  return a.number < b.number
end

local function best_of(trials, falls)
  local best
  for _, trial in ipairs(trials) do
    if trial.mean and (not best or sweep.comes_before(trial, best, falls)) then best = trial end
  end
  return best and best.number
end

-- Trials as importance compares them: all after the same steps, which with halving is the first rung.
local function comparable(own, trials)
  local first = own.search.rungs and own.search.rungs[1]
  if not first then return trials end
  local result = {}
  for i, trial in ipairs(trials) do
    local runs = {}
    for k, run in ipairs(trial.runs) do runs[k] = { metrics = sweep.metrics(run.folder, first) } end
    result[i] = { values = trial.values, same_as = trial.same_as, mean = mean_of(runs, own.metric and own.metric.name) }
  end
  return result
end

-- Everything that reports show of a sweep; `target` is its folder, or what sweep.open gave.
--   name, folder, file, parameters, metric = { name, falls }, seeds, search, counts = { done, running, failed, waiting, ... }
--   trials = { { number, values, unused, same_as, mean, count, rung, runs = { { seed, key, folder, state, rung, metrics } } } }
--   best = number of the trial with the best mean (of those that got furthest in halving)
--   importance = { { parameter, share, chance, trials, levels, correlation } }
function sweep.summary(target)
  local own = type(target) == "table" and target or sweep.of_folder(target)
  if not own then system.fail("usage", "folder '%s' is no sweep's: there is no sweep.json in it", target) end
  local counts, states = sweep.states(own)
  local result = { name = own.name, folder = own.folder, file = own.file, parameters = own.parameters, metric = own.metric,
    seeds = own.seeds, search = own.search, counts = counts, trials = {}, gone = own.gone }
  for i, trial in ipairs(own.trials) do
    local runs, rung = {}, nil
    for k, run in ipairs(trial.runs) do
      local folder = own.folder .. "/" .. run.key
      rung = math.min(states[run.key].rung or math.huge, rung or math.huge)
      runs[k] = { seed = run.seed, key = run.key, folder = folder, state = states[run.key].state, rung = states[run.key].rung,
        metrics = sweep.metrics(folder) }
    end
    local mean, count = mean_of(runs, own.metric and own.metric.name)
    result.trials[i] = { number = trial.number, values = trial.values, unused = trial.unused, same_as = trial.same_as,
      mean = mean,
      count = count, rung = rung and rung < math.huge and rung or nil, runs = runs }
  end
  result.best = best_of(result.trials, own.metric and own.metric.falls)
  result.importance = importance.of(own.parameters, comparable(own, result.trials))
  return result
end

return sweep
