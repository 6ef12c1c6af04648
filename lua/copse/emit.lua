-- The resolved job as Lua text: itself a job that gives the same resolved job.
local text = require "copse.text"

local emit = {}

local function copy(t, without)
  local result = {}
  for key, value in next, t do
    if not (without and without[key]) then result[key] = value end
  end
  return result
end

-- Functions as their source text, at any depth.
local function with_functions(value)
  if type(value) ~= "table" then return value end
  if value["function"] and value.source then return text.raw(value.source) end
  local result = {}
  for key, element in next, value do result[key] = with_functions(element) end
  return result
end

local function shards(set)
  local fields = copy(set, { shards = true })
  for i, pattern in ipairs(set.shards or {}) do fields[i] = pattern end
  return text.call("copse.shards", fields)
end

local function stream(value)
  if not value.mixture then return shards(value) end
  local fields = copy(value, { mixture = true })
  for i, set in ipairs(value.mixture) do fields[i] = shards(set) end
  return text.call("copse.mixture", fields)
end

local function model(value)
  local fields = copy(value)
  if value.towers then
    fields.towers = {}
    for name, tower in next, value.towers do fields.towers[name] = text.call("copse.tower", tower) end
  end
  return text.call("copse.model", fields)
end

local function objective(value)
  local fields = with_functions(value.options)
  fields.weight = value.weight
  if value.plugin then
    return text.call(string.format("copse.objective.load(%s, %s)", text.lua(value.plugin), text.lua(value.name)), fields)
  end
  return text.call("copse.objective." .. value.name, fields)
end

-- A table with a kind, as the call of that kind's constructor.
local function of_kind(value)
  return value and text.call("copse." .. value.kind, with_functions(copy(value, { kind = true })))
end

local function stage(value)
  local fields = copy(value, { objectives = true })
  fields.objective = #value.objectives == 1 and objective(value.objectives[1]) or {}
  for i, one in ipairs(#value.objectives > 1 and value.objectives or {}) do fields.objective[i] = objective(one) end
  fields.optimizer, fields.schedule = of_kind(value.optimizer), of_kind(value.schedule)
  return text.call("copse.stage", fields)
end

local function evaluation(value)
  local fields = copy(value, { kind = true })
  fields.data = shards(value.data)
  fields.bank = value.bank and shards(value.bank)
  fields.features = value.features and { value.features.tower, value.features.output }
  return text.call("copse." .. value.kind, fields)
end

local function map(list, f)
  local result = {}
  for key, element in next, list do result[key] = f(element) end
  return result
end

function emit.job(job)
  local fields = copy(job)
  fields.model = model(job.model)
  fields.tokenizer = job.tokenizer and text.call("copse.tokenizer", job.tokenizer)
  fields.data = map(job.data, stream)
  fields.stages = map(job.stages, stage)
  fields.evaluate = map(job.evaluate, evaluation)
  fields.checkpoint = text.call("copse.checkpoint", job.checkpoint)
  fields.early_stop = job.early_stop and text.call("copse.early_stop", job.early_stop)
  fields.on_evaluate = with_functions(job.on_evaluate)
  return 'local copse = require "copse"\nreturn ' .. text.lua(text.call("copse.job", fields)) .. "\n"
end

return emit
