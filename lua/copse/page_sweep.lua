-- The page of a sweep, from sweep.summary (sweep.lua): trials, what came out of them, which parameters matter. Results are
-- finished
-- text, "" without data.
local html = require "copse.html"
local parts = require "copse.page_parts"
local plots = require "copse.plots"
local svg = require "copse.svg"

local page = {}

local most_trials = 20

local function list(value)
  return type(value) == "table" and value or {}
end

local function show(value)
  if type(value) ~= "number" then return tostring(value) end
  return math.type(value) == "integer" and tostring(value) or string.format("%.4g", value)
end

local function metric_of(summary)
  local metric = list(summary.metric)
  local key = metric.name and (metric.name:match "%.([^.]*)$" or metric.name)
  return { name = metric.name or "no metric", falls = metric.falls, kind = key and parts.is_share(key) and "share" or nil }
end

local function values_text(summary, trial)
  local out = {}
  for _, name in ipairs(list(summary.parameters)) do
    if trial.values[name] ~= nil then out[#out + 1] = name .. " = " .. show(trial.values[name]) end
  end
  return table.concat(out, ", ")
end

-- Trials that stand for themselves, best first; those without a result at the end.
local function ordered(summary)
  local out, metric = {}, metric_of(summary)
  for _, trial in ipairs(list(summary.trials)) do
    if not trial.same_as then out[#out + 1] = trial end
  end
  table.sort(out, function(a, b)
    local one, other = svg.is_number(a.mean) and a.mean, svg.is_number(b.mean) and b.mean
    if one and other and one ~= other then
      if metric.falls then return one < other end
      return one > other
    end
    if (one and true or false) ~= (other and true or false) then return one and true or false end
    return a.number < b.number
  end)
  return out
end

local function counts_text(counts)
  local words, out = { "done", "running", "failed", "waiting", "removed" }, {}
  for _, word in ipairs(words) do
    if (counts[word] or 0) > 0 then out[#out + 1] = counts[word] .. " " .. word end
  end
  return #out > 0 and table.concat(out, ", ") or "none yet"
end

function page.verdict(summary)
  local metric, trials = metric_of(summary), ordered(summary)
  local best = trials[1]
  local sentences = {}
  if best and svg.is_number(best.mean) then
    sentences[1] = "Best: trial " .. best.number .. " (" .. values_text(summary, best) .. ") with " .. metric.name .. " "
      .. plots.number(best.mean, metric.kind) .. ", mean of " .. parts.plural(best.count or 0, "seed") .. "."
    sentences[2] = "The best of many trials looks better than it is: part of its lead is luck. Train it again with new seeds "
      .. "before it is compared with other methods."
  else
    sentences[1] = "No trial has a result yet."
  end
  sentences[#sentences + 1] = parts.plural(#list(summary.trials), "trial") .. " with " .. parts.plural(math.max(1,
    #list(summary.seeds)), "seed")
    .. " each; runs: " .. counts_text(list(summary.counts)) .. "."
  return parts.list(sentences, "verdict")
end

-- ---- trials -----------------------------------------------------------------------------------------------------------------

local function seed_values(trial, metric)
  local out = {}
  for _, run in ipairs(list(trial.runs)) do
    local value = list(run.metrics)[metric.name]
    out[#out + 1] = tostring(run.seed) .. ": " .. (svg.is_number(value) and plots.number(value, metric.kind)
      or tostring(run.state or "no result"))
  end
  return table.concat(out, "; ")
end

local function trial_table(summary, trials)
  local metric = metric_of(summary)
  local columns, rows = { { title = "trial" }, { title = html.name(metric.name), number = true }, { title = "by seed" } }, {}
  for _, name in ipairs(list(summary.parameters)) do columns[#columns + 1] = { title = html.name(name) } end
  for i, trial in ipairs(trials) do
    rows[i] = { tostring(trial.number), html.escape(svg.is_number(trial.mean) and plots.number(trial.mean, metric.kind) or "–"),
      html.escape(seed_values(trial, metric)) }
    for _, name in ipairs(list(summary.parameters)) do
      rows[i][#rows[i] + 1] = trial.values[name] == nil and "–" or html.escape(show(trial.values[name]))
    end
  end
  return html.table(columns, rows)
end

function page.trials(summary)
  local trials = ordered(summary)
  if #trials == 0 then return "" end
  if #trials <= most_trials then return trial_table(summary, trials) end
  return html.paragraph("The first " .. most_trials .. " of " .. #trials .. ".", "note") .. trial_table(summary,
    table.move(trials, 1, most_trials, 1, {}))
    .. html.details("All trials", trial_table(summary, trials))
end

-- ---- parameters -------------------------------------------------------------------------------------------------------------

function page.importance(summary)
  local rows, silent = {}, {}
  for _, one in ipairs(list(summary.importance)) do
    if svg.is_number(one.share) then
      local way = svg.is_number(one.correlation) and math.abs(one.correlation) >= 0.3 and (one.correlation > 0
        and ", rises with it" or ", falls with it") or ""
      rows[#rows + 1] = { name = one.parameter, value = one.share, reference = one.chance, text = plots.number(one.share,
        "share") .. way,
        first = svg.is_number(one.chance) and one.share > 2 * one.chance }
    else
      silent[#silent + 1] = one.parameter
    end
  end
  if #rows == 0 then return "" end
  return html.paragraph("How much of the differences between trials goes with each parameter alone (share of variance between "
    .. "its levels). The dashed stroke is what a parameter without any effect would reach by chance with so few trials: a "
    .. "bar that is not clearly longer says nothing. What parameters do together is not seen.")
    .. parts.figures { { title = "Importance for " .. metric_of(summary).name, drawing = plots.bars { rows = rows,
      label = "Importance of parameters" } } }
    .. (#silent > 0 and html.paragraph("Too few trials or levels to say anything: " .. html.escape(table.concat(silent,
      ", ")) .. ".", "note") or "")
end

-- Whether numbers are spread so widely that their logarithm shows them better.
local function wants_logarithm(values)
  local low, high = math.huge, 0
  for _, value in ipairs(values) do
    if value <= 0 then return false end
    low, high = math.min(low, value), math.max(high, value)
  end
  return high >= 30 * low
end

local function levels_figure(name, pairs_, metric)
  local order, at = {}, {}
  for _, pair in ipairs(pairs_) do
    local level = show(pair.x)
    if not at[level] then
      at[level] = { name = level, sum = 0, count = 0, low = pair.y, high = pair.y }
      order[#order + 1] = at[level]
    end
    local one = at[level]
    one.sum, one.count, one.low, one.high = one.sum + pair.y, one.count + 1, math.min(one.low, pair.y), math.max(one.high,
      pair.y)
  end
  table.sort(order, function(a, b) return a.name < b.name end)
  local rows = {}
  for i = 1, math.min(#order, 20) do
    local one = order[i]
    rows[i] = { name = one.name, dots = { { value = one.sum / one.count, low = one.low, high = one.high } } }
  end
  return { title = name, note = "mean and range of the trials with each value",
    drawing = plots.dots { rows = rows, count = 1, kind = metric.kind, label = metric.name .. " by " .. name } }
end

local function parameter_figure(name, pairs_, metric)
  local numbers, seen, distinct = {}, {}, 0
  for _, pair in ipairs(pairs_) do
    if type(pair.x) == "number" then numbers[#numbers + 1] = pair.x end
    if not seen[pair.x] then seen[pair.x], distinct = true, distinct + 1 end
  end
  if distinct < 2 then return nil end
  if #numbers < #pairs_ then return levels_figure(name, pairs_, metric) end
  return { title = name, note = "a mark a trial", drawing = plots.points { points = pairs_, log = wants_logarithm(numbers),
    x_title = name, kind = metric.kind,
    label = metric.name .. " by " .. name } }
end

function page.parameters(summary)
  local metric, figures = metric_of(summary), {}
  for _, name in ipairs(list(summary.parameters)) do
    local pairs_ = {}
    for _, trial in ipairs(ordered(summary)) do
      if trial.values[name] ~= nil and svg.is_number(trial.mean) then pairs_[#pairs_ + 1] = { x = trial.values[name],
        y = trial.mean } end
    end
    figures[#figures + 1] = parameter_figure(name, pairs_, metric)
  end
  if #figures == 0 then return "" end
  return html.paragraph(html.name(metric.name) .. " of the trials (mean over seeds) by each parameter that varies.")
    .. parts.figures(figures)
end

function page.unfinished(summary)
  local rows = {}
  for _, trial in ipairs(list(summary.trials)) do
    for _, run in ipairs(list(trial.runs)) do
      if run.state ~= "done" and not trial.same_as then
        rows[#rows + 1] = { tostring(trial.number), html.escape(run.seed or "?"), html.escape(run.state or "?"),
          html.name(run.folder or "") }
      end
    end
  end
  return #rows > 0 and html.table({ { title = "trial" }, { title = "seed", number = true }, { title = "state" },
    { title = "folder" } }, rows) or ""
end

-- ---- the page ---------------------------------------------------------------------------------------------------------------

function page.whole(summary)
  local body = parts.head("Copse: a sweep", summary.name) .. page.verdict(summary) .. parts.sections {
    { id = "trials", title = "Trials, best first", content = page.trials(summary) },
    { id = "importance", title = "Which parameters matter", content = page.importance(summary) },
    { id = "parameters", title = "The metric by each parameter", content = page.parameters(summary) },
    { id = "unfinished", title = "Runs without a result", content = page.unfinished(summary) },
    { id = "search", title = "How was searched", content = parts.members(summary.search, 100) },
  } .. parts.footer("Made by Copse " .. tostring(summary.copse or "") .. ", " .. tostring(summary.made or "") .. ", from "
    .. tostring(summary.folder or "") .. ".")
  return html.page(summary.name, body)
end

return page
