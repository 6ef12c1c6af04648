-- copse sweep plan, run, status, results, submit.
local sweep = require "copse.sweep"
local sweep_runner = require "copse.sweep_runner"
local sweep_submit = require "copse.sweep_submit"
local tables = require "copse.tables"
local text = require "copse.text"

local commands = {}

-- ---- arguments --------------------------------------------------------------------------------------------------------------

local function runs_folder(arguments)
  return arguments.flags.runs or "runs"
end

local function open(arguments)
  return sweep.open(arguments.operands[1], runs_folder(arguments), arguments.all.set)
end

local function open_file(arguments)
  return sweep.of_file(arguments.operands[1], runs_folder(arguments), arguments.all.set)
end

local function whole(arguments, flag, least, default)
  local given = arguments.flags[flag]
  if not given then return default end
  local value = math.tointeger(tonumber(given))
  if not value or value < least or value > 1e6 then
    system.fail("usage", "copse %s: --%s is '%s': a whole number of at least %d is wanted", arguments.command, flag, given,
      least)
  end
  return value
end

-- --only 1,3-5: { [1] = true, ... }, checked against the trials there are.
local function only(arguments, own)
  local given = arguments.flags.only
  if not given then return nil end
  local result, numbers = {}, {}
  for _, trial in ipairs(own.trials) do numbers[trial.number] = true end
  for part in (given .. ","):gmatch("([^,]*),") do
    local first, last = part:match("^(%d+)$"), nil
    if not first then first, last = part:match("^(%d+)%-(%d+)$") end
    if not first then system.fail("usage", "--only is '%s': numbers of trials are wanted, as in --only 1,3-5", given) end
    for number = tonumber(first), tonumber(last or first) do
      if not numbers[number] then
        system.fail("usage", "--only names trial %d, but the sweep has %d trials ('copse sweep plan' lists them)", number,
          #own.trials)
      end
      result[number] = true
    end
  end
  return result
end

-- ---- plan -------------------------------------------------------------------------------------------------------------------

local function length_of(trial)
  local parts = {}
  for i, stage in ipairs(trial.stages) do
    parts[i] = stage.epochs > 0 and stage.epochs .. " epochs" or stage.steps > 0 and stage.steps .. " steps" or "a fit"
  end
  return table.concat(parts, " + ")
end

local parameters_column = { title = "parameters", shrink = 1, least = 20, middle = true }

local function print_table(columns, rows)
  local width = system.terminal.output and system.terminal.columns or nil
  for _, line in ipairs(tables.lines(columns, rows, width)) do system.print(line) end
end

local function print_trials(own)
  local columns, rows = { { title = "trial", right = true } }, {}
  for _, name in ipairs(own.parameters) do columns[#columns + 1] = { title = name } end
  columns[#columns + 1] = { title = "length" }
  columns[#columns + 1] = { title = "" }
  for _, trial in ipairs(own.trials) do
    local row = { tostring(trial.number) }
    for _, name in ipairs(own.parameters) do
      row[#row + 1] = trial.values[name] ~= nil and sweep.show(trial.values[name]) or "-"
    end
    row[#row + 1] = length_of(trial)
    row[#row + 1] = trial.same_as and "= trial " .. trial.same_as or ""
    rows[#rows + 1] = row
  end
  print_table(columns, rows)
end

-- What a person should know before it costs anything.
local function oddities(own)
  local notes, unused, blind = {}, {}, {}
  for _, trial in ipairs(own.trials) do
    for _, name in ipairs(trial.unused) do
      unused[name] = unused[name] or {}
      table.insert(unused[name], trial.number)
    end
    if not trial.reads_seed and #own.seeds > 1 then blind[#blind + 1] = trial.number end
  end
  for _, name in ipairs(own.parameters) do
    local list = unused[name]
    if list and #list == #own.trials then
      notes[#notes + 1] = string.format("parameter '%s' is read by no trial: it changes nothing", name)
    elseif list then
      notes[#notes + 1] = string.format("parameter '%s' is not used by trial %s", name, table.concat(list, ", "))
    end
  end
  if #blind > 0 then
    notes[#notes + 1] = string.format("p.seed is not read by trial %s: its %d seeds are one run", table.concat(blind, ", "),
      #own.seeds)
  end
  if #own.gone > 0 then
    notes[#notes + 1] = string.format("no longer in the sweep, kept in '%s': %s", own.folder, table.concat(own.gone, ", "))
  end
  return notes
end

-- What `copse check` says of a run's job: { flop, memory (bytes of a rank) }; nil and its error.
local function cost_of(run)
  local path = string.format("%s/copse-plan-%d.lua", system.environment("TMPDIR") or "/tmp", system.pid)
  local good, message = system.write(path, run.source)
  if not good then system.fail("io", "%s", message) end
  local result, why = system.capture { argv = { system.program, "check", path, "--json" }, seconds = 600 }
  system.remove(path)
  local facts = result and result.code == 0 and system.decode(result.output)
  if not facts then
    why = result and result.errors:match("error: ([^\n]*)") or why or "copse check failed"
    return nil, (why:gsub(path:gsub("%p", "%%%0"), "its job"))
  end
  local cost = { flop = 0, memory = 0 }
  for _, stage in ipairs(facts.stages) do
    cost.flop, cost.memory = cost.flop + stage.flop, math.max(cost.memory, stage.memory_bytes)
  end
  return cost
end

-- Steps that all runs make together, in units of one full run: halving stops most of them early.
local function full_runs(own)
  local rungs = own.search.rungs
  if not rungs then return #own.runs end
  local trials, total, before = #own.runs / #own.seeds, 0, 0
  for _, step in ipairs(rungs) do
    total = total + trials * (step - before) / rungs[#rungs]
    trials, before = math.max(1, trials // own.search.eta), step
  end
  return total * #own.seeds
end

local function print_cost(own, most)
  local runs, flop, memory, looked = own.runs, 0, 0, math.min(most, #own.runs)
  for i = 1, looked do
    local run = runs[1 + (i - 1) * (#runs - 1) // math.max(1, looked - 1)]
    local cost, why = cost_of(run)
    if not cost then system.fail("data", "trial %d, seed %d: %s", run.trial.number, run.seed, why) end
    flop, memory = flop + cost.flop / looked, math.max(memory, cost.memory)
  end
  if looked == 0 then return end
  local all = flop * full_runs(own)
  system.print(string.format("cost: a full run is at most %.3g TFLOP and %.0f MiB a rank (%d of %d jobs opened); in all "
    .. "%.3g TFLOP, %s on %d cores at 100 GFLOP/s each", flop / 1e12, memory / 2 ^ 20, looked, #runs, all / 1e12,
    sweep_runner.duration(all / (1e11 * system.cores)), system.cores))
end

commands["sweep plan"] = function(arguments)
  local own = open_file(arguments)
  local counts = sweep.states(own)
  print_trials(own)
  system.print(string.format("sweep '%s': %d trials x %d seeds are %d different runs; %d done, %d failed", own.name,
    #own.trials, #own.seeds, #own.runs, counts.done, counts.failed))
  if own.search.rungs then
    system.print(string.format("halving by '%s': rungs at %s steps, one of %d goes on", own.search.metric.name,
      table.concat(own.search.rungs, ", "), own.search.eta))
  end
  for _, note in ipairs(oddities(own)) do system.print("note: " .. note) end
  print_cost(own, whole(arguments, "check", 0, 3))
end

-- ---- run --------------------------------------------------------------------------------------------------------------------

commands["sweep run"] = function(arguments)
  local own = open_file(arguments)
  for _, note in ipairs(oddities(own)) do system.log("info", "note: " .. note) end
  return sweep_runner.run(own, {
    jobs = whole(arguments, "jobs", 1, 1), ranks = whole(arguments, "ranks", 1, 1), threads = whole(arguments, "threads", 1),
    retries = whole(arguments, "retries", 0, 2), task = whole(arguments, "task", 0), lost = whole(arguments, "lost", 1, 120),
    only = only(arguments, own), again = arguments.flags.again,
  })
end

-- ---- submit -----------------------------------------------------------------------------------------------------------------

commands["sweep submit"] = function(arguments)
  local own = open_file(arguments)
  return sweep_submit.run(own, arguments, {
    at_once = whole(arguments, "at-once", 1), retries = whole(arguments, "retries", 0, 2),
    lost = whole(arguments, "lost", 1, 120), only = only(arguments, own), only_text = arguments.flags.only,
  })
end

-- ---- status -----------------------------------------------------------------------------------------------------------------

local function counts_text(counts)
  local parts = {}
  for _, name in ipairs { "done", "running", "waiting", "failed", "removed", "damaged" } do
    if counts[name] > 0 or name == "done" then
      parts[#parts + 1] = counts[name] .. " " .. (name == "removed" and "deleted by hand" or name)
    end
  end
  return table.concat(parts, ", ")
end

local function state_cell(state)
  local word = state.state .. (state.rung and " @" .. state.rung or "")
  return state.tries > 1 and word .. " (try " .. state.tries .. ")" or word
end

commands["sweep status"] = function(arguments)
  local own = open(arguments)
  local counts, states = sweep.states(own)
  local columns, rows = { { title = "trial", right = true }, parameters_column }, {}
  for _, seed in ipairs(own.seeds) do columns[#columns + 1] = { title = "seed " .. seed } end
  for _, trial in ipairs(own.trials) do
    local row = { tostring(trial.number), sweep.values_text(own, trial.values) }
    for _, run in ipairs(trial.runs) do
      row[#row + 1] = trial.same_as and "= trial " .. trial.same_as or state_cell(states[run.key])
    end
    rows[#rows + 1] = row
  end
  print_table(columns, rows)
  system.print(string.format("sweep '%s', %d runs: %s", own.name, #own.runs, counts_text(counts)))
  for _, run in ipairs(own.runs) do
    local state = states[run.key]
    if state.state == "failed" then
      local outcome = own.view:outcome(state.entry) or {}
      system.print(string.format("failed: %s: %s; see %s/logs/%s.log", run.key, outcome.error or "no error message",
        own.folder, run.key))
    elseif state.state == "damaged" then
      system.print(string.format("damaged: %s/ledger/%s: %s: delete that folder to have it done again", own.folder,
        state.entry.key, state.entry.why))
    end
  end
  if #own.gone > 0 then system.print("no longer in the sweep: " .. table.concat(own.gone, ", ")) end
end

-- ---- results ----------------------------------------------------------------------------------------------------------------

-- One for each trial, seed and evaluation: { trial, seed, run, state, evaluation, step, values, metrics }.
local function result_rows(own, all)
  local rows, _, states = {}, sweep.states(own)
  for _, trial in ipairs(own.trials) do
    for _, run in ipairs(trial.runs) do
      local folder = own.folder .. "/" .. run.key
      local list = all and sweep.evaluations(folder) or sweep.last_evaluations(folder)
      for _, one in ipairs(list) do
        rows[#rows + 1] = { trial = trial.number, seed = run.seed, run = run.key, state = states[run.key].state,
          evaluation = one.name, step = one.step, values = trial.values, metrics = one.metrics }
      end
    end
  end
  return rows
end

local function metric_names(rows)
  local seen = {}
  for _, row in ipairs(rows) do
    for name in next, row.metrics do seen[name] = true end
  end
  return text.sorted_keys(seen)
end

local function write(path, lines)
  local good, message = system.write(path, table.concat(lines, "\n") .. "\n")
  if not good then system.fail("io", "%s", message) end
  system.log("info", string.format("%s: %d lines", path, #lines))
end

local function write_csv(own, rows, path)
  local metrics, lines = metric_names(rows), {}
  local head = { "trial", "seed", "run", "state", "evaluation", "step" }
  for _, name in ipairs(own.parameters) do head[#head + 1] = "p." .. name end
  for _, name in ipairs(metrics) do head[#head + 1] = name end
  lines[1] = tables.csv_line(head)
  for _, row in ipairs(rows) do
    local fields, count = { row.trial, row.seed, row.run, row.state, row.evaluation, row.step }, 6
    for _, name in ipairs(own.parameters) do
      count = count + 1
      fields[count] = row.values[name]
    end
    for _, name in ipairs(metrics) do
      count = count + 1
      fields[count] = row.metrics[name]
    end
    lines[#lines + 1] = tables.csv_line(fields, count)
  end
  write(path, lines)
end

local function write_json(own, rows, path)
  local lines = {}
  for i, row in ipairs(rows) do
    lines[i] = text.encode({ sweep = own.name, trial = row.trial, seed = row.seed, run = row.run, state = row.state,
      evaluation = row.evaluation, step = row.step, parameters = row.values, metrics = row.metrics }, path)
  end
  write(path, lines)
end

local function print_importance(summary)
  if not summary.metric then
    system.fail("usage", "sweep '%s' has no evaluation, so there is no metric that parameters could matter to", summary.name)
  end
  local columns, rows = { { title = "parameter" } }, {}
  for _, title in ipairs { "share", "by chance", "trials", "levels", "rank correlation" } do
    columns[#columns + 1] = { title = title, right = true }
  end
  local show = function(value) return value and string.format("%.2f", value) or "-" end
  for i, one in ipairs(summary.importance) do
    rows[i] = { one.parameter, show(one.share), show(one.chance), tostring(one.trials), tostring(one.levels),
      show(one.correlation) }
  end
  print_table(columns, rows)
  system.print(string.format("share: of the variance of %s between trials (mean over seeds), what lies between the levels of "
    .. "this parameter alone (one-way; numbers of many values in quantile bins)", summary.metric.name))
end

local function print_results(own, summary)
  local metric = summary.metric
  local trials = table.move(summary.trials, 1, #summary.trials, 1, {})
  table.sort(trials, function(a, b) return sweep.comes_before(a, b, metric and metric.falls) end)
  local columns, rows = { { title = "trial", right = true }, { title = metric and metric.name or "-", right = true },
    { title = "rung", right = true }, { title = "seeds", right = true }, parameters_column }, {}
  for _, trial in ipairs(trials) do
    if not trial.same_as then
      rows[#rows + 1] = { tostring(trial.number), trial.mean and string.format("%.4f", trial.mean) or "-",
        tostring(trial.rung or ""), trial.count .. "/" .. #trial.runs, sweep.values_text(own, trial.values) }
    end
  end
  print_table(columns, rows)
  system.print(string.format("sweep '%s', %d runs: %s", own.name, #own.runs, counts_text(summary.counts)))
end

-- The metric of --metric, checked against what the runs gave.
local function choose_metric(own, rows, given)
  if not given then return end
  local known = {}
  for _, row in ipairs(rows) do
    for name in next, row.metrics do known[row.evaluation .. "." .. name] = true end
  end
  if not known[given] and next(known) then
    local names = text.sorted_keys(known)
    local near = system.nearest(given, names)
    system.fail("usage", "no run gave the metric '%s'%s", given,
      near and " (did you mean '" .. near .. "'?)" or "; there are " .. table.concat(names, ", "))
  end
  own.metric = { name = given, falls = system.service("metric", { name = given }).falls }
end

commands["sweep results"] = function(arguments)
  local own = open(arguments)
  local rows = result_rows(own, arguments.flags.all)
  choose_metric(own, rows, arguments.flags.metric)
  if arguments.flags.csv then write_csv(own, rows, arguments.flags.csv) end
  if arguments.flags.json then write_json(own, rows, arguments.flags.json) end
  local summary = sweep.summary(own)
  if arguments.flags.importance then
    print_importance(summary)
  elseif not arguments.flags.csv and not arguments.flags.json then
    print_results(own, summary)
  end
end

return { run = function(arguments) return commands[arguments.command](arguments) end }
