-- What pages show besides the JSON that they are made of: learning curves and pictures, found in the runs' folders. Needs
-- `system`.
-- What cannot be found is left out, and the page says so; nothing here fails because a run has gone.
local parts = require "copse.page_parts"
local runs = require "copse.runs"
local text = require "copse.text"

local gather = {}

local curve_points, side, quality, default_pictures = 150, 96, 80, 48

local function list(value)
  return type(value) == "table" and value or {}
end

-- ---- pictures ---------------------------------------------------------------------------------------------------------------

-- Globs of the shards that a job evaluates on; all evaluations, since names may be met more than once.
local function add_patterns(job, patterns, seen)
  for _, evaluation in ipairs(list(list(job).evaluate)) do
    for _, pattern in ipairs(list(list(evaluation.data).shards)) do
      if type(pattern) == "string" and not seen[pattern] then
        patterns[#patterns + 1], seen[pattern] = pattern, true
      end
    end
  end
end

-- Thumbnails by sample id of samples { sample_id, shard, record }, at most `most`.
local function thumbnails_of(samples, patterns, most)
  local items, ids = {}, {}
  for _, sample in ipairs(samples) do
    if #items < most and type(sample.shard) == "string" and math.tointeger(sample.record)
      and type(sample.sample_id) == "string" then
      items[#items + 1] = { shard = sample.shard, record = math.tointeger(sample.record), sample_id = sample.sample_id }
      ids[#ids + 1] = sample.sample_id
    end
  end
  if #items == 0 then return {} end
  local answer = system.service("thumbnails", { side = side, quality = quality, patterns = text.list(patterns), items = items })
  local found = {}
  for i, thumbnail in ipairs(answer.thumbnails) do found[ids[i]] = thumbnail end
  return found
end

-- ---- a run ------------------------------------------------------------------------------------------------------------------

-- Images that could not be read, from quarantine.jsonl; lines that are damaged are passed over.
local function quarantine_of(folder)
  local out = {}
  for line in (system.read(folder .. "/quarantine.jsonl", 64 * 2 ^ 20) or ""):gmatch "[^\n]+" do
    local note = system.decode(line)
    if type(note) == "table" then out[#out + 1] = note end
  end
  return out
end

-- What the predictions of each evaluation say (runtime/report/mistakes.h), and in words why they could not be read.
local function mistakes_of(facts, pictures)
  local mistakes, problems, samples = {}, {}, {}
  for _, name in ipairs(facts.evaluation_names) do
    local path = facts.predictions[name]
    if path then
      local worked, answer = pcall(system.service, "mistakes", { path = path, most = pictures })
      if worked then
        mistakes[name] = answer
        table.move(list(answer.wrong), 1, #list(answer.wrong), #samples + 1, samples)
      else
        problems[#problems + 1] = type(answer) == "table" and answer.message or tostring(answer)
      end
    end
  end
  return mistakes, problems, samples
end

-- Every evaluation gets its share of the pictures.
local function evaluations_with_predictions(facts)
  local count = 0
  for _, name in ipairs(facts.evaluation_names) do
    if facts.predictions[name] then count = count + 1 end
  end
  return count
end

-- All that the page of a run shows (page_run.lua): nil when its folder is gone. pictures: how many at most (default: 48).
function gather.run(folder, pictures)
  pictures = pictures or default_pictures
  local facts = runs.facts(folder)
  if not facts then return nil end
  facts.copse, facts.made = system.version, system.date(system.now())
  facts.quarantine = quarantine_of(folder)
  local samples
  local share = pictures // math.max(1, evaluations_with_predictions(facts))
  facts.mistakes, facts.mistake_problems, samples = mistakes_of(facts, share)
  local patterns = {}
  add_patterns(facts.job, patterns, {})
  facts.thumbnails = thumbnails_of(samples, patterns, pictures)
  return facts
end

-- ---- a comparison -----------------------------------------------------------------------------------------------------------

-- Values of several runs at equal steps: { x, y = mean, low, high }, at the steps that most runs have.
local function over_seeds(curves)
  local at, steps, most = {}, {}, 0
  for _, curve in ipairs(curves) do
    for _, point in ipairs(curve) do
      if not at[point.x] then
        at[point.x] = {}
        steps[#steps + 1] = point.x
      end
      table.insert(at[point.x], point.y)
      most = math.max(most, #at[point.x])
    end
  end
  table.sort(steps)
  local points = {}
  for _, step in ipairs(steps) do
    local values = at[step]
    if #values == most then
      local sum = 0
      for _, value in ipairs(values) do sum = sum + value end
      points[#points + 1] = { x = step, y = sum / #values, low = most > 1 and math.min(table.unpack(values)) or nil,
        high = most > 1 and math.max(table.unpack(values)) or nil }
    end
  end
  return points
end

local function numbers_of(events, key, is_wanted)
  local points = {}
  for _, event in ipairs(list(events)) do
    local step, value = event.step, event[key]
    if is_wanted(event) and type(step) == "number" and type(value) == "number" then points[#points + 1] = { x = step,
      y = value } end
  end
  return points
end

local function every() return true end

-- A quantity of a run by step; an evaluation counts when it was made more than once.
local function curve_of(facts, quantity)
  if not quantity.evaluation then return numbers_of(facts.events.curve, quantity.key, every) end
  local points = numbers_of(facts.events.evaluations, quantity.metric,
    function(event) return event.name == quantity.evaluation end)
  return #points > 1 and points or {}
end

local function quantities_of(comparison)
  local quantities = { { key = "loss", title = "Training loss", note = "other objectives have other scales" } }
  for _, evaluation in ipairs(list(comparison.evaluations)) do
    local metric = list(evaluation.metrics)[1]
    if metric then
      quantities[#quantities + 1] = { key = evaluation.name .. "." .. metric.metric, evaluation = evaluation.name,
        metric = metric.metric,
        title = evaluation.name .. ": " .. parts.metric(metric.metric), kind = metric.is_share and "share" or nil }
    end
  end
  return quantities
end

-- Where a run lies that a comparison names: as it stands, or from one of the folders above the comparison's, which may have
-- been made from another place.
local function find_run(folder, near)
  local places = { folder }
  if near and folder:sub(1, 1) ~= "/" then
    for _, up in ipairs { "/", "/../", "/../../", "/../../../" } do places[#places + 1] = near .. up .. folder end
  end
  for _, place in ipairs(places) do
    if system.stat(place .. "/events.jsonl") then return place end
  end
end

-- Facts of the comparison's runs by method, and the names of those that are not there.
local function facts_by_method(comparison, near)
  local by_method, missing = {}, {}
  for _, run in ipairs(list(comparison.runs)) do
    local place = type(run.folder) == "string" and find_run(run.folder, near)
    local facts = place and runs.facts(place, curve_points)
    if facts and run.method then
      by_method[run.method] = by_method[run.method] or {}
      table.insert(by_method[run.method], facts)
    else
      missing[#missing + 1] = tostring(run.run)
    end
  end
  return by_method, missing
end

local function curves_by_method(quantities, by_method)
  local methods = {}
  for method, all in pairs(by_method) do
    methods[method] = {}
    for _, quantity in ipairs(quantities) do
      local curves = {}
      for i, facts in ipairs(all) do curves[i] = curve_of(facts, quantity) end
      methods[method][quantity.key] = over_seeds(curves)
    end
  end
  return methods
end

local function samples_of(comparison, by_method)
  local samples, patterns, seen = {}, {}, {}
  for _, evaluation in ipairs(list(comparison.evaluations)) do
    for _, sample in ipairs(list(evaluation.disagreements)) do samples[#samples + 1] = sample end
  end
  for _, all in pairs(by_method) do
    for _, facts in ipairs(all) do add_patterns(facts.job, patterns, seen) end
  end
  table.sort(patterns)
  return samples, patterns
end

-- What page.comparison shows besides comparison.json: curves and thumbnails, `pictures` of them at most (default: 48), and the
-- names of runs that are missing. near: the comparison's folder, or nil.
function gather.comparison(comparison, near, pictures)
  local by_method, missing = facts_by_method(comparison, near)
  local quantities = quantities_of(comparison)
  local samples, patterns = samples_of(comparison, by_method)
  return { curves = { quantities = quantities, methods = curves_by_method(quantities, by_method) }, missing = missing,
    thumbnails = thumbnails_of(samples, patterns, pictures or default_pictures) }
end

return gather
