-- The page of a comparison of methods: one function a section, from comparison.json (runtime/report/comparison.md) and what was
-- gathered for it (gather.lua): `curves` of the runs, `thumbnails` by sample id. Results are finished text, "" without data.
local html = require "copse.html"
local parts = require "copse.page_parts"
local plots = require "copse.plots"
local svg = require "copse.svg"

local page = {}

local most_classes, most_methods_in_dots, most_changes, per_figure = 30, 6, 12, 10

local function list(value)
  return type(value) == "table" and value or {}
end

local function find(rows, key, value)
  for _, row in ipairs(list(rows)) do
    if row[key] == value then return row end
  end
end

local function kind_of(metric)
  return metric.is_share and "share" or nil
end

local function metric_name(evaluation, metric)
  return evaluation.name .. ": " .. parts.metric(metric.metric)
end

local function main_metrics(comparison)
  local out = {}
  for _, evaluation in ipairs(list(comparison.evaluations)) do
    local metric = list(evaluation.metrics)[1]
    if metric then out[#out + 1] = { evaluation = evaluation, metric = metric } end
  end
  return out
end

local function method_names(comparison)
  local names, place = {}, {}
  for i, method in ipairs(list(comparison.methods)) do names[i], place[method.name] = method.name, i end
  return names, place
end

-- ---- the first screen -------------------------------------------------------------------------------------------------------

local function confidence(comparison)
  local share = list(comparison.settings).confidence
  return svg.is_number(share) and plots.number(share * 100) .. " %" or "confidence"
end

local function seeds_in_words(comparison)
  local least, most = math.huge, 0
  for _, method in ipairs(list(comparison.methods)) do
    local count = #list(method.seeds)
    least, most = math.min(least, count), math.max(most, count)
  end
  if most == 0 then return "" end
  if most == 1 then return "one trained model (one seed) each" end
  return (least == most and tostring(most) or least .. " to " .. most) .. " trained models (seeds) each"
end

local function what_was_done(comparison)
  local sets = {}
  for i, evaluation in ipairs(list(comparison.evaluations)) do
    sets[i] = html.name(evaluation.name) .. " (" .. parts.count(evaluation.samples) .. " samples)"
  end
  local names = method_names(comparison)
  return html.paragraph(parts.plural(#names, "method") .. ", " .. seeds_in_words(comparison) .. ", tested on "
    .. (#sets > 0 and table.concat(sets, ", ") or "nothing: there is no evaluation that all runs have")
    .. ". Differences are to <b>" .. html.name(comparison.baseline or "no method") .. "</b>, the baseline"
    .. (list(comparison.settings).at == "best" and ", at the checkpoint that each run kept as its best."
      or ", at the end of each run."))
end

-- "better: sclip; not distinguishable: sigmoid, dalip": names of methods by what their difference to the baseline came to.
local function outcome(comparison, one)
  local names = { better = {}, worse = {}, ["not distinguishable"] = {} }
  for _, row in ipairs(list(one.metric.comparisons)) do
    if row.family ~= "best" and names[row.verdict] then table.insert(names[row.verdict], html.name(row.method)) end
  end
  local baseline, out = html.name(comparison.baseline or "the baseline"), {}
  for _, kind in ipairs { "better", "worse" } do
    if #names[kind] > 0 then out[#out + 1] = "<b>" .. kind .. " than " .. baseline .. ": " .. table.concat(names[kind], ", ")
      .. "</b>" end
  end
  local equal = names["not distinguishable"]
  if #equal > 0 and #out == 0 then
    out[1] = "<b>no method can be told apart from " .. baseline .. "</b> (" .. table.concat(equal, ", ") .. ")"
  elseif #equal > 0 then
    out[#out + 1] = "not distinguishable from it: " .. table.concat(equal, ", ")
  end
  return #out > 0 and "<li>" .. html.name(one.evaluation.name) .. ", " .. html.escape(parts.metric(one.metric.metric)) .. ": "
    .. table.concat(out, "; ") .. ".</li>" or ""
end

function page.verdict(comparison)
  local outcomes = {}
  for i, one in ipairs(main_metrics(comparison)) do outcomes[i] = outcome(comparison, one) end
  local short, verdicts = table.concat(outcomes), list(comparison.verdicts)
  if short == "" and #verdicts == 0 then verdicts = { "Nothing could be compared: see the warnings below." } end
  if short == "" then return parts.list(verdicts, "verdict") .. what_was_done(comparison) end
  return '<ul class="verdict">' .. short .. "</ul>" .. what_was_done(comparison)
    .. (#verdicts > 0 and html.details("The same in numbers", parts.list(verdicts)) or "")
end

function page.warnings(comparison)
  local sentences = {}
  for i, warning in ipairs(list(comparison.warnings)) do sentences[i] = warning.text end
  return parts.warnings(sentences, parts.plural(#sentences, "warning") .. ": read before you believe the numbers")
end

-- ---- results ----------------------------------------------------------------------------------------------------------------

local function estimate_cell(metric, name)
  local row = find(metric.methods, "method", name)
  if not row or not svg.is_number(row.estimate) then return "not known" end
  local kind = kind_of(metric)
  local text = html.escape(plots.number(row.estimate, kind))
  if row.best then text = '<b class="best">' .. text .. " best</b>" elseif row.tied then text = text .. " ~" end
  local interval = parts.interval(row.interval, kind)
  return text .. (interval ~= "" and "<small>" .. html.escape(interval) .. "</small>" or "")
end

function page.table_of_results(comparison)
  local shown = main_metrics(comparison)
  if #shown == 0 then return html.paragraph("No evaluation could be compared.", "note") end
  local columns, rows = { { title = "method" }, { title = "seeds", number = true } }, {}
  for _, one in ipairs(shown) do
    columns[#columns + 1] = { number = true, title = html.name(one.evaluation.name) .. "<small>"
      .. html.escape(parts.metric(one.metric.metric)) .. "</small>" }
  end
  for i, method in ipairs(list(comparison.methods)) do
    local base = method.name == comparison.baseline and "<small>baseline</small>" or ""
    rows[i] = { html.name(method.name) .. base, tostring(#list(method.seeds)) }
    for _, one in ipairs(shown) do rows[i][#rows[i] + 1] = estimate_cell(one.metric, method.name) end
  end
  return html.table(columns, rows) .. html.paragraph("Mean over seeds. Below it in brackets the "
    .. html.escape(confidence(comparison))
    .. " interval: where the true value plausibly lies, given how few seeds and test samples there are. <b>best</b>: highest "
    .. "in its column (lowest, where less is better). ~: this design cannot tell it from the best.", "note")
end

-- The scale of a difference: percentage points for shares.
local function difference_text(row, kind)
  local function one(value)
    if kind == "share" then value = value * 100 end
    local text = string.format(kind == "share" and math.abs(value) < 1e4 and "%+.1f" or "%+.3g", value)
    return (text:gsub("^%-", "−"))
  end
  local text = one(row.estimate) .. (kind == "share" and " points" or "")
  local interval = list(row.interval)
  if svg.is_number(interval[1]) and svg.is_number(interval[2]) then
    text = text .. " [" .. one(interval[1]) .. " to " .. one(interval[2]) .. "]"
  end
  return text
end

local function to_baseline(metric)
  local out = {}
  for _, row in ipairs(list(metric.comparisons)) do
    if row.family ~= "best" and svg.is_number(row.estimate) then out[#out + 1] = row end
  end
  return out
end

local function forest_of(comparison, evaluation, metric)
  local rows, kind = {}, kind_of(metric)
  for i, row in ipairs(to_baseline(metric)) do
    local interval = list(row.interval)
    rows[i] = { name = row.method, estimate = row.estimate, low = interval[1], high = interval[2],
      text = difference_text(row, kind),
      sure = row.verdict == "better" or row.verdict == "worse" }
  end
  local better, worse = "better", "worse"
  if metric.larger_is_better == false then better, worse = worse, better end
  return plots.forest { rows = rows, kind = kind and "points", left = worse, right = better,
    label = "Differences to " .. tostring(comparison.baseline) .. " on " .. metric_name(evaluation, metric) }
end

local function p_text(p)
  if not svg.is_number(p) then return "–" end
  return p < 0.001 and "below 0.001" or string.format("%.3f", p)
end

local function difference_row(one, row)
  local kind = kind_of(one.metric)
  local detectable = svg.is_number(row.detectable) and (kind == "share" and string.format("%.1f points", row.detectable * 100)
    or string.format("%.3g", row.detectable)) or "–"
  return { html.name(row.method) .. "<small>" .. html.name(one.evaluation.name) .. ", "
    .. html.escape(parts.metric(one.metric.metric)) .. "</small>",
    html.escape(difference_text(row, kind)), html.escape(row.verdict or "unknown"), p_text(row.p_adjusted), p_text(row.p),
      detectable }
end

function page.differences(comparison)
  local figures, rows = {}, {}
  for _, evaluation in ipairs(list(comparison.evaluations)) do
    for _, metric in ipairs(list(evaluation.metrics)) do
      figures[#figures + 1] = { title = metric_name(evaluation, metric), drawing = forest_of(comparison, evaluation, metric) }
      for _, row in ipairs(to_baseline(metric)) do
        rows[#rows + 1] = difference_row({ evaluation = evaluation, metric = metric }, row)
      end
    end
  end
  if #rows == 0 then return "" end
  local columns = { { title = "method" }, { title = "difference" }, { title = "verdict" },
    { title = "p, all tests considered", number = true },
    { title = "p alone", number = true }, { title = "smallest that could be found", number = true } }
  return html.paragraph("Each line is a method minus <b>" .. html.name(comparison.baseline or "") .. "</b>, with its "
    .. html.escape(confidence(comparison))
    .. " interval. A filled mark and bold figures: told apart from the baseline. A hollow mark: not distinguishable, which "
    .. "may mean equal, or that there are too few seeds or samples to see the difference. An interval may leave zero out and "
    .. "its method still not be told apart: intervals stand alone, verdicts allow for the number of tests."
    ) .. parts.figures(figures) .. html.table(columns,
      rows)
    .. html.paragraph("p: how often a difference this large would appear if the methods were equally good, from a bootstrap "
      .. "over seeds and samples; the first column allows for the number of tests (Holm). The last column is the smallest "
      .. "true difference that this design would find with "
      .. html.escape(plots.number(100 * (list(comparison.settings).power or 0.8))) .. " % chance.",
        "note")
end

-- ---- learning curves --------------------------------------------------------------------------------------------------------

local function series_of(comparison, curves, quantity)
  local series = {}
  for i, name in ipairs((method_names(comparison))) do
    series[i] = { name = name, points = list(list(curves[name])[quantity]) }
  end
  return series
end

local function has_points(series)
  for _, one in ipairs(series) do
    if #one.points > 0 then return true end
  end
  return false
end

local function missing_runs(gathered)
  local missing = list(gathered.missing)
  if #missing == 0 then return "" end
  return html.paragraph(html.escape("Not found, so they are in none of these curves, and their pictures may be missing: "
    .. table.concat(missing, ", ", 1, math.min(#missing, 10)) .. (#missing > 10 and ", ..." or "") .. "."), "note")
end

-- gathered.curves: { quantities = { { key, title, kind, note } }, methods = { [method] = { [key] = points } } }.
function page.curves(comparison, gathered)
  local curves = gathered.curves
  if not curves then return "" end
  local figures = {}
  for _, quantity in ipairs(curves.quantities) do
    local series = series_of(comparison, curves.methods, quantity.key)
    figures[#figures + 1] = { title = quantity.title, note = quantity.note, drawing = has_points(series)
      and plots.curves { series = series,
      x_title = "step", kind = quantity.kind, label = quantity.title .. " by step, one curve a method" } or nil }
  end
  return html.paragraph("Lines: mean over seeds. Bands: from the lowest to the highest seed.")
    .. parts.figures(figures, "The runs' events.jsonl could not be read, so there are no curves.") .. missing_runs(gathered)
end

-- ---- classes and ranks ------------------------------------------------------------------------------------------------------

-- Methods that a plot with a row a class has room for: the baseline and the first others.
local function shown_methods(comparison)
  local names = method_names(comparison)
  return table.move(names, 1, math.min(#names, most_methods_in_dots), 1, {}), math.max(0, #names - most_methods_in_dots)
end

local function dots_of(row, names)
  local dots = {}
  for i, name in ipairs(names) do
    local one = find(row.methods, "method", name)
    if one and svg.is_number(one.mean) then dots[i] = { value = one.mean, low = one.low, high = one.high } end
  end
  return dots
end

local function spread_of(row)
  local low, high = math.huge, -math.huge
  for _, one in ipairs(list(row.methods)) do
    if svg.is_number(one.mean) then low, high = math.min(low, one.mean), math.max(high, one.mean) end
  end
  return high >= low and high - low or -1
end

local function most_different(classes)
  local order = table.move(classes, 1, #classes, 1, {})
  table.sort(order, function(a, b)
    local one, other = spread_of(a), spread_of(b)
    if one ~= other then return one > other end
    return a.class < b.class
  end)
  return table.move(order, 1, math.min(#order, most_classes), 1, {})
end

local function class_table(classes, names)
  local columns, rows = { { title = "class" }, { title = "samples", number = true } }, {}
  for _, name in ipairs(names) do columns[#columns + 1] = { title = html.name(name), number = true } end
  for i, class in ipairs(classes) do
    rows[i] = { html.name(class.name), parts.count(class.samples) }
    for _, name in ipairs(names) do
      local one = find(class.methods, "method", name)
      rows[i][#rows[i] + 1] = html.escape(plots.number(one and one.mean, "share"))
    end
  end
  return html.table(columns, rows)
end

-- Figures of `per_figure` rows each, so that they fill a page beside each other.
local function dot_figures(rows, names, title, label, figures)
  if #rows == 0 then return end
  local count = math.ceil(#rows / math.ceil(#rows / per_figure))
  for first = 1, #rows, count do
    local some = table.move(rows, first, math.min(first + count - 1, #rows), 1, {})
    local part = #rows > count and ", " .. first .. " to " .. first + #some - 1 or ""
    figures[#figures + 1] = { title = title .. part, drawing = plots.dots { rows = some, count = #names, kind = "share",
      label = label .. part } }
  end
end

local function dot_rows(rows, names)
  local out = {}
  for i, row in ipairs(rows) do out[i] = { name = tostring(row.name or row.rank), dots = dots_of(row, names) } end
  return out
end

local function note_on_classes(evaluation, shown, all)
  local left_out = list(evaluation.per_class).left_out or 0
  if shown == all and left_out == 0 then return nil end
  return evaluation.name .. ": the " .. shown .. " classes on which methods differ most, of " .. all + left_out .. "."
    .. (left_out > 0 and " The table has the " .. all .. " classes with the most samples." or "")
end

function page.classes(comparison)
  local names, hidden = shown_methods(comparison)
  local figures, tables, notes = {}, {}, {}
  for _, evaluation in ipairs(list(comparison.evaluations)) do
    local classes = list(list(evaluation.per_class).classes)
    if #classes > 0 then
      local chosen = most_different(classes)
      notes[#notes + 1] = note_on_classes(evaluation, #chosen, #classes)
      dot_figures(dot_rows(chosen, names), names, evaluation.name, "Accuracy by class, " .. evaluation.name, figures)
      tables[#tables + 1] = html.details(html.name(evaluation.name) .. ": " .. parts.plural(#classes, "class", "classes")
        .. " as a table",
        class_table(classes, (method_names(comparison))))
    end
  end
  if #figures == 0 then return "" end
  return html.paragraph("Share of the samples of a class that are told right, the largest differences first. "
    .. "Marks: mean over seeds; lines: lowest to highest seed."
    .. (hidden > 0 and " Only the first " .. #names .. " methods are drawn; the tables have all." or ""))
      .. parts.list(notes, "note")
    .. svg.key(names) .. parts.figures(figures) .. table.concat(tables)
end

function page.ranks(comparison)
  local names = shown_methods(comparison)
  local figures = {}
  for _, evaluation in ipairs(list(comparison.evaluations)) do
    local rows = dot_rows(list(evaluation.ranks), names)
    dot_figures(rows, names, evaluation.name, "Accuracy by taxonomic rank, " .. evaluation.name, figures)
  end
  if #figures == 0 then return "" end
  return html.paragraph("Share of samples whose answer is right from the kingdom down to this rank. Marks: mean over seeds; "
    .. "lines: lowest to highest seed.") .. svg.key(names) .. parts.figures(figures)
end

-- ---- confusions -------------------------------------------------------------------------------------------------------------

local function share_text(share)
  return html.escape(plots.number(share, "share"))
end

local function confusion_table(changes)
  local columns, rows = { { title = "truth" }, { title = "taken for" }, { title = "baseline", number = true },
    { title = "method", number = true }, { title = "change, samples", number = true } }, {}
  for i = 1, math.min(#changes, most_changes) do
    local one = changes[i]
    rows[i] = { html.name(one.label_name or one.label), html.name(one.answer_name or one.answer),
      share_text(one.baseline_share),
      share_text(one.share), html.escape((string.format("%+.1f", one.count_change or 0):gsub("^%-", "−"):gsub("%.0$", ""))) }
  end
  return html.table(columns, rows)
end

local function confusions_of_method(evaluation, name)
  local changes, drawn = {}, {}
  for _, one in ipairs(list(evaluation.confusions)) do
    if one.method == name and svg.is_number(one.count_change) then
      changes[#changes + 1] = one
      drawn[#drawn + 1] = { truth = one.label, answer = one.answer, truth_name = tostring(one.label_name or one.label),
        answer_name = tostring(one.answer_name or one.answer), change = one.count_change }
    end
  end
  if #changes == 0 then return "" end
  table.sort(changes, function(a, b) return math.abs(a.count_change) > math.abs(b.count_change) end)
  local drawing = plots.changes { changes = drawn, label = "Changes of confusions of " .. name .. " on " .. evaluation.name }
  return "<h3>" .. html.name(evaluation.name) .. ": " .. html.name(name) .. "</h3>" .. html.element("div", { class = "beside" },
    html.figure("Mistakes more or fewer than the baseline makes", drawing or "",
      "in samples, mean over seeds. Rows: the truth. Columns: the answer, with the numbers of the rows."),
        confusion_table(changes))
end

function page.confusions(comparison)
  local out = {}
  for _, evaluation in ipairs(list(comparison.evaluations)) do
    for _, name in ipairs((method_names(comparison))) do out[#out + 1] = confusions_of_method(evaluation, name) end
  end
  return table.concat(out, "\n")
end

-- ---- pictures ---------------------------------------------------------------------------------------------------------------

-- "clip: rust (all seeds right)".
local function answer_line(one, is_ranked)
  local right = one.right == 1 and "right" or one.right == 0 and "wrong"
    or svg.is_number(one.right) and "right in " .. plots.number(one.right * 100) .. " % of seeds" or "not known"
  local mark = one.right == 1 and "✓" or one.right == 0 and "✗" or "~"
  local answer = is_ranked and "rank " .. plots.number(one.answer) or tostring(one.answer_name or one.answer or "no answer")
  return mark .. " " .. tostring(one.method) .. ": " .. answer .. " (" .. right .. ")"
end

local function sheet_of(evaluation, thumbnails)
  local items = {}
  for i, sample in ipairs(list(evaluation.disagreements)) do
    local lines = {}
    for k, one in ipairs(list(sample.methods)) do lines[k] = answer_line(one, evaluation.kind == "retrieval") end
    items[i] = { thumbnail = thumbnails[sample.sample_id], title = sample.label_name or "sample "
      .. tostring(sample.sample_id), lines = lines,
      where = sample.shard and (tostring(sample.shard):match("[^/]*$") .. ", record " .. tostring(sample.record)) or nil }
  end
  return parts.sheet(items)
end

function page.disagreements(comparison, gathered)
  local out = {}
  for _, evaluation in ipairs(list(comparison.evaluations)) do
    if #list(evaluation.disagreements) > 0 then
      out[#out + 1] = "<h3>" .. html.name(evaluation.name) .. "</h3>" .. sheet_of(evaluation, gathered.thumbnails or {})
    end
  end
  if #out == 0 then return "" end
  return html.paragraph("Samples on which the methods differ most. In bold: the truth. ✓ right, ✗ wrong, ~ right with some "
    .. "seeds only.")
    .. table.concat(out, "\n")
end

-- ---- cost -------------------------------------------------------------------------------------------------------------------

local costs = {
  { key = "seconds", title = "Time of a run", text = parts.duration },
  { key = "samples_per_second", title = "Samples a second", text = plots.number },
  { key = "memory_bytes", title = "Memory of a rank, most", text = parts.bytes },
  { key = "bytes_sent", title = "Sent by a rank", text = parts.bytes },
}

local function cost_of(comparison, name, key)
  local sum, count, low, high = 0, 0, math.huge, -math.huge
  for _, run in ipairs(list(comparison.runs)) do
    local value = run.method == name and list(run.cost)[key]
    if svg.is_number(value) then sum, count, low, high = sum + value, count + 1, math.min(low, value), math.max(high, value) end
  end
  if count > 0 then return sum / count, low, high end
end

function page.cost(comparison)
  local figures = {}
  for i, cost in ipairs(costs) do
    local rows = {}
    for k, name in ipairs((method_names(comparison))) do
      local mean, low, high = cost_of(comparison, name, cost.key)
      rows[k] = { name = name, value = mean, low = low, high = high, first = name == comparison.baseline,
        text = mean and cost.text(mean) or "not known" }
    end
    figures[i] = { title = cost.title, drawing = plots.bars { rows = rows, label = cost.title .. " by method" } }
  end
  return html.paragraph("Mean of each method's runs; lines: least to most. The baseline is darker. Times depend on what else "
    .. "ran on the machines.")
    .. parts.figures(figures, "The runs do not say what they cost.")
end

-- ---- details ----------------------------------------------------------------------------------------------------------------

function page.jobs(comparison)
  local names = method_names(comparison)
  local columns, rows = { { title = "key of the resolved job" } }, {}
  for _, name in ipairs(names) do columns[#columns + 1] = { title = html.name(name) } end
  for i, difference in ipairs(list(comparison.job_differences)) do
    rows[i] = { "<code>" .. html.escape(difference.key) .. "</code>" }
    for _, name in ipairs(names) do
      local value = list(difference.values)[name]
      rows[i][#rows[i] + 1] = value == nil and "–" or html.escape(value)
    end
  end
  if #rows == 0 then return html.paragraph("The jobs do not differ, but for their seeds.") end
  return html.paragraph("All that differs between the methods' jobs, defaults included, seeds aside. –: the job has no such "
    .. "key.")
    .. html.table(columns, rows)
end

local function seed_rows(one, rows)
  local kind = kind_of(one.metric)
  for _, row in ipairs(list(one.metric.comparisons)) do
    for _, seed in ipairs(list(row.per_seed)) do
      rows[#rows + 1] = { html.name(row.method) .. " − " .. html.name(row.to) .. "<small>" .. html.name(one.evaluation.name)
        .. ", "
        .. html.escape(parts.metric(one.metric.metric)) .. "</small>", html.escape(seed.seed),
        html.escape(difference_text({ estimate = seed.difference or 0 }, kind)), parts.count(seed.only_method),
          parts.count(seed.only_other),
        p_text(seed.p_exact), p_text(seed.p_mid) }
    end
  end
end

local function value_rows(one, rows)
  for _, row in ipairs(list(one.metric.methods)) do
    local kind, values = kind_of(one.metric), {}
    for i, value in ipairs(list(row.values)) do values[i] = tostring(list(row.seeds)[i] or "?") .. ": "
      .. plots.number(value, kind) end
    rows[#rows + 1] = { html.name(row.method) .. "<small>" .. html.name(one.evaluation.name) .. ", "
      .. html.escape(parts.metric(one.metric.metric)) .. "</small>",
      html.escape(plots.number(row.estimate, kind)), html.escape(parts.interval(row.interval, kind)),
      html.escape(svg.is_number(row.seed_sd) and (kind and string.format("%.1f points", row.seed_sd * 100)
        or plots.number(row.seed_sd)) or "unknown"),
      html.escape(table.concat(values, "; ")) }
  end
end

local function each_metric(comparison, add)
  local rows = {}
  for _, evaluation in ipairs(list(comparison.evaluations)) do
    for _, metric in ipairs(list(evaluation.metrics)) do add({ evaluation = evaluation, metric = metric }, rows) end
  end
  return rows
end

local function friedman(comparison)
  local out = {}
  for i, test in ipairs(list(comparison.friedman)) do
    local ranks = {}
    for k, row in ipairs(list(test.ranks)) do ranks[k] = tostring(row.method) .. " " .. plots.number(row.rank) end
    out[i] = "Friedman test on " .. parts.metric(tostring(test.metric)) .. " over " .. #list(test.evaluations)
      .. " data sets: chi2 "
      .. plots.number(test.chi2) .. ", p " .. p_text(test.p) .. "; average ranks (1 is best): " .. table.concat(ranks, ", ")
        .. "."
  end
  return parts.list(out)
end

function page.statistics(comparison)
  local values, seeds = each_metric(comparison, value_rows), each_metric(comparison, seed_rows)
  local out = friedman(comparison)
  if #values > 0 then
    out = out .. html.details("Values of every seed", html.table({ { title = "method" }, { title = "mean", number = true },
      { title = "interval" },
      { title = "spread of seeds" }, { title = "value by seed" } }, values))
  end
  if #seeds > 0 then
    out = out .. html.details("Same samples, both methods, seed by seed (McNemar)", html.table({ { title = "difference" },
      { title = "seed", number = true },
      { title = "points" }, { title = "only the method right", number = true }, { title = "only the other right",
        number = true },
      { title = "p, exact", number = true }, { title = "mid-p", number = true } }, seeds))
  end
  local settings = list(comparison.settings)
  return out .. html.paragraph(html.escape(string.format("Intervals: two-level bootstrap over seeds, then samples (%s, %s "
    .. "resamples, seed %s). Differences pair the same samples. 'copse compare --help' defines each statistic and names its "
    .. "source.",
    tostring(settings.bootstrap or "?"), parts.count(settings.resamples), tostring(settings.seed or "?"))), "note")
end

function page.provenance(comparison)
  local columns, rows = { { title = "run" }, { title = "method" }, { title = "seed", number = true }, { title = "state" },
    { title = "steps", number = true }, { title = "machine" } }, {}
  for i, run in ipairs(list(comparison.runs)) do
    local session = list(run.provenance)
    rows[i] = { html.name(run.run) .. "<small>" .. html.name(run.folder or "") .. "</small>", html.name(run.method),
      html.escape(run.seed or "?"),
      html.escape(run.state or "not known"), parts.count(run.step),
      html.escape(table.concat({ tostring(session.hosts or "not known"), tostring(session.cpu or "") }, " ")) .. "<small>"
        .. html.escape(tostring(list(session.facts).command or "")) .. "</small>" }
  end
  local sets = {}
  for i, evaluation in ipairs(list(comparison.evaluations)) do
    sets[i] = { html.name(evaluation.name), html.escape(evaluation.kind or ""), parts.count(evaluation.samples),
      parts.count(evaluation.unpaired or 0),
      "<code>" .. html.escape(evaluation.data_digest or "–") .. "</code>" }
  end
  return html.table(columns, rows) .. html.table({ { title = "evaluation" }, { title = "kind" }, { title = "samples",
    number = true },
    { title = "unpaired", number = true }, { title = "digest of the data" } }, sets)
    .. html.details("First run's record in full", parts.members(list(list(comparison.runs)[1]).provenance, 200))
end

-- ---- the page ---------------------------------------------------------------------------------------------------------------

function page.whole(comparison, gathered)
  gathered = gathered or {}
  local title = comparison.title or "Comparison"
  local body = parts.head("Copse: methods head to head", title) .. page.verdict(comparison) .. page.warnings(comparison)
    .. page.table_of_results(comparison) .. parts.sections {
      { id = "differences", title = "Differences to the baseline", content = page.differences(comparison) },
      { id = "curves", title = "Learning curves", content = page.curves(comparison, gathered) },
      { id = "ranks", title = "Accuracy by taxonomic rank", content = page.ranks(comparison) },
      { id = "classes", title = "Accuracy by class", content = page.classes(comparison) },
      { id = "confusions", title = "What is confused otherwise", content = page.confusions(comparison) },
      { id = "pictures", title = "Where methods disagree", content = page.disagreements(comparison, gathered) },
      { id = "cost", title = "Cost", content = page.cost(comparison) },
      { id = "jobs", title = "What differs in the jobs", content = page.jobs(comparison) },
      { id = "statistics", title = "Statistics in detail", content = page.statistics(comparison) },
      { id = "provenance", title = "Provenance", content = page.provenance(comparison) },
    } .. parts.footer("Made by Copse " .. tostring(comparison.copse or "") .. ", " .. tostring(comparison.made or "")
      .. ". The numbers stand in comparison.json beside this page.")
  return html.page(title, body)
end

return page
