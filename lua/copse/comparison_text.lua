-- A comparison (comparison.md) as a table for a terminal, as CSV and as LaTeX.
local comparison = require "copse.comparison"
local tables = require "copse.tables"
local text = require "copse.text"

local out = {}

-- ---- what all share ----

local function find(list, key, value)
  for _, one in ipairs(list) do
    if one[key] == value then return one end
  end
end

-- A method's difference to the baseline, or nil.
local function difference_of(metric, name)
  for _, one in ipairs(metric.comparisons) do
    if one.family == "baseline" and one.method == name then return one end
  end
end

local function interval_text(metric, interval)
  return interval and comparison.show(metric, interval[1]) .. " .. " .. comparison.show(metric, interval[2]) or ""
end

local function signed(metric, value)
  local shown = comparison.show(metric, value)
  return value and value > 0 and "+" .. shown or shown
end

-- ---- the terminal ----

local columns = {
  { title = "method", shrink = 3, least = 10, middle = true }, { title = "seeds", right = true, shrink = 1, least = 0 },
  { title = "", right = true }, { title = "interval", right = true }, { title = "difference", right = true },
  { title = "interval", right = true }, { title = "p (Holm)", right = true },
  { title = "verdict", shrink = 2, least = 8 },
}

local function mark(method)
  return method.best and "*" or method.tied and "~" or " "
end

local function row_of(metric, method, baseline)
  local one = difference_of(metric, method.method)
  local row = { method.method, tostring(#method.seeds), comparison.show(metric, method.estimate) .. mark(method),
    interval_text(metric, method.interval), "", "", "", method.method == baseline and "baseline" or "" }
  if one then
    row[5], row[6] = signed(metric, one.estimate), interval_text(metric, one.interval)
    row[7], row[8] = one.p_adjusted and comparison.p_text(one.p_adjusted) or "unknown", one.verdict
  end
  return row
end

-- The best in bold where the output is a terminal; the mark stays, for copies.
local function embolden(lines, metric)
  for i, method in ipairs(metric.methods) do
    if method.best and system.terminal.output then lines[i + 1] = "\27[1m" .. lines[i + 1] .. "\27[0m" end
  end
end

local function per_seed_text(one)
  local parts = {}
  for _, seed in ipairs(one.per_seed) do
    if seed.p_mid then
      parts[#parts + 1] = string.format("seed %s: %d to %d, exact p %s, mid-p %s", text.any_number(seed.seed), seed.only_method,
        seed.only_other, comparison.p_text(seed.p_exact), comparison.p_text(seed.p_mid))
    end
  end
  return table.concat(parts, "; ")
end

local function notes_of(metric, one, lines)
  local seeds = per_seed_text(one)
  if seeds ~= "" then lines[#lines + 1] = string.format("    McNemar, samples that only %s or only %s has right: %s", one.method, one.to, seeds) end
  local flips = one.sign_flip
  if flips and flips.count > 1 then
    lines[#lines + 1] = string.format("    %s: sign flips over %d seeds p %s%s", one.method, flips.count, comparison.p_text(flips.p),
      flips.smallest_p > 0.05 and string.format(" (with %d seeds it cannot be below %.3g)", flips.count, flips.smallest_p) or "")
  end
  if one.detectable then
    lines[#lines + 1] = string.format("    %s: the smallest difference that this design finds is %s%s", one.method,
      comparison.show(metric, one.detectable), metric.is_share and " points" or "")
  end
end

local function metric_lines(result, evaluation, metric, lines)
  local rows = {}
  for i, method in ipairs(metric.methods) do rows[i] = row_of(metric, method, result.baseline) end
  columns[3].title = metric.is_share and "mean %" or "mean"
  lines[#lines + 1] = string.format("%s: %s %s, %d samples%s", evaluation.name, evaluation.kind, metric.metric, evaluation.samples,
    metric.larger_is_better and "" or "; less is better")
  local shown = tables.lines(columns, rows, math.max(system.terminal.columns or 100, 60) - 2)
  embolden(shown, metric)
  for _, line in ipairs(shown) do lines[#lines + 1] = "  " .. line end
  for _, one in ipairs(metric.comparisons) do
    if one.family == "baseline" then notes_of(metric, one, lines) end
  end
  lines[#lines + 1] = ""
end

local function friedman_lines(result, lines)
  for _, one in ipairs(result.friedman) do
    local ranks = {}
    for i, rank in ipairs(one.ranks) do ranks[i] = string.format("%s %.2f", rank.method, rank.rank) end
    lines[#lines + 1] = string.format("%s over %d data sets: average ranks %s; Friedman chi2 %.2f, p %s", one.metric,
      #one.evaluations, table.concat(ranks, ", "), one.chi2, comparison.p_text(one.p))
  end
  if #result.friedman > 0 then lines[#lines + 1] = "" end
end

local function legend(result, lines)
  local settings = result.settings
  lines[#lines + 1] = string.format("* best   ~ not distinguishable from the best   %g %% intervals: two-level bootstrap over seeds and samples "
    .. "(%s, %d resamples)", 100 * settings.confidence, settings.bootstrap, settings.resamples)
  if result.tests.baseline > 0 then
    lines[#lines + 1] = string.format("p is adjusted for the %d comparisons shown; 'not distinguishable' is a result. What each number is: "
      .. "copse compare --help", result.tests.baseline)
  end
  if #result.not_compared > 0 then
    lines[#lines + 1] = "not compared, since nothing is kept per sample: " .. table.concat(result.not_compared, ", ")
  end
end

-- Lines for a terminal: warnings, a table for each data set and metric, what it comes to.
function out.lines(result)
  local lines = { string.format("%s; %s evaluations; baseline %s", result.title,
    result.settings.at == "best" and "best checkpoints'" or "final", result.baseline) }
  for _, warning in ipairs(result.warnings) do lines[#lines + 1] = "warning: " .. warning.text end
  lines[#lines + 1] = ""
  for _, evaluation in ipairs(result.evaluations) do
    for _, metric in ipairs(evaluation.metrics) do metric_lines(result, evaluation, metric, lines) end
  end
  friedman_lines(result, lines)
  for _, verdict in ipairs(result.verdicts) do lines[#lines + 1] = "- " .. verdict end
  if #result.verdicts == 0 then lines[#lines + 1] = "- one method: there is nothing to compare it with" end
  lines[#lines + 1] = ""
  legend(result, lines)
  for i, line in ipairs(lines) do lines[i] = line:find("\27", 1, true) and line or tables.printable(line) end
  return lines
end

-- ---- CSV ----

local csv_columns = { "evaluation", "kind", "metric", "method", "seeds", "samples", "estimate", "low", "high", "standard_error",
  "seed_sd", "best", "tied", "baseline", "difference", "difference_low", "difference_high", "p", "p_adjusted", "verdict",
  "detectable", "sign_flip_p", "mcnemar_mid_p", "values" }

local function joined(list, key)
  local parts = {}
  for i, one in ipairs(list or {}) do
    local value = key and one[key] or not key and one or nil
    parts[i] = value and text.any_number(value) or ""
  end
  return table.concat(parts, ";")
end

local function csv_fields(result, evaluation, metric, method)
  local one = difference_of(metric, method.method) or {}
  local interval, difference = method.interval or {}, one.interval or {}
  return { evaluation.name, evaluation.kind, metric.metric, method.method, joined(method.seeds), evaluation.samples, method.estimate,
    interval[1], interval[2], method.standard_error, method.seed_sd, method.best, method.tied, result.baseline, one.estimate,
    difference[1], difference[2], one.p, one.p_adjusted, one.verdict, one.detectable, one.sign_flip and one.sign_flip.p,
    one.per_seed and one.per_seed[1] and one.per_seed[1].p_mid and joined(one.per_seed, "p_mid"), joined(method.values) }
end

-- One line a data set, metric and method; numbers as they are, lists of seeds with semicolons.
function out.csv(result)
  local lines = { tables.csv_line(csv_columns) }
  for _, evaluation in ipairs(result.evaluations) do
    for _, metric in ipairs(evaluation.metrics) do
      for _, method in ipairs(metric.methods) do
        lines[#lines + 1] = tables.csv_line(csv_fields(result, evaluation, metric, method), #csv_columns)
      end
    end
  end
  return table.concat(lines, "\r\n") .. "\r\n"
end

-- ---- LaTeX ----

local tex_special = { ["\\"] = "\\textbackslash{}", ["~"] = "\\textasciitilde{}", ["^"] = "\\textasciicircum{}",
  ["<"] = "\\textless{}", [">"] = "\\textgreater{}", ["|"] = "\\textbar{}", ['"'] = "\\textquotedbl{}" }

local function tex(words)
  local shown = tables.printable(words):gsub('[\\~^<>|"%%&#_%${}]', function(c) return tex_special[c] or "\\" .. c end)
  return (shown:gsub("%[", "{[}"):gsub("%]", "{]}"))
end

local function tex_number(metric, value)
  return (comparison.show(metric, value):gsub("^%-", "$-$"))
end

local function tex_interval(metric, interval)
  if not interval then return "" end
  return string.format(" {\\scriptsize [%s, %s]}", tex_number(metric, interval[1]), tex_number(metric, interval[2]))
end

local function tex_estimate(metric, method)
  local number = tex_number(metric, method.estimate)
  if method.best then number = "\\textbf{" .. number .. "}" end
  return number .. (method.tied and "$^\\sim$" or "") .. tex_interval(metric, method.interval)
end

local function tex_difference(metric, one)
  if not one then return "--" end
  local star = (one.verdict == "better" or one.verdict == "worse") and "$^\\ast$" or ""
  return tex_number(metric, one.estimate) .. star .. tex_interval(metric, one.interval)
end

-- The metrics of all data sets, one pair of columns each.
local function blocks_of(result)
  local blocks = {}
  for _, evaluation in ipairs(result.evaluations) do
    for _, metric in ipairs(evaluation.metrics) do blocks[#blocks + 1] = { evaluation = evaluation, metric = metric } end
  end
  return blocks
end

local function tex_head(blocks)
  local titles, rules, names = { "" }, {}, { "Method" }
  for i, block in ipairs(blocks) do
    titles[#titles + 1] = string.format("\\multicolumn{2}{c}{%s %s%s}", tex(block.evaluation.name), tex(block.metric.metric),
      block.metric.is_share and " (\\%)" or "")
    rules[#rules + 1] = string.format("\\cmidrule(lr){%d-%d}", 2 * i, 2 * i + 1)
    names[#names + 1] = "mean & difference"
  end
  return table.concat(titles, " & ") .. " \\\\\n" .. table.concat(rules, " ") .. "\n" .. table.concat(names, " & ") .. " \\\\"
end

local function tex_row(name, blocks)
  local cells = { tex(name) }
  for _, block in ipairs(blocks) do
    local method = find(block.metric.methods, "method", name)
    cells[#cells + 1] = method and tex_estimate(block.metric, method) or "--"
    cells[#cells + 1] = tex_difference(block.metric, difference_of(block.metric, name))
  end
  return table.concat(cells, " & ") .. " \\\\"
end

local function tex_caption(result)
  local settings, counts = result.settings, {}
  for i, method in ipairs(result.methods) do counts[i] = string.format("%s: %d", tex(method.name), #method.seeds) end
  return string.format("Means over seeds (%s) with %g\\,\\%% two-level bootstrap intervals (%s, %d resamples); differences to %s on the "
    .. "same seeds and samples. Bold: best; $\\sim$: not distinguishable from it; $\\ast$: difference with p below %g after Holm's "
    .. "correction for %d comparisons.", table.concat(counts, ", "), 100 * settings.confidence, settings.bootstrap, settings.resamples,
    tex(result.baseline), settings.alpha, result.tests.baseline)
end

-- A table with booktabs rules.
function out.latex(result)
  local blocks = blocks_of(result)
  local lines = { "% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}", "\\begin{table}", "\\centering",
    "\\begin{tabular}{l" .. ("rr"):rep(#blocks) .. "}", "\\toprule", tex_head(blocks), "\\midrule" }
  for _, method in ipairs(result.methods) do lines[#lines + 1] = tex_row(method.name, blocks) end
  for _, line in ipairs { "\\bottomrule", "\\end{tabular}", "\\caption{" .. tex_caption(result) .. "}", "\\end{table}" } do
    lines[#lines + 1] = line
  end
  return table.concat(lines, "\n") .. "\n"
end

return out
