-- Entered from C (runtime/job/job.c): runs a sweep's file and calls its job(p) for every trial and seed. All of it happens in
-- one state; each job has the limits of a job by itself.
local check = require "copse.check"
local copse = require "copse"
local emit = require "copse.emit"
local environment = require "copse.environment"
local node = require "copse.node"
local resolve = require "copse.resolve"
local rules = require "copse.rules"
local space = require "copse.space"
local text = require "copse.text"

local expand = {}

-- ---- the sweep itself -------------------------------------------------------------------------------------------------------

local function wrong_result(result)
  local origin = node.origin(result)
  if origin and origin.kind == "sweep" then return nil end
  if origin and origin.kind == "job" then
    return string.format("%s:%d: this file returns a job, not a sweep: 'copse train' runs it", host.path, origin.line)
  end
  return string.format("%s: the file returns %s: it should end with  return copse.sweep { ... }", host.path,
    origin and node.written(origin) or text.show(result))
end

local function seeds(value, place)
  local result, seen = text.list(), {}
  value = value == nil and { 1 } or check.table(value, place, "a list of whole numbers such as { 1, 2, 3 }")
  for i, seed in ipairs(value or {}) do
    local at = check.child(place, i)
    local whole = type(seed) == "number" and math.tointeger(seed)
    if not whole or whole < 0 or whole > 2 ^ 53 then
      check.report(at, "should be a whole number of at least 0, not %s", text.show(seed))
    elseif seen[whole] then
      check.report(at, "%d is there already, at [%d]", whole, seen[whole])
    else
      seen[whole] = i
      result[#result + 1] = whole
    end
  end
  if value and #value == 0 then check.report(place, "is empty: write  seeds = { 1, 2, 3 }") end
  return result
end

-- Steps at which trials are compared: min_steps, times eta each, the last is max_steps.
local function rungs(search, place)
  local low, high, eta = search.min_steps, search.max_steps, search.eta
  if not (low and high and eta) then return nil end
  if low >= high then
    check.report(place, "min_steps = %d is not below max_steps = %d", low, high)
    return nil
  end
  local list = text.list()
  while low < high do
    list[#list + 1] = low
    low = low * eta
  end
  list[#list + 1] = high
  return list
end

local function search(value, place)
  value = value == nil and node.create("grid", "grid", {}, place.origin.file, place.origin.line) or value
  local origin = check.node(value, place, { "grid", "random", "halving" })
  if not origin then return nil end
  place = check.enter(place, origin)
  local result = check.rows(host.kinds[origin.kind].rows, value, place)
  result.kind = origin.kind
  if origin.kind == "halving" then result.rungs = rungs(result, place) end
  return result, place
end

-- How many trials a search makes, and how it finds a point; nil where it cannot (reported).
local function plan(own, axes, names, place)
  local size, endless = space.size(axes, names)
  local trials = own.trials or 0
  if own.kind == "grid" and not size then
    return check.report(place, "copse.grid takes lists, but '%s' is a range: list its values, or take "
      .. "copse.random { trials = 20 }", endless)
  end
  local is_grid = own.kind == "grid" or own.kind == "halving" and trials == 0 and size ~= nil
  if own.kind == "halving" and trials == 0 then trials = own.eta ^ (#own.rungs - 1) end
  local count = math.tointeger(is_grid and size or trials)
  if not count or count > space.MOST_TRIALS then
    return check.report(place, "makes %s trials, more than %d: shorten the lists, or take copse.random { trials = 100 }",
      text.number(is_grid and size or trials), space.MOST_TRIALS)
  end
  return count, function(number)
    if is_grid then return space.grid_point(axes, names, number) end
    return space.random_point(axes, names, own.seed, number)
  end
end

-- The checked sweep, or nil.
local function sweep(value, place)
  local also = { space = true, search = true, seeds = true, job = true }
  local own = check.rows(host.kinds.sweep.rows, value, place, { also = also })
  rules.name(check.child(place, "name"), own.name)
  if value.space == nil then check.report(place, "lacks 'space': write  space = { lr = { 1e-4, 1e-3 } }") end
  if type(value.job) ~= "function" then
    check.report(check.child(place, "job"),
      "should be a function of the parameters, function(p) return copse.job { ... } end, not %s", text.show(value.job))
  end
  own.job, own.seeds = value.job, seeds(value.seeds, check.child(place, "seeds"))
  own.search, own.search_place = search(value.search, check.child(place, "search"))
  if value.space ~= nil then own.axes, own.names = space.axes(value.space, check.child(place, "space")) end
  if check.any() then return nil end
  own.count, own.point = plan(own.search, own.axes, own.names, own.search_place)
  if own.count and own.count * #own.seeds > space.MOST_TRIALS then
    check.report(place, "%d trials of %d seeds are %d runs, more than %d", own.count, #own.seeds, own.count * #own.seeds,
      space.MOST_TRIALS)
  end
  return not check.any() and own or nil
end

-- ---- one trial --------------------------------------------------------------------------------------------------------------

-- What job(p) is given: reads are noted, other names are errors.
local function parameters(values)
  local read = {}
  local proxy = node.mark(setmetatable({}, {
    __index = function(_, name)
      if values[name] ~= nil then
        read[name] = true
        return values[name]
      end
      local names = text.sorted_keys(values)
      error(string.format("the sweep has no parameter '%s'%s", tostring(name),
        check.hint(name, names) ~= "" and check.hint(name, names) or ": there are " .. table.concat(names, ", ")), 2)
    end,
    __newindex = function(_, name) error(string.format("parameter '%s' cannot be changed", tostring(name)), 2) end,
    __metatable = false,
  }), "parameters")
  local origin = node.origin(proxy)
  origin.values = values
  origin.read_all = function() -- a schedule's function that uses p may use any of it
    for name in next, values do read[name] = true end
    return values
  end
  return proxy, read
end

local function shown_values(values, names)
  local parts = {}
  for _, name in ipairs(names) do
    if values[name] ~= nil then
      local value = values[name]
      parts[#parts + 1] = name .. " = " .. (type(value) == "number" and text.number(value) or tostring(value))
    end
  end
  return table.concat(parts, ", ")
end

-- The metrics that halving and the results rest on must come from some evaluation.
local function check_metrics(own, job, place)
  local metrics = rules.metrics(job.evaluate or {})
  rules.metric_exists(check.child(place, "metric"), own.metric, metrics)
  if own.search.kind == "halving" then
    rules.metric_exists(check.child(own.search_place, "metric"), own.search.metric, metrics)
  end
end

local function check_length(own, job)
  local most, total = own.search.max_steps, 0
  for _, stage in ipairs(job.stages) do
    if (stage.steps or 0) == 0 then return end -- epochs: known when the data is open
    total = total + stage.steps
  end
  if most and total < most then
    check.report(check.child(own.search_place, "max_steps"),
      "is %d, but the job has %d steps in all: give its stages more, or less here", most, total)
  end
end

-- The resolved job of one trial and seed: { digest, source }, nil and messages; and what was read of p.
local function one_run(own, values, seed, place)
  check.begin()
  host.renew_limits()
  local given = {}
  for name, value in next, values do given[name] = value end
  given.seed = seed
  local p, read = parameters(given)
  local result = own.job(p)
  local origin = node.origin(result)
  if not origin or origin.kind ~= "job" then
    check.report(check.child(place, "job"), "gives %s: it should end with  return copse.job { ... }",
      origin and node.written(origin) or text.show(result))
    return nil, nil, read
  end
  if result.name == nil then result.name = own.name end
  local job = resolve.job(result)
  if check.any() then return nil, nil, read end
  check_metrics(own, job, place)
  check_length(own, job)
  if check.any() then return nil, nil, read end
  local source = emit.job(job)
  job.name = ""
  return { seed = seed, digest = host.digest(text.encode(job, "job")), source = source }, job, read
end

-- The metric that tables show where the sweep names none: the job's own best, or the first of its first evaluation.
local function usual_metric(job)
  if job.checkpoint.best then return job.checkpoint.best end
  local first = job.evaluate[1]
  local key = first and (host.kinds[first.kind].metrics or {})[1]
  if not key then return nil end
  return first.name .. "." .. key:gsub("{([%w_]+)}", function(option)
    local value = first[option]
    return type(value) == "table" and text.number(value[1]) or value and text.number(value) or ""
  end):gsub("%*$", "loss")
end

-- What a person wants to know of a job's length.
local function stages_of(job)
  local list = text.list()
  for i, stage in ipairs(job.stages) do
    list[i] = { name = stage.name, epochs = stage.epochs, steps = stage.steps, global_batch = stage.global_batch }
  end
  return list
end

local function trial(own, number, place)
  local values, runs, used, stages = own.point(number), text.list(), {}, nil
  for _, seed in ipairs(own.seeds) do
    local run, job, read = one_run(own, values, seed, place)
    if not run then
      return nil, string.format("%s: trial %d of %d (%s), seed %d:\n%s", host.path, number, own.count,
        shown_values(values, own.names), seed, check.mistakes())
    end
    for name in next, read do used[name] = true end
    own.usual = own.usual or usual_metric(job)
    runs[#runs + 1], stages = run, stages or stages_of(job)
  end
  local unused = text.list()
  for _, name in ipairs(own.names) do
    if not used[name] then
      unused[#unused + 1] = name
      values[name] = nil
    end
  end
  return { number = number, values = values, unused = unused, runs = runs, stages = stages, reads_seed = used.seed == true }
end

-- { name, falls } of a metric.
local function described(metric)
  return metric and { name = metric, falls = host.less_is_better(metric) } or nil
end

-- JSON text of the whole sweep (runtime/job/README.md describes it); or nil and the message.
function expand.load()
  local chunk = host.load_job(host.path, host.path, environment.create(copse.module))
  local result = chunk()
  local wrong = wrong_result(result)
  if wrong then return nil, wrong end
  local place = { path = "", origin = node.origin(result), keys = {}, whole = "sweep" }
  check.begin()
  local own = sweep(result, place)
  local messages = copse.unused_sets()
  messages[#messages + 1] = check.mistakes()
  if #messages > 0 then return nil, table.concat(messages, "\n") end
  local trials = text.list()
  for number = 1, own.count do
    local one, why = trial(own, number, place)
    if not one then return nil, why end
    trials[number] = one
  end
  own.search.metric = described(own.search.metric)
  return text.encode({ name = own.name, metric = described(own.metric) or own.search.metric or described(own.usual),
    search = own.search, seeds = own.seeds, parameters = text.list(own.names), trials = trials }, "sweep")
end

return expand
