-- A job as constructors made it -> the resolved job: plain tables with every default, as runtime/job/README.md describes them.
-- Mistakes are collected in check.lua; what is wrong is left out of the result, which is then not used.
local check = require "copse.check"
local node = require "copse.node"
local rules = require "copse.rules"
local templates = require "copse.templates"
local text = require "copse.text"

local resolve = {}

local child, enter = check.child, check.enter

-- ---- data --------------------------------------------------------------------------------------------------------------------

-- What only packing can do, and why shards do not take it.
local with_source = {
  classes = "shards hold their class names",
  format = "shards have one format",
  root = "shards hold their pictures",
  class_captions = "shards hold their captions, 'copse pack --class-captions' puts them there",
  allow_missing = "shards hold their pictures",
}

local function subset_rules(set, place)
  if (set.fraction or 0) > 0 and (set.count or 0) > 0 then
    check.report(place, "has fraction = %s and count = %d: give one of them", text.number(set.fraction), set.count)
  end
  for _, key in ipairs(set.source and {} or text.sorted_keys(with_source)) do
    if set[key] and set[key] ~= "table" then check.report(child(place, key), "goes with source alone: %s", with_source[key]) end
  end
end

local source_paths = { source = true, classes = true, root = true, class_captions = true }

-- uses: collects { place, name, stream } of every rest_of.
local function shards(value, place, uses, stream)
  local origin = check.node(value, place, { "shards" })
  local kind = origin and check.kind("shards", place)
  if not kind then return nil end
  place = enter(place, origin)
  local set = check.rows(kind.rows, value, place, { also = { [1] = true }, paths = source_paths })
  local patterns = text.list()
  for i, pattern in ipairs(value) do
    pattern = check.text(child(place, i), pattern)
    if pattern then patterns[#patterns + 1] = check.absolute(pattern) end
  end
  if #patterns > 0 then set.shards = patterns end
  if #value == 0 and not value.source then
    check.report(place, 'lacks its files: write  copse.shards { "folder/train-*.h5" }  or  copse.shards { source = "train.csv" }')
  elseif #value > 0 and value.source then
    check.report(child(place, "source"), "a set is made of shards or of a source, not of both")
  end
  subset_rules(set, place)
  if set.rest_of then uses[#uses + 1] = { place = child(place, "rest_of"), name = set.rest_of, stream = stream } end
  return set
end

local function mixture(value, place, uses, stream)
  local origin = node.origin(value)
  local kind = check.kind("mixture", place)
  if not kind then return nil end
  place = enter(place, origin)
  local result = check.rows(kind.rows, value, place, { also = { [1] = true } })
  result.mixture = text.list()
  for i, set in ipairs(value) do result.mixture[i] = shards(set, child(place, i), uses, stream) end
  if #value == 0 then check.report(place, "lacks its sets: write  copse.mixture { copse.shards { ... }, copse.shards { ... } }") end
  local weighted = 0
  for _, set in ipairs(result.mixture) do weighted = weighted + ((set.weight or 0) > 0 and 1 or 0) end
  if weighted > 0 and weighted < #result.mixture then
    check.report(place, "%d of %d sets have a weight: give one to each, or to none", weighted, #result.mixture)
  end
  return result
end

local function data(value, place, uses)
  local result = {}
  value = check.table(value, place, "a table of streams such as { paired = copse.shards { ... } }")
  for _, name in ipairs(text.sorted_keys(value or {})) do
    local at = child(place, name)
    if type(name) ~= "string" or not name:find("^[%a_][%w_]*$") then
      check.report(at, "a stream needs a name: write  paired = copse.shards { ... }")
    else
      local origin = node.origin(value[name])
      if origin and origin.kind == "mixture" then
        result[name] = mixture(value[name], at, uses, name)
      else
        if not origin then check.node(value[name], at, { "shards", "mixture" }) end
        result[name] = origin and shards(value[name], at, uses, name) or {}
      end
    end
  end
  if value and next(value) == nil then check.report(place, "has no stream: write  data = { paired = copse.shards { ... } }") end
  return result
end

-- Records of an evaluation, by `key`: a pattern, a list of them, or copse.shards.
local function evaluation_data(value, key, place, uses)
  if value == nil then return check.report(place, "lacks '%s': its records, such as  %s = \"test-*.h5\"", key, key) end
  place = child(place, key)
  if type(value) == "table" and node.origin(value) then return shards(value, place, uses, nil) end
  local patterns = check.strings(place, value)
  local kind = patterns and check.kind("shards", place)
  if not kind then return nil end
  local set = check.rows(kind.rows, {}, place)
  set.shards = patterns
  for i, pattern in ipairs(patterns) do patterns[i] = check.absolute(pattern) end
  if #patterns == 0 then check.report(place, "is empty: name its records, such as \"test-*.h5\"") end
  return set
end

-- ---- model and tokenizer -------------------------------------------------------------------------------------------------------

local function preset_exists(name, place)
  for _, preset in ipairs(host.presets) do
    if preset == name then return end
  end
  check.report(place, "there is no preset '%s'%s; there are: %s", name, check.hint(name, host.presets),
    table.concat(host.presets, ", "))
end

-- A tower of its own, or (partial) what differs from the preset's.
local function tower(value, place, partial)
  local kind = check.kind("tower", place)
  if not kind then return nil end
  local origin = node.origin(value)
  if origin then
    if not check.node(value, place, { "tower" }) then return nil end
    place = enter(place, origin)
  elseif not check.table(value, place, "a table of sizes") then
    return nil
  end
  return check.rows(kind.rows, value, place, { partial = partial, paths = { weights = true } })
end

local function towers(value, place, result)
  value = check.table(value, place, "a table of towers such as { ssl = copse.tower { ... } }")
  for _, name in ipairs(text.sorted_keys(value or {})) do
    local at = child(place, name)
    if type(name) ~= "string" or not name:find("^[%a_][%w_]*$") then
      check.report(at, "a tower needs a name: write  ssl = copse.tower { ... }")
    elseif name == "image" or name == "text" then
      check.report(at, "stands beside `towers`, as model.%s", name)
    elseif check.node(value[name], at, { "tower" }) then
      result[name] = tower(value[name], at, false)
    end
  end
end

local function model(value, place)
  local origin = check.node(value, place, { "model" })
  local kind = origin and check.kind("model", place)
  if not kind then return nil end
  place = enter(place, origin)
  local result = check.rows(kind.rows, value, place,
    { also = { image = true, text = true, towers = true }, paths = { weights = true } })
  if result.preset then preset_exists(result.preset, child(place, "preset")) end
  for _, name in ipairs { "image", "text" } do
    if value[name] ~= nil then result[name] = tower(value[name], child(place, name), true) end
  end
  if value.towers ~= nil then
    result.towers = {}
    towers(value.towers, child(place, "towers"), result.towers)
  end
  return result
end

local function tokenizer(value, place)
  local origin = check.node(value, place, { "tokenizer" })
  local kind = origin and check.kind("tokenizer", place)
  if not kind then return nil end
  place = enter(place, origin)
  local result = check.rows(kind.rows, value, place, { paths = { merges = true, json = true } })
  if (value.merges == nil) == (value.json == nil) then
    check.report(place, value.merges and "has merges and json: give one of them"
      or 'lacks its file: write  copse.tokenizer { merges = "bpe_simple_vocab_16e6.txt.gz" }  or  json = "tokenizer.json"')
  end
  return result
end

-- ---- stages ----------------------------------------------------------------------------------------------------------------------

local function available_objectives()
  local names = {}
  for _, name in ipairs(text.sorted_keys(host.kinds)) do
    local objective = name:match("^objective:(.*)$")
    if objective then names[#names + 1] = objective end
  end
  return names
end

-- Names of methods that are near to those of others, so that no hint is given for them.
local methods = { sclip = true, dalip = true, bioclip = true, agriclip = true }

local function missing_objective(name, place)
  local available, members = available_objectives(), {}
  for _, other in ipairs(available) do
    if other:sub(1, #name + 1) == name .. "." then members[#members + 1] = other end
  end
  if #members > 0 then
    return check.report(place, "objective '%s' is a family: take %s", name, table.concat(members, " or "))
  end
  local hint = methods[name:match("^[^.]*")] and "" or check.hint(name, available)
  check.report(place, "objective '%s' is not built in this version%s; available: %s", name, hint,
    #available > 0 and table.concat(available, ", ") or "none")
end

local function objective_kind(origin, place)
  if not origin.plugin then
    return host.kinds["objective:" .. origin.name] or missing_objective(origin.name, place)
  end
  local kind, why = host.load_objective(check.absolute(origin.plugin), origin.name)
  if not kind then check.report(place, "%s", why) end
  return kind
end

-- References of an objective's options to streams and towers, checked when both are known. `given`: what the job itself says of them.
local function references(rows, options, given, place, uses)
  for _, row in ipairs(rows) do
    if (row.kind == "stream" or row.kind == "tower") and options[row.name] then
      uses[#uses + 1] = { kind = row.kind, name = options[row.name], place = child(place, row.name),
        default_of = given[row.name] == nil and options or nil, option = row.name }
    end
  end
end

local function objective(value, place, uses)
  local origin = node.origin(value)
  if not origin or origin.kind ~= "objective" then
    return check.report(place, "should be an objective such as copse.objective.clip { ... }, not %s",
      check.is_plain(value) and "a plain table" or check.seen(value))
  end
  place = enter(place, origin)
  local kind = objective_kind(origin, place)
  local common = host.kinds.objective and host.kinds.objective.rows or {}
  if not kind then return nil end
  local also, own = {}, {}
  for _, row in ipairs(common) do also[row.name] = true end
  for key, element in next, value do
    if not also[key] then own[key] = element end
  end
  local shared = {}
  for _, row in ipairs(common) do shared[row.name] = value[row.name] end
  local result = check.rows(common, shared, place)
  result.name = origin.name
  result.plugin = origin.plugin and check.absolute(origin.plugin)
  result.options = check.rows(kind.rows, own, place, { also = also })
  references(kind.rows, result.options, own, place, uses)
  return result, kind.fits
end

-- One objective or a list of them; also whether one of them learns by fit.
local function objectives(value, place, uses)
  local result, any_fits = text.list(), false
  if value == nil then
    check.report(place, "lacks 'objective': write  objective = copse.objective.clip {}")
    return result, true
  end
  local list = check.is_plain(value) and value
  local at = child(place, "objective")
  if list and #list == 1 then -- the resolved job writes a lone objective without a list, and the path must be the same
    at.keys[#at.keys + 1] = 1
    list, value = nil, list[1]
  end
  if list and #list == 0 then check.report(at, "is an empty list: write  objective = copse.objective.clip {}") end
  for i, element in ipairs(list or { value }) do
    local one, fits = objective(element, list and child(at, i) or at, uses)
    result[#result + 1] = one
    any_fits = any_fits or fits or not one
  end
  return result, any_fits
end

-- Optimizer or schedule: options of one of `kinds`, with its kind.
local function one_of(value, place, kinds)
  local origin = check.node(value, place, kinds)
  local kind = origin and check.kind(origin.kind, place)
  if not kind then return nil end
  place = enter(place, origin)
  local lists = { no_decay = kinds[1] == "adamw" or nil }
  local result = check.rows(kind.rows, value, place, { also = lists })
  result.kind = origin.kind
  for key in next, lists do
    if value[key] ~= nil then result[key] = check.strings(child(place, key), value[key]) end
  end
  return result
end

-- rows = { unlabelled = 32 }
local function rows_per_grain(value, place, uses)
  local result = {}
  value = check.table(value, place, "a table such as { unlabelled = 32 }")
  for _, name in ipairs(text.sorted_keys(value or {})) do
    local at, count = child(place, name), value[name]
    if type(name) ~= "string" then
      check.report(at, "should name a stream: write  unlabelled = 32")
    elseif math.type(count) ~= "integer" or count < 1 or count > 65536 then
      check.report(at, "should be a whole number between 1 and 65536, not %s", text.show(count))
    else
      uses[#uses + 1] = { kind = "stream", name = name, place = at }
      result[name] = count
    end
  end
  return result
end

-- lr_factors = { { "visual.*", 0.1 }, ... }
local function lr_factors(value, place)
  local result = text.list()
  value = check.table(value, place, 'a list such as { { "visual.*", 0.1 } }')
  for i, pair in ipairs(value or {}) do
    local plain = check.is_plain(pair)
    local pattern, factor = plain and pair[1], plain and pair[2]
    if type(pattern) ~= "string" or type(factor) ~= "number" or not text.is_finite(factor) or factor < 0 then
      check.report(child(place, i), 'should be a pattern and a factor of at least 0, such as { "visual.*", 0.1 }')
    else
      result[#result + 1] = text.list { pattern, factor }
    end
  end
  return result
end

local stage_parts = {
  objective = true, embed = true, rows = true, train = true, lr_factors = true, optimizer = true, schedule = true,
}

local function stage_lists(value, place, result, uses)
  if value.rows ~= nil then result.rows = rows_per_grain(value.rows, child(place, "rows"), uses) end
  if value.train ~= nil then result.train = check.strings(child(place, "train"), value.train) end
  if value.lr_factors ~= nil then result.lr_factors = lr_factors(value.lr_factors, child(place, "lr_factors")) end
  if value.embed ~= nil then result.embed = check.text(child(place, "embed"), value.embed) end
end

local function stage(value, place, number, job, uses)
  local origin = check.node(value, place, { "stage" })
  local kind = origin and check.kind("stage", place)
  if not kind then return { objectives = {} } end
  place = enter(place, origin)
  local result = check.rows(kind.rows, value, place, { also = stage_parts })
  local fits
  result.name = result.name or "stage" .. number
  result.max_bad = result.max_bad or job.max_bad
  result.max_skipped_steps = result.max_skipped_steps or job.max_skipped_steps
  result.objectives, fits = objectives(value.objective, place, uses)
  stage_lists(value, place, result, uses)
  result.embed = result.embed or result.objectives[1] and result.objectives[1].name
  if value.optimizer ~= nil then
    result.optimizer = one_of(value.optimizer, child(place, "optimizer"), { "adamw", "sgd", "lars" })
  end
  if value.schedule ~= nil then
    result.schedule = one_of(value.schedule, child(place, "schedule"), { "cosine", "constant" })
  elseif host.kinds.constant and result.optimizer then
    result.schedule = check.rows(host.kinds.constant.rows, {}, place)
    result.schedule.kind = "constant"
  end
  if value.optimizer ~= nil and not result.optimizer then result.optimizer = {} end -- reported above
  rules.stage(result, place, fits, value.schedule ~= nil)
  return result
end

local function stages(value, place, job, uses)
  local result = text.list()
  if node.origin(value) then value = { value } end
  value = check.table(value, place, "a list of stages: { copse.stage { ... } }")
  for i, element in ipairs(value or {}) do result[i] = stage(element, child(place, i), i, job, uses) end
  if value and #value == 0 then check.report(place, "is empty: write  stages = { copse.stage { ... } }") end
  rules.unique(result, place, "stage")
  return result
end

-- ---- evaluations -------------------------------------------------------------------------------------------------------------------

local evaluation_kinds = { "zero_shot", "retrieval", "validation_loss", "knn", "linear_probe", "few_shot" }
local outputs = { "pooled", "projected", "feature", "tokens", "tokens_projected" }

-- The one of a set's templates that is for evaluation `name`, or its list.
local function templates_of(set, name)
  local key = type(name) == "string" and name:lower():gsub("[^%w]+", "-")
  local one = set.of and set.of[key]
  return one and { one } or { table.unpack(set) }
end

local function template_list(value, place, name)
  if type(value) == "string" and not value:find("{}", 1, true) then
    local set = templates[value]
    if not set then
      local names = text.sorted_keys(templates)
      return check.report(place, "there is no set of templates '%s'%s; there are: %s; or give a list such as "
        .. '{ "a photo of a {}." }', value, check.hint(value, names), table.concat(names, ", "))
    end
    value = templates_of(set, name)
  end
  local list = check.strings(place, value)
  if list and #list == 0 then check.report(place, "is empty: a list such as { \"a photo of a {}.\" }") end
  return list
end

-- features = { "ssl.teacher", "pooled" }
local function features(value, place, uses)
  local pair = check.strings(place, value)
  if not pair then return nil end
  if #pair ~= 2 then return check.report(place, 'should be a tower and one of its outputs, such as { "image", "pooled" }') end
  local known = false
  for _, output in ipairs(outputs) do known = known or output == pair[2] end
  if not known then
    return check.report(child(place, 2), "there is no output '%s'%s; there are: %s", pair[2], check.hint(pair[2], outputs),
      table.concat(outputs, ", "))
  end
  uses[#uses + 1] = { kind = "tower", name = pair[1], place = child(place, 1) }
  return { tower = pair[1], output = pair[2] }
end

local function every(value, place)
  if value == "epoch" then return value end
  if math.type(value) == "integer" and value > 0 and value <= 1e12 then return value end
  check.report(place, "should be \"epoch\" or a number of steps, not %s", text.show(value))
end

local function evaluation(value, place, uses, rest_uses)
  local origin = check.node(value, place, evaluation_kinds)
  local kind = origin and check.kind(origin.kind, place)
  if not kind then return nil end
  place = enter(place, origin)
  local also = { data = true, every = true, stages = true, features = true }
  also.templates = origin.kind == "zero_shot" or nil
  also.bank = origin.kind == "knn" or nil
  local result = check.rows(kind.rows, value, place, { also = also })
  result.kind = origin.kind
  result.data = evaluation_data(value.data, "data", place, rest_uses)
  if value.every ~= nil then result.every = every(value.every, child(place, "every")) end
  if value.stages ~= nil then result.stages = check.strings(child(place, "stages"), value.stages) end
  if value.features ~= nil then result.features = features(value.features, child(place, "features"), uses) end
  if also.templates then result.templates = template_list(value.templates or "plain", child(place, "templates"), value.name) end
  if also.bank then result.bank = evaluation_data(value.bank, "bank", place, rest_uses) end
  return result, place
end

local function evaluations(value, place, stage_list, uses, rest_uses)
  local result, stage_names = text.list(), {}
  for _, one in ipairs(stage_list) do
    if one.name then stage_names[one.name] = true end
  end
  if node.origin(value) then value = { value } end
  value = check.table(value, place, "a list of evaluations: { copse.zero_shot { ... } }")
  for i, element in ipairs(value or {}) do
    local one, at = evaluation(element, child(place, i), uses, rest_uses)
    if one then
      rules.evaluation(one, at, stage_names)
      result[#result + 1] = one
    end
  end
  rules.unique(result, place, "evaluation")
  return result
end

-- ---- the whole -----------------------------------------------------------------------------------------------------------------------

-- checkpoint, early_stop: options alone; without them the defaults of `kind`.
local function settings_of(kind_name, value, place)
  local kind = host.kinds[kind_name]
  if value ~= nil then
    local origin = check.node(value, place, { kind_name })
    kind = origin and check.kind(kind_name, place)
    if not kind then return {} end
    return check.rows(kind.rows, value, enter(place, origin)), enter(place, origin)
  end
  return kind and check.rows(kind.rows, {}, place) or {}, place
end

local function check_references(uses, job)
  local towers_known = { image = true, text = true }
  for name in next, job.model and job.model.towers or {} do towers_known[name] = true end
  local data = job.data or {}
  local first = next(data)
  local only = first and next(data, first) == nil and first or nil -- a job's only stream stands for any default
  for _, use in ipairs(uses) do
    if use.kind == "stream" and use.default_of and only then
      use.default_of[use.option] = only
    elseif use.kind == "stream" then
      rules.stream_exists(use.place, use.name, data)
    else
      rules.tower_exists(use.place, use.name, towers_known)
    end
  end
end

local job_parts = {
  model = true, tokenizer = true, data = true, stages = true, evaluate = true, checkpoint = true, early_stop = true,
  on_evaluate = true,
}

local function on_evaluate(value, place)
  if type(value) ~= "function" then
    return check.report(place, "should be a function of (metrics, state), not %s", text.show(value))
  end
  return check.keep_function(place, value)
end

local function metric_rules(job, value, place)
  local metrics, at = rules.metrics(job.evaluate), nil
  job.checkpoint, at = settings_of("checkpoint", value.checkpoint, child(place, "checkpoint"))
  rules.metric_exists(child(at or place, "best"), job.checkpoint.best, metrics)
  if value.early_stop ~= nil then
    job.early_stop, at = settings_of("early_stop", value.early_stop, child(place, "early_stop"))
    rules.metric_exists(child(at or place, "metric"), job.early_stop.metric, metrics)
  end
end

local examples = {
  model = 'model = copse.model { preset = "ViT-B-32" }',
  data = "data = { paired = copse.shards { ... } }",
  stages = "stages = { copse.stage { ... } }",
}

-- The resolved job of what `copse.job` was given; check.mistakes() says whether it may be used.
function resolve.job(value)
  local place = { path = "", origin = node.origin(value), keys = {} }
  local kind = check.kind("job", place)
  if not kind then return nil end
  local job = check.rows(kind.rows, value, place, { also = job_parts })
  local uses, rest_uses = {}, {}
  rules.name(child(place, "name"), job.name)
  for _, key in ipairs { "model", "data", "stages" } do
    if value[key] == nil then check.report(place, "lacks '%s': write  %s", key, examples[key]) end
  end
  if value.model ~= nil then job.model = model(value.model, child(place, "model")) end
  if value.tokenizer ~= nil then job.tokenizer = tokenizer(value.tokenizer, child(place, "tokenizer")) end
  if value.data ~= nil then job.data = data(value.data, child(place, "data"), rest_uses) end
  if value.stages ~= nil then job.stages = stages(value.stages, child(place, "stages"), job, uses) end
  job.evaluate = evaluations(value.evaluate or {}, child(place, "evaluate"), job.stages or {}, uses, rest_uses)
  if value.on_evaluate ~= nil then job.on_evaluate = on_evaluate(value.on_evaluate, child(place, "on_evaluate")) end
  rules.rest_of(job.data or {}, rest_uses)
  check_references(uses, job)
  metric_rules(job, value, place)
  return job
end

return resolve
