-- Rules over the whole resolved job: what one part of it demands of another.
local check = require "copse.check"
local text = require "copse.text"

local rules = {}

local function names_of(t)
  local names = text.sorted_keys(t)
  return #names > 0 and table.concat(names, ", ") or "none"
end

-- ---- names -----------------------------------------------------------------------------------------------------------------

function rules.name(place, name)
  if name and not name:find("^[%w_][%w_.-]*$") then
    check.report(place, "should be letters, digits, '_', '-' and '.', not '%s'", name)
  end
end

-- Names of a list of tables must differ.
function rules.unique(list, place, what)
  local first = {}
  for i, element in ipairs(list) do
    if element.name and first[element.name] then
      check.report(check.child(place, i), "%s '%s' is there already, at [%d]: names must differ", what, element.name,
        first[element.name])
    elseif element.name then
      first[element.name] = i
    end
  end
end

-- ---- streams and towers ------------------------------------------------------------------------------------------------------

function rules.stream_exists(place, name, data)
  if name and not data[name] then
    check.report(place, "there is no stream '%s'%s; data has: %s", name, check.hint(name, text.sorted_keys(data)), names_of(data))
    return false
  end
  return name ~= nil
end

-- Objectives make further towers ("ssl.teacher"), so the part before the dot counts.
function rules.tower_exists(place, name, towers)
  if name and not towers[name] and not towers[name:match("^[^.]*")] then
    check.report(place, "there is no tower '%s'%s; the model has: %s", name, check.hint(name, text.sorted_keys(towers)),
      names_of(towers))
  end
end

-- rest_of: another stream, which is no remainder itself.
function rules.rest_of(data, uses)
  for _, use in ipairs(uses) do
    if rules.stream_exists(use.place, use.name, data) then
      local other = data[use.name]
      if use.name == use.stream then
        check.report(use.place, "stream '%s' cannot be the rest of itself", use.name)
      elseif other.rest_of then
        check.report(use.place, "stream '%s' is the rest of '%s' itself: name a stream that is drawn", use.name, other.rest_of)
      end
    end
  end
end

-- ---- stages ------------------------------------------------------------------------------------------------------------------

local function length(stage, place, fits)
  local epochs, steps = stage.epochs or 0, stage.steps or 0
  if epochs > 0 and steps > 0 then
    check.report(place, "has epochs = %d and steps = %d: give one of them", epochs, steps)
  elseif epochs == 0 and steps == 0 and not fits and stage.epochs and stage.steps then -- nil: reported already
    check.report(place, "lacks its length: give epochs = N or steps = N")
  end
  return epochs > 0 or steps > 0
end

local function batch(stage, place)
  local global_batch, grain = stage.global_batch, stage.grain
  if not global_batch or not grain then return end
  if global_batch == 0 then
    check.report(place, "lacks 'global_batch': the samples of one step over all ranks")
  elseif global_batch % grain ~= 0 then
    local below = math.max(global_batch // grain, 1) * grain
    check.report(check.child(place, "global_batch"), "%d is not divisible by grain %d: take %d or %d, or another grain",
      global_batch, grain, below, below + grain)
  end
end

local function ordered(place, pair, key)
  if pair and pair[1] and pair[2] and pair[1] > pair[2] then
    check.report(check.child(place, key), "should be the smaller number first, not { %s, %s }", text.number(pair[1]),
      text.number(pair[2]))
  end
end

local function schedule(stage, place, explicit)
  local own = stage.schedule
  if not own or not stage.optimizer then return end
  if type(stage.optimizer.lr) == "table" and explicit and (own.kind ~= "constant" or own.warmup_steps ~= 0) then
    check.report(check.child(place, "schedule"),
      "the optimizer's lr gives every step its rate already: leave out copse.%s, or give lr a number", own.kind)
  end
  if type(stage.optimizer.weight_decay) == "table" and (own.final_weight_decay or -1) >= 0 then
    check.report(check.child(place, "schedule"),
      "the optimizer's weight_decay gives every step its own already: leave out final_weight_decay, or give weight_decay a number")
  end
  if (own.warmup_steps or 0) > 0 and (own.warmup_epochs or 0) > 0 then
    check.report(check.child(place, "schedule"), "has warmup_steps = %d and warmup_epochs = %d: give one of them", own.warmup_steps,
      own.warmup_epochs)
  end
  if (stage.epochs or 0) > 0 and (own.warmup_epochs or 0) > stage.epochs then
    check.report(check.child(place, "schedule"), "warmup_epochs = %d is more than the stage's epochs = %d", own.warmup_epochs,
      stage.epochs)
  end
  if (stage.steps or 0) > 0 and (own.warmup_steps or 0) > stage.steps then
    check.report(check.child(place, "schedule"), "warmup_steps = %d is more than the stage's steps = %d", own.warmup_steps,
      stage.steps)
  end
end

-- fits: an objective of the stage learns by `fit`; explicit: the job gave a schedule.
function rules.stage(stage, place, fits, explicit)
  rules.name(check.child(place, "name"), stage.name)
  ordered(place, stage.crop, "crop")
  ordered(place, stage.aspect, "aspect")
  if length(stage, place, fits) then
    batch(stage, place)
    if not stage.optimizer then
      check.report(place, "lacks 'optimizer': write  optimizer = copse.adamw { lr = ... }")
    end
    schedule(stage, place, explicit)
  end
  local known = {}
  for _, objective in ipairs(stage.objectives) do known[objective.name] = true end
  if stage.embed and not known[stage.embed] and next(known) then
    check.report(check.child(place, "embed"), "there is no objective '%s' in this stage%s; it has: %s", stage.embed,
      check.hint(stage.embed, text.sorted_keys(known)), names_of(known))
  end
end

-- ---- evaluations -------------------------------------------------------------------------------------------------------------

local ranks = { "kingdom", "phylum", "class", "order", "family", "genus", "species" } -- as in shards/taxon.c

local function is_taxonomic(key)
  return key:find("{rank}", 1, true) or key:find("shared_depth$") or key:find("tree_distance$")
end

-- What is said of another metric.
local function is_beside(key)
  return key:find("chance$") or key:find("_low$") or key:find("_high$")
end

-- Names that a key stands for: one for each number of an option ("{k}"), one for each rank.
local function expand(name, evaluation, names)
  local option = name:match("{([%w_]+)}")
  if not option then
    names[name] = true
    return
  end
  local values = option == "rank" and ranks or type(evaluation[option]) == "table" and evaluation[option] or { evaluation[option] }
  for _, value in ipairs(values) do
    expand(name:gsub("{[%w_]+}", option == "rank" and value or text.number(value), 1), evaluation, names)
  end
end

-- Names of the metrics that evaluations produce; "val.*" stands for any of them (terms of an objective). `shown`: shorter, for messages.
function rules.metrics(evaluations)
  local metrics = { names = {}, shown = {} }
  for _, evaluation in ipairs(evaluations) do
    for _, key in ipairs(evaluation.name and host.kinds[evaluation.kind].metrics or {}) do
      if evaluation.taxonomy ~= "off" or not is_taxonomic(key) then
        local name = evaluation.name .. "." .. key
        expand(name, evaluation, metrics.names)
        if not is_beside(key) then expand(name:gsub("{rank}", "<rank>"), evaluation, metrics.shown) end
      end
    end
  end
  return metrics
end

function rules.metric_exists(place, name, metrics)
  if not name or metrics.names[name] then return end
  for known in next, metrics.names do
    if known:sub(-1) == "*" and name:sub(1, #known - 1) == known:sub(1, -2) and #name >= #known then return end
  end
  check.report(place, "no evaluation gives the metric '%s'%s; there are: %s", name,
    check.hint(name, text.sorted_keys(metrics.names)), names_of(metrics.shown))
end

-- Each gives metrics of its own.
local function whole_numbers(place, key, list)
  local first = {}
  for i, number in ipairs(list or {}) do
    local at = check.child(check.child(place, key), i)
    if not math.tointeger(number) then
      check.report(at, "should be a whole number, not %s", text.number(number))
    elseif first[number] then
      check.report(at, "%s is there already, at [%d]", text.number(number), first[number])
    else
      first[number] = i
    end
  end
  if list and #list == 0 then check.report(check.child(place, key), "is empty: a list such as { 1, 5 }") end
end

function rules.evaluation(evaluation, place, stage_names)
  local name = evaluation.name
  if name and not name:find("^[%w_][%w_-]*$") then
    check.report(check.child(place, "name"), "should be letters, digits, '_' and '-', not '%s'", name)
  end
  for i, stage in ipairs(evaluation.stages or {}) do
    if not stage_names[stage] then
      check.report(check.child(check.child(place, "stages"), i), "there is no stage '%s'%s; there are: %s", stage,
        check.hint(stage, text.sorted_keys(stage_names)), names_of(stage_names))
    end
  end
  for i, template in ipairs(evaluation.templates or {}) do
    local _, places = template:gsub("{}", "")
    if places ~= 1 then
      check.report(check.child(check.child(place, "templates"), i), "should hold {} once, where the class name goes: '%s'",
        template)
    end
  end
  if evaluation.kind == "retrieval" then whole_numbers(place, "k", evaluation.k) end
  if evaluation.kind == "few_shot" then whole_numbers(place, "shots", evaluation.shots) end
end

return rules
