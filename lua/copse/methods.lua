-- Runs grouped into methods: which method a run is of, and on which keys the jobs of methods differ. Runs of one method differ in
-- their seed alone, data set by data set.
local text = require "copse.text"

local methods = {}

-- ---- jobs as flat lists of keys ----

-- Keys of a resolved job that reach no number of training, or tell runs of one method apart. The evaluations have digests.
local left_out = { name = true, seed = true, evaluate = true, checkpoint = true, watchdog_seconds = true, max_bad = true,
  max_skipped_steps = true }
local left_out_of_stage = { activation_budget_mb = true, max_bad = true, max_skipped_steps = true }

-- Files: where they lie reaches no number, and what is in them has digests in the provenance.
local function is_file_key(key)
  return key:find "%.shards%[%d+%]$" or key:find "%.weights$" or key:find "%.merges$" or key:find "%.path$" or key:find "%.plugin$"
    or key:find "%.source$"
end

local function flatten(value, key, flat)
  if type(value) ~= "table" then
    local shown = tostring(value)
    flat[key] = is_file_key(key) and shown:match "[^/]*$" or shown
    return
  end
  if #value > 8 then -- tabulated schedules, long lists of shards
    flat[key] = string.format("%d values with digest %s", #value, system.digest(text.encode(value, key)))
    return
  end
  for _, member in ipairs(text.sorted_keys(value)) do
    if type(member) == "number" then
      flatten(value[member], key .. "[" .. member .. "]", flat)
    elseif member ~= "seed" and not (key:find "^stages%[%d+%]$" and left_out_of_stage[member]) then
      flatten(value[member], key == "" and member or key .. "." .. member, flat)
    end
  end
end

-- Key path -> value as text, for what reaches numbers; seeds (of subsets too) are left out.
function methods.flat_job(job)
  local flat = {}
  for _, key in ipairs(text.sorted_keys(job)) do
    if not left_out[key] then flatten(job[key], key, flat) end
  end
  return flat
end

-- Keys on which flat jobs differ, sorted: { key, values = list in the order of `flats`, nil where a job has not the key }.
function methods.differences(flats)
  local keys, list = {}, {}
  for _, flat in ipairs(flats) do
    for key in pairs(flat) do keys[key] = true end
  end
  for _, key in ipairs(text.sorted_keys(keys)) do
    local values, differs = {}, false
    for i, flat in ipairs(flats) do
      values[i] = flat[key]
      differs = differs or flat[key] ~= flats[1][key]
    end
    if differs then list[#list + 1] = { key = key, values = values } end
  end
  return list
end

-- "agriclip.dino > clip + sclip": objectives of the stages, in order.
function methods.objective(job)
  local stages = {}
  for _, stage in ipairs(type(job.stages) == "table" and job.stages or {}) do
    local names = {}
    for _, objective in ipairs(stage.objectives or {}) do names[#names + 1] = tostring(objective.name) end
    stages[#stages + 1] = table.concat(names, " + ")
  end
  return table.concat(stages, " > ")
end

-- ---- which method ----

-- A shell pattern as one of Lua: * any characters, ? one, [..] one of these.
local function pattern_of(glob)
  local out = glob:gsub("[%^%$%(%)%%%.%+%-]", "%%%0"):gsub("%*", ".*"):gsub("%?", ".")
  return "^" .. out .. "$"
end

-- "NAME=GLOB" -> { name, pattern, glob }
function methods.parse_patterns(words)
  local list = {}
  for _, word in ipairs(words or {}) do
    local name, glob = word:match "^([^=]+)=(.+)$"
    if not name then system.fail("usage", "--method is '%s': NAME=GLOB is wanted, as in --method clip='runs/a*'", word) end
    list[#list + 1] = { name = name, glob = glob, pattern = pattern_of(glob) }
  end
  return list
end

local function match(run, patterns)
  for _, one in ipairs(patterns) do
    for _, place in ipairs { run.name, run.folder, system.absolute(run.folder) or run.folder } do
      if place:find(one.pattern) then
        one.used = true
        return one.name
      end
    end
  end
end

-- The sweep that a run's folder lies in (sweep.json beside it), and its trial: found by the number that its name begins with; no
-- trial: the run is no longer in the sweep.
local function sweep_of(folder)
  local parent, name = (system.absolute(folder) or folder):match "^(.*)/([^/]+)/*$"
  local content = parent and system.read(parent .. "/sweep.json", 64 * 2 ^ 20)
  local sweep = content and system.decode(content)
  if type(sweep) ~= "table" or type(sweep.trials) ~= "table" then return nil end
  local number = tonumber(name:match "^(%d+)")
  for _, trial in ipairs(sweep.trials) do
    if trial.number == number and type(trial.values) == "table" then return sweep, trial end
  end
  return sweep
end

-- Whether a run lies in the folder of a sweep whose file has changed since and does not have it any more.
function methods.has_left_sweep(folder)
  local sweep, trial = sweep_of(folder)
  return sweep ~= nil and trial == nil
end

-- Names of the parameters by which trials are told apart: those of --by, else `method`.
function methods.parse_by(word)
  local names = {}
  for name in (word or "method"):gmatch "[^,%s]+" do names[#names + 1] = name end
  if #names == 0 then system.fail("usage", "--by is '%s': names of a sweep's parameters are wanted, as in --by plan,fraction", word) end
  names.asked = word ~= nil
  return names
end

-- "ot-image,0.1": what a trial has for these parameters, "-" for one that its job does not read; nil where the sweep has none of them.
local function values_of(sweep, trial, by)
  local unused, parts, found = {}, {}, false
  for _, name in ipairs(type(trial.unused) == "table" and trial.unused or {}) do unused[name] = true end
  for i, name in ipairs(by) do
    local value = trial.values[name]
    found = found or value ~= nil
    parts[i] = (value == nil or unused[name]) and "-" or type(value) == "number" and text.any_number(value) or tostring(value)
  end
  if not found and by.asked then
    local first = sweep.trials[1]
    system.fail("usage", "--by names no parameter of the sweep: there are %s", table.concat(text.sorted_keys(first.values), ", "))
  end
  return found and table.concat(parts, ",") or nil
end

-- Sets run.method, and run.trials where a sweep says how many there were. False: none of the patterns is meant for it.
function methods.assign(run, patterns, by)
  local sweep, trial = sweep_of(run.folder)
  local own = trial and values_of(sweep, trial, by)
  if own then
    run.trials = 0
    for _, other in ipairs(sweep.trials) do
      if type(other.values) == "table" and values_of(sweep, other, by) == own then run.trials = run.trials + 1 end
    end
  end
  if #patterns > 0 then
    run.method = match(run, patterns)
  else
    run.method = own or methods.objective(run.job)
  end
  return run.method ~= nil
end

-- ---- groups ----

local function show_differences(list)
  local lines = {}
  for i = 1, math.min(#list, 12) do
    local values = {}
    for k = 1, 2 do values[k] = list[i].values[k] or "nothing" end
    lines[i] = string.format("    %s: %s, %s", list[i].key, values[1], values[2])
  end
  if #list > 12 then lines[13] = string.format("    and %d more", #list - 12) end
  return table.concat(lines, "\n")
end

-- Ends the command where runs of one method and data set differ in more than the seed, or share it.
local function check_equal(first, other)
  local list = methods.differences { first.flat, other.flat }
  if #list > 0 then
    system.fail("usage", "method '%s' has runs of different jobs, so a mean over them says nothing. '%s' and '%s' differ in\n%s\n"
      .. "Name the runs, or say which are which: --by PARAMETER of a sweep, or --method NAME=GLOB, as in --method '%s=%s*'",
      first.method, first.name, other.name, show_differences(list), first.method, first.name)
  elseif first.seed == other.seed then
    system.fail("usage", "runs '%s' and '%s' are both of method '%s' with seed %s on the same data: name one of them, or give them "
      .. "names: --method NAME=GLOB", first.folder, other.folder, first.method, text.any_number(first.seed))
  end
end

local function check_runs(list)
  for i, run in ipairs(list) do
    for k = 1, i - 1 do
      if list[k].block == run.block then check_equal(list[k], run) end
    end
  end
end

local function by_seed(a, b)
  if a.seed ~= b.seed then return a.seed < b.seed end
  return a.folder < b.folder
end

-- Lists of runs by method and the names in order of appearance, the baseline first. Runs need method, seed, flat, block (what they
-- are evaluated on).
function methods.group(all, baseline)
  local by_name, names = {}, {}
  for _, run in ipairs(all) do
    if not by_name[run.method] then
      by_name[run.method] = {}
      names[#names + 1] = run.method
    end
    table.insert(by_name[run.method], run)
  end
  for _, name in ipairs(names) do
    table.sort(by_name[name], by_seed)
    check_runs(by_name[name])
  end
  return by_name, methods.put_first(names, baseline)
end

-- The baseline in front: the one that was asked for, else "clip", else the first. Ends the command where it is none of them.
function methods.put_first(names, baseline)
  local place
  for i, name in ipairs(names) do
    if name == (baseline or "clip") then place = i end
  end
  if baseline and not place then
    local near = system.nearest(baseline, names)
    system.fail("usage", "--baseline is '%s', but the methods are %s%s", baseline, table.concat(names, ", "),
      near and " (did you mean '" .. near .. "'?)" or "")
  end
  table.insert(names, 1, table.remove(names, place or 1))
  return names
end

return methods
