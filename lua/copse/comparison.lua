-- From runs on disk to comparison.json as a table (runtime/report/comparison.md): which runs, which method each is of, what is
-- unfair; the numbers come from the service "comparison".
local fairness = require "copse.fairness"
local methods = require "copse.methods"
local runs = require "copse.runs"
local tables = require "copse.tables"
local text = require "copse.text"

local comparison = {}

local POINTS = 50 -- of curves: only the last step of each stage is wanted here

-- ---- runs ----

-- `value` where it is a table; files may hold anything.
local function as_table(value)
  return type(value) == "table" and value or {}
end

local function last_session(facts)
  local sessions = as_table(as_table(facts.provenance).sessions)
  return as_table(sessions[#sessions])
end

-- Stages as provenance.json lists them: name, steps, samples_per_step.
local function stages_of(facts)
  local stages = {}
  for _, stage in ipairs(as_table(as_table(facts.provenance).stages)) do
    if type(as_table(stage).name) == "string" then
      stages[#stages + 1] = { name = stage.name, steps = stage.steps, samples_per_step = as_table(stage.samples_per_step) }
    end
  end
  return stages
end

-- Whether the run says what its job was. One that failed before it began does not: it is left out, unless it was named itself.
local function has_job(found, facts)
  local job = as_table(facts.job)
  if type(job.seed) == "number" and type(job.stages) == "table" then return true end
  local problems = table.concat(facts.problems, "; ")
  if found.is_named then
    system.fail("data", "run '%s' does not say what its job was (job.json): %s. Runs of older versions have none; train it again, "
      .. "or leave it out", found.folder, problems)
  end
  system.log("warning", string.format("run '%s' (%s) does not say what its job was, and is left out: %s", found.name, facts.state,
    facts.reason or problems))
  return false
end

-- What a run is evaluated on: runs of one block may be paired by seed.
local function block_of(run)
  local parts = {}
  for _, key in ipairs(text.sorted_keys(run.digests)) do
    if key:find "^evaluation%." then parts[#parts + 1] = key .. "=" .. tostring(run.digests[key]) end
  end
  return table.concat(parts, " ")
end

local function load(found)
  if not utf8.len(found.folder) then
    system.fail("usage", "the folder '%s' has a name that is no UTF-8: rename it", tables.printable(found.folder))
  end
  local facts = runs.facts(found.folder, POINTS)
  if not facts then system.fail("missing", "run '%s' vanished while it was read", found.folder) end
  if not has_job(found, facts) then return nil end
  local session = last_session(facts)
  local run = { name = found.name, folder = found.folder, facts = facts, job = facts.job, seed = facts.job.seed,
    flat = methods.flat_job(facts.job), digests = as_table(session.digests), session = session,
    stages = stages_of(facts), step = facts.beat and math.tointeger(facts.beat.step) }
  run.bits = session.precision and string.format("%s with %s", tostring(session.precision), tostring(session.blas_core))
  run.block = block_of(run)
  return run
end

-- Each run once, by its whole path; those that --fresh moved aside, or that a sweep no longer has, only where they are named themselves.
local function find(operands)
  local list, seen = {}, {}
  for _, operand in ipairs(operands) do
    local found = runs.find { operand }
    for _, one in ipairs(found) do
      local path = system.absolute(one.folder) or one.folder
      local left = #found > 1 and methods.has_left_sweep(path)
      if left then system.log("info", "run '" .. one.name .. "' is no longer in its sweep: it is left out") end
      if not seen[path] and not left and not (one.old and #found > 1) then
        seen[path], one.folder, one.is_named = true, path, #found == 1
        list[#list + 1] = one
      end
    end
    if #found == 0 then system.fail("missing", "there are no runs in '%s'", operand) end
  end
  return list
end

-- Names that tell runs apart: their folders where names repeat.
local function make_names_unique(all)
  local count = {}
  for _, run in ipairs(all) do count[run.name] = (count[run.name] or 0) + 1 end
  for _, run in ipairs(all) do
    if count[run.name] > 1 then run.name = run.folder end
  end
end

local function parse_trials(words, by_name)
  for _, word in ipairs(words or {}) do
    local name, count = word:match "^(.+)=(%d+)$"
    if not name or not by_name[name] then
      system.fail("usage", "--trials is '%s': METHOD=NUMBER is wanted, with a method of this comparison", word)
    end
    for _, run in ipairs(by_name[name]) do run.trials = tonumber(count) end
  end
end

-- ---- evaluations ----

-- Path of a run's predictions on an evaluation, or nil.
local function predictions_of(run, name, at)
  if at == "final" then return run.facts.predictions[name] end
  local path = run.folder .. "/predictions/best/" .. name .. ".h5"
  local facts = system.stat(path)
  return facts and facts.kind == "file" and path or nil
end

-- Names of evaluations in the order of the jobs; and those that keep nothing per sample.
local function evaluation_names(all)
  local names, without, seen = {}, {}, {}
  for _, run in ipairs(all) do
    for _, evaluation in ipairs(run.job.evaluate or {}) do
      if not seen[evaluation.name] then
        seen[evaluation.name] = true
        local list = evaluation.kind == "validation_loss" and without or names
        list[#list + 1] = evaluation.name
      end
    end
  end
  return names, without
end

local function has_evaluation(run, name)
  for _, evaluation in ipairs(run.job.evaluate or {}) do
    if evaluation.name == name then return true end
  end
end

local function collect_files(all, name, at, warnings)
  local files = text.list()
  for _, run in ipairs(all) do
    local path = predictions_of(run, name, at)
    if path then
      files[#files + 1] = { run = run.name, method = run.method, seed = run.seed, path = path,
        digest = run.digests["evaluation." .. name] or "?", place = run.folder:match "([^/]+)/[^/]+/*$" or run.name }
    elseif has_evaluation(run, name) then
      warnings[#warnings + 1] = { kind = "files", text = string.format("run '%s' has no predictions of '%s'%s: it is left out there",
        run.name, name, at == "best" and " from its best checkpoint (checkpoint.best of the job, evaluated with it)" or "") }
    end
  end
  return files
end

-- Lists of files by digest of the data, in order; and whether each holds all methods, so that they are data sets of one name.
local function split_by_data(files)
  local groups, order, methods_of, all_methods = {}, {}, {}, {}
  for _, file in ipairs(files) do
    if not groups[file.digest] then
      groups[file.digest], methods_of[file.digest] = text.list(), {}
      order[#order + 1] = file.digest
    end
    table.insert(groups[file.digest], file)
    methods_of[file.digest][file.method], all_methods[file.method] = true, true
  end
  for _, digest in ipairs(order) do
    for method in pairs(all_methods) do
      if not methods_of[digest][method] then return { files } end
    end
  end
  local lists = {}
  for i, digest in ipairs(order) do lists[i] = groups[digest] end
  return lists
end

-- Entries of the request; a data set that shares its name with another is called after the folder of its runs.
local function collect_evaluations(all, at, warnings)
  local names, without = evaluation_names(all)
  local list = text.list()
  for _, name in ipairs(names) do
    local files = collect_files(all, name, at, warnings)
    local lists = #files > 0 and split_by_data(files) or {}
    for i, own in ipairs(lists) do
      local label = #lists > 1 and string.format("%s (%s)", name, own[1].place) or name
      for _, other in ipairs(list) do
        if other.label == label then label = string.format("%s %d", label, i) end
      end
      list[#list + 1] = { name = name, label = label, files = own }
    end
  end
  return list, without
end

-- ---- metrics ----

-- "rs.top1" -> evaluation "rs", "top1"; "top1" -> nil, "top1".
local function split_metric(word, evaluations)
  for _, evaluation in ipairs(evaluations) do
    for _, name in ipairs { evaluation.label, evaluation.name } do
      if word:sub(1, #name + 1) == name .. "." then return evaluation.label, word:sub(#name + 2) end
    end
  end
  return nil, word
end

local function ask_metrics(evaluations, words)
  for _, evaluation in ipairs(words and #words > 0 and evaluations or {}) do
    evaluation.metrics = text.list()
    for _, word in ipairs(words) do
      local of, metric = split_metric(word, evaluations)
      if of == nil or of == evaluation.label then table.insert(evaluation.metrics, metric) end
    end
  end
end

local function check_answered(result, evaluations, words)
  for _, word in ipairs(words or {}) do
    local of, metric = split_metric(word, evaluations)
    local found, offers = false, {}
    for _, evaluation in ipairs(result.evaluations) do
      for _, one in ipairs(evaluation.metrics) do
        found = found or (one.metric == metric and (of == nil or of == evaluation.name))
      end
      for _, offer in ipairs(evaluation.offers) do offers[#offers + 1] = evaluation.name .. "." .. offer end
    end
    if not found then
      local near = system.nearest(word, offers)
      system.fail("usage", "no evaluation of these runs has values per sample of '%s'%s: there are %s", word,
        near and " (did you mean '" .. near .. "'?)" or "", table.concat(offers, ", "))
    end
  end
end

-- ---- the result as it is written ----

local lists = {}
for key in ([[evaluations warnings friedman metrics methods comparisons per_seed seeds values wilson ranks confusions
  disagreements classes class_names steps offers interval plain_interval seed_interval runs job_differences verdicts
  not_compared]]):gmatch "%S+" do
  lists[key] = true
end

-- JSON's empty lists come back as tables that nothing marks; intervals without ends are left out; names may hold any bytes.
local function make_writable(value)
  for key, member in pairs(value) do
    if type(member) == "string" and not utf8.len(member) then
      value[key] = tables.printable(member)
    elseif type(member) == "table" then
      if lists[key] and (#member > 0 or next(member) == nil) then text.list(member) end -- some are objects elsewhere
      if type(key) == "string" and key:find "interval$" and #member ~= 2 then
        value[key] = nil
      else
        make_writable(member)
      end
    end
  end
  return value
end

local function same_file(path, name)
  return path ~= nil and (path == name or path:sub(-#name - 1) == "/" .. name)
end

-- Whole paths of shards, where a run says them.
local function resolve_shards(evaluation, name, shards)
  local paths = as_table(as_table(shards)[name])
  for _, sample in ipairs(evaluation.disagreements) do
    local path = paths[(sample.shard_index or -1) + 1]
    for _, other in ipairs(paths) do
      if not same_file(path, sample.shard or "") then path = other end
    end
    if sample.shard and same_file(path, sample.shard) then sample.shard = path end
    sample.shard_index = nil
  end
end

local function steps_by_run(result)
  local steps = {}
  for _, evaluation in ipairs(result.evaluations) do
    for _, one in ipairs(evaluation.steps) do
      steps[one.run] = steps[one.run] or {}
      steps[one.run][evaluation.name] = { step = one.step }
    end
    evaluation.steps, evaluation.offers = nil, nil
  end
  return steps
end

local function describe_run(run, steps)
  local cost = run.facts.cost
  cost.ranks, cost.threads = run.session.ranks, run.session.threads
  return { run = run.name, folder = run.folder, method = run.method, seed = run.seed, state = run.facts.state, step = run.step,
    images = fairness.images(run), evaluations = steps or {}, cost = cost, provenance = run.session }
end

local function describe_method(name, list)
  local method = { name = name, seeds = text.list(), runs = text.list(), objective = methods.objective(list[1].job),
    trials = list[1].trials }
  local seen = {}
  for _, run in ipairs(list) do
    method.runs[#method.runs + 1] = run.name
    if not seen[run.seed] then method.seeds[#method.seeds + 1] = run.seed end
    seen[run.seed] = true
  end
  return method
end

local function job_differences(groups, names)
  local flats, result = {}, text.list()
  for i, name in ipairs(names) do flats[i] = groups[name][1].flat end
  for _, difference in ipairs(methods.differences(flats)) do
    local values = {}
    for i, name in ipairs(names) do values[name] = difference.values[i] end
    result[#result + 1] = { key = difference.key, values = values }
  end
  return result
end

-- Predictions may be of an earlier step than the run: it was stopped before it evaluated again.
local function check_steps(result, all, at, warnings)
  for _, run in ipairs(at == "final" and all or {}) do
    for _, evaluation in ipairs(result.evaluations) do
      for _, one in ipairs(evaluation.steps) do
        local stage_bound = #run.stages > 1 -- evaluations of one stage stand at its end
        if one.run == run.name and run.step and one.step ~= run.step and not stage_bound then
          warnings[#warnings + 1] = { kind = "steps", text = string.format("evaluation '%s': the predictions of run '%s' are of "
            .. "step %d, the run stands at step %d", evaluation.name, run.name, one.step, run.step) }
        end
      end
    end
  end
end

-- ---- sentences ----

-- 0.123 -> "12.3"; a rank stays as it is.
function comparison.show(metric, value)
  if value == nil then return "?" end
  return metric.is_share and string.format("%.1f", 100 * value) or string.format("%.2f", value)
end

local function p_text(p)
  if p == nil then return "unknown" end
  return p < 0.001 and "< 0.001" or string.format("%.3f", p)
end
comparison.p_text = p_text

local function verdict_text(evaluation, metric, one)
  local unit = metric.is_share and " points" or ""
  local change = string.format("difference %s%s", comparison.show(metric, one.estimate), unit)
  if one.interval then
    change = string.format("%s (%s .. %s)", change, comparison.show(metric, one.interval[1]), comparison.show(metric, one.interval[2]))
  end
  local where = string.format("on %s %s", evaluation.name, metric.metric)
  local one_seed = one.seed_variance_known and "" or "; one seed: about these two models, not about the methods"
  if one.verdict == "better" or one.verdict == "worse" then
    return string.format("%s is %s than %s %s: %s, p %s%s", one.method, one.verdict, one.to, where, change, p_text(one.p_adjusted),
      one_seed)
  elseif one.verdict == "unknown" then
    return string.format("nothing can be said of %s and %s %s: their spread is unknown", one.method, one.to, where)
  end
  return string.format("%s and %s are not distinguishable %s: %s, p %s; this design finds differences of %s%s and more%s", one.method,
    one.to, where, change, p_text(one.p_adjusted), comparison.show(metric, one.detectable), unit, one_seed)
end

local function verdicts(result)
  local clear, rest = text.list(), {}
  for _, evaluation in ipairs(result.evaluations) do
    for _, metric in ipairs(evaluation.metrics) do
      for _, one in ipairs(metric.comparisons) do
        if one.family == "baseline" then
          local list = (one.verdict == "better" or one.verdict == "worse") and clear or rest
          list[#list + 1] = verdict_text(evaluation, metric, one)
        end
      end
    end
  end
  for _, line in ipairs(rest) do clear[#clear + 1] = line end
  return clear
end

-- ---- the door ----

local function prepare(options)
  local patterns, by, all, ignored = methods.parse_patterns(options.method), methods.parse_by(options.by), {}, {}
  for _, found in ipairs(find(options.operands)) do
    local run = load(found)
    local list = run and methods.assign(run, patterns, by) and all or ignored
    list[#list + 1] = run
  end
  for _, one in ipairs(patterns) do
    if not one.used then system.fail("usage", "--method %s=%s matches none of the runs", one.name, one.glob) end
  end
  if #all == 0 then system.fail("missing", "there is nothing to compare: name runs, or folders of runs") end
  for _, run in ipairs(ignored) do system.log("info", "left out, no --method matches it: " .. run.folder) end
  make_names_unique(all)
  return all
end

local function append(list, more)
  for _, one in ipairs(more) do list[#list + 1] = one end
end

local function assemble(state, result)
  local steps = steps_by_run(result)
  result.format, result.version, result.made, result.copse = "copse-comparison", 1, system.date(system.now()), system.version
  result.title, result.baseline, result.settings = table.concat(state.names, ", "), state.names[1], state.settings
  result.methods, result.runs, result.job_differences = text.list(), text.list(), job_differences(state.groups, state.names)
  result.not_compared, result.warnings = text.list(state.without), text.list(state.warnings)
  for _, name in ipairs(state.names) do
    result.methods[#result.methods + 1] = describe_method(name, state.groups[name])
    for _, run in ipairs(state.groups[name]) do result.runs[#result.runs + 1] = describe_run(run, steps[run.name]) end
  end
  result.verdicts = verdicts(result)
  return result
end

local function keep_answered(result)
  local kept = text.list()
  for _, evaluation in ipairs(result.evaluations) do
    if #evaluation.metrics > 0 then kept[#kept + 1] = evaluation end
  end
  result.evaluations = kept
end

-- Methods that never meet are not compared: the command ends where no pair of them does.
local function check_met(result, names)
  for _, evaluation in ipairs(result.evaluations) do
    for _, metric in ipairs(evaluation.metrics) do
      if #metric.comparisons > 0 then return end
    end
  end
  if #names > 1 then
    system.fail("usage", "methods %s have no evaluation with a seed in common, so nothing can be paired: train them with the same "
      .. "seeds, and evaluate them on the same data", table.concat(names, ", "))
  end
end

-- options: operands, at ("final", "best"), settings (confidence, bootstrap, resamples, seed, power), and where given baseline, metric,
-- method, trials (lists of words). Returns the comparison.
function comparison.make(options)
  local all, state = prepare(options), { warnings = {} }
  state.groups, state.names = methods.group(all, options.baseline)
  parse_trials(options.trials, state.groups)
  append(state.warnings, fairness.warnings(state.groups, state.names))
  local evaluations
  evaluations, state.without = collect_evaluations(all, options.at, state.warnings)
  if #evaluations == 0 then
    system.fail("data", "none of the %d runs has predictions to compare%s: run their evaluations ('copse eval'), or train them to the "
      .. "end", #all, options.at == "best" and " of its best checkpoint" or "")
  end
  ask_metrics(evaluations, options.metric)
  local result = make_writable(system.service("comparison", { methods = text.list(state.names), baseline = state.names[1],
    settings = options.settings, evaluations = evaluations }))
  check_answered(result, evaluations, options.metric)
  check_met(result, state.names)
  check_steps(result, all, options.at, state.warnings)
  append(state.warnings, result.warnings)
  for i, evaluation in ipairs(result.evaluations) do
    resolve_shards(evaluation, evaluations[i].name, as_table(all[1].facts.provenance).evaluation_shards)
  end
  keep_answered(result)
  state.settings = options.settings
  state.settings.at, state.settings.alpha = options.at, 1 - options.settings.confidence
  return make_writable(assemble(state, result))
end

return comparison
