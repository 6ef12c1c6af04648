-- The page of one run: one function a section, from what gather.run found: the members of runs.facts, and besides
--   mistakes      by evaluation: what the service "mistakes" says of its predictions (runtime/report/mistakes.h)
--   thumbnails    by sample id; quarantine: { file, record, id, reason } of images that could not be read
-- Results are finished text, "" without data.
local html = require "copse.html"
local parts = require "copse.page_parts"
local plots = require "copse.plots"
local svg = require "copse.svg"

local page = {}

local most_classes, per_figure, most_confusions, most_bad, most_members = 30, 10, 20, 50, 600

local function list(value)
  return type(value) == "table" and value or {}
end

-- ---- the first screen -------------------------------------------------------------------------------------------------------

local states = {
  starting = "The run is starting", running = "The run is training", evaluating = "The run is evaluating",
    done = "The run is complete",
  checkpointed = "The run was interrupted and saved its state; the same command goes on from there",
  stopped = "The run stopped where it was asked to (--until)", failed = "The run failed", lost = "The run ended without a word",
  silent = "The run should be going on but gives no sign of life", queued = "The run waits in the queue",
}

local function state_sentence(facts)
  local beat = list(facts.beat)
  local text = states[facts.state] or "How the run stands is not known"
  if svg.is_number(beat.step) and svg.is_number(beat.steps) and beat.steps > 0 then
    text = text .. ", at step " .. parts.count(beat.step) .. " of " .. parts.count(beat.steps)
  elseif list(facts.events).steps then
    text = text .. ", " .. parts.plural(facts.events.steps, "step") .. " are recorded"
  end
  return text .. (facts.state ~= "done" and facts.reason and ": " .. facts.reason or "") .. "."
end

-- A share with the interval that the evaluation states, as a sentence; nil for kinds that have none.
local function result_sentence(evaluation)
  local metrics = evaluation.metrics
  if svg.is_number(metrics.top1) then
    local text = evaluation.name .. ": the first answer is right for " .. plots.number(metrics.top1, "share") .. " of "
      .. parts.count(metrics.samples) .. " images"
    if svg.is_number(metrics.top1_low) and svg.is_number(metrics.top1_high) then
      text = text .. " (another test set of this size would give " .. plots.number(metrics.top1_low, "share") .. " to "
        .. plots.number(metrics.top1_high, "share") .. ")"
    end
    return text .. (svg.is_number(metrics.chance) and "; guessing gives " .. plots.number(metrics.chance, "share") or "") .. "."
  elseif svg.is_number(metrics.image_to_text_r5) then
    return evaluation.name .. ": for " .. plots.number(metrics.image_to_text_r5, "share") .. " of "
      .. parts.count(metrics.samples)
      .. " images one of their own texts is among the first 5."
  elseif svg.is_number(metrics.loss) then
    return evaluation.name .. ": loss " .. plots.number(metrics.loss) .. " on data that was not trained on."
  end
end

local function evaluations_of(facts)
  local out = {}
  for _, name in ipairs(list(facts.evaluation_names)) do out[#out + 1] = facts.evaluations[name] end
  return out
end

function page.verdict(facts)
  local sentences = { state_sentence(facts) }
  local evaluations = evaluations_of(facts)
  for _, evaluation in ipairs(evaluations) do sentences[#sentences + 1] = result_sentence(evaluation) end
  if #evaluations == 0 then sentences[#sentences + 1] = "No evaluation has been made yet, so nothing says how good the model "
    .. "is." end
  return parts.list(sentences, "verdict") .. html.paragraph("This is one run. How far another seed would lie off is not known "
    .. "from it; 'copse compare' of runs with several seeds says so.", "note")
end

local function skipped_steps(facts)
  local skipped = 0
  for _, point in ipairs(list(facts.events).curve or {}) do skipped = skipped + (svg.is_number(point.skipped)
    and point.skipped or 0) end
  return skipped
end

local function warnings_of(facts)
  local out = {}
  for _, problem in ipairs(list(facts.problems)) do out[#out + 1] = problem end
  local skipped = skipped_steps(facts)
  if skipped > 0 then
    out[#out + 1] = parts.plural(skipped, "step") .. " changed nothing, because the loss or a gradient was no finite number: "
      .. "the learning rate may be too high."
  end
  if #list(facts.quarantine) > 0 then
    out[#out + 1] = parts.plural(#facts.quarantine, "image") .. " could not be read and took no part: see the last section."
  end
  for _, evaluation in ipairs(evaluations_of(facts)) do
    local equal, odd = evaluation.metrics.equal_texts, evaluation.metrics.non_finite
    if svg.is_number(equal) and equal > 0 then
      out[#out + 1] = evaluation.name .. ": " .. parts.plural(math.floor(equal), "class has", "classes have")
        .. " the text of another class and can never be the answer."
    end
    if svg.is_number(odd) and odd > 0 then
      out[#out + 1] = evaluation.name .. ": " .. parts.plural(math.floor(odd), "feature is", "features are")
        .. " not finite; the model may have diverged."
    end
  end
  for _, problem in ipairs(list(facts.mistake_problems)) do out[#out + 1] = problem end
  return out
end

function page.warnings(facts)
  local sentences = warnings_of(facts)
  return parts.warnings(sentences, "Read before you believe the numbers")
end

-- ---- results ----------------------------------------------------------------------------------------------------------------

local not_results = { samples = true, bad_images = true, unlabelled = true, unranked = true, batch = true, batches = true,
  chance = true,
  unseen_classes = true, equal_texts = true, text_stand_ins = true, non_finite = true }

local function is_result(key)
  return not not_results[key] and not key:find "_low$" and not key:find "_high$" and not key:find "_short_classes$"
end

-- Numbers in names sort as numbers: r5 before r10.
local function sort_key(key)
  return (key:gsub("%d+", function(digits) return string.format("%06d", digits) end))
end

local function result_keys(metrics)
  local keys = {}
  for key in pairs(metrics) do
    if is_result(key) and not key:find "^rank_" and not key:find "^aggregated_" then keys[#keys + 1] = key end
  end
  table.sort(keys, function(a, b) return sort_key(a) < sort_key(b) end)
  return keys
end

local main_keys = { "top1", "per_class", "image_to_text_r1", "image_to_text_r5", "text_to_image_r1", "text_to_image_r5",
  "loss" }

-- Of the keys that say most those that the metrics have; else the first.
local function main_keys_of(metrics)
  local keys = {}
  for _, key in ipairs(main_keys) do
    if svg.is_number(metrics[key]) then keys[#keys + 1] = key end
  end
  return #keys > 0 and keys or { result_keys(metrics)[1] }
end

local function result_table(facts, keys_of)
  local rows = {}
  for _, evaluation in ipairs(evaluations_of(facts)) do
    local metrics = evaluation.metrics
    for _, key in ipairs(keys_of(metrics)) do
      local kind = parts.is_share(key) and "share" or nil
      rows[#rows + 1] = { html.name(evaluation.name) .. "<small>" .. html.escape(parts.metric(key)) .. "</small>",
        html.escape(plots.number(metrics[key], kind)), html.escape(parts.interval({ metrics[key .. "_low"], metrics[key
          .. "_high"] }, kind)),
        svg.is_number(metrics.samples) and parts.count(metrics.samples) or "", parts.count(evaluation.step) }
    end
  end
  return #rows > 0 and html.table({ { title = "evaluation" }, { title = "last value", number = true }, { title = "interval" },
    { title = "samples", number = true }, { title = "at step", number = true } }, rows) or ""
end

function page.results(facts)
  local shown = result_table(facts, main_keys_of)
  if shown == "" then return "" end
  return shown .. html.paragraph("Interval: the middle 95 % of what resamples of these test samples give. It says nothing of "
    .. "other seeds.", "note")
    .. html.details("All metrics", result_table(facts, result_keys))
end

-- ---- curves -----------------------------------------------------------------------------------------------------------------

local quantities = {
  { key = "lr", title = "Learning rate" }, { key = "grad_norm", title = "Norm of the gradient" },
  { key = "logit_scale", title = "Logit scale" }, { key = "samples_per_second", title = "Samples a second" },
}
local not_terms = { step = true, loss = true, lr = true, grad_norm = true, logit_scale = true, samples_per_second = true,
  loader_seconds = true,
  exchange_seconds = true, bad_images = true, skipped = true, bad_rank = true }

local function points_of(curve, key)
  local points, any = {}, false
  for i, point in ipairs(curve) do
    points[i] = { x = point.step, y = point[key] }
    any = any or svg.is_number(point[key])
  end
  return any and points or nil
end

-- The loss, and its terms where there are several.
local function loss_series(curve)
  local names, seen = {}, {}
  for _, point in ipairs(curve) do
    for key, value in pairs(point) do
      if type(value) == "number" and not not_terms[key] and not seen[key] then names[#names + 1], seen[key] = key, true end
    end
  end
  table.sort(names)
  local series = { { name = "loss", points = points_of(curve, "loss") or {} } }
  for i = 1, #names > 1 and math.min(#names, 7) or 0 do series[#series + 1] = { name = names[i], points = points_of(curve,
    names[i]) or {} } end
  return series
end

-- Evaluations in the course of the run: { [name] = { [key] = points } } of those made more than once.
local function evaluation_points(events)
  local by_name, order = {}, {}
  for _, event in ipairs(list(events.evaluations)) do
    local name = tostring(event.name)
    if not by_name[name] then
      by_name[name] = {}
      order[#order + 1] = name
    end
    table.insert(by_name[name], event)
  end
  return by_name, order
end

local function evaluation_figures(facts, figures)
  local by_name, order = evaluation_points(list(facts.events))
  for _, name in ipairs(order) do
    for _, key in ipairs(main_keys) do
      local points = {}
      for i, event in ipairs(by_name[name]) do
        points[i] = { x = event.step, y = event[key], low = event[key .. "_low"], high = event[key .. "_high"] }
      end
      local chance = key == "top1" and by_name[name][1].chance
      if #points > 1 and svg.is_number(by_name[name][1][key]) then
        figures[#figures + 1] = { title = name .. ": " .. parts.metric(key), note = svg.is_number(chance)
          and "dotted: guessing" or nil,
          drawing = plots.curves { series = { { name = name, points = points } }, x_title = "step",
            kind = parts.is_share(key) and "share" or nil,
            reference = svg.is_number(chance) and { y = chance } or nil, label = name .. ", " .. parts.metric(key)
              .. " by step" } }
      end
    end
  end
end

function page.curves(facts)
  local curve, figures = list(list(facts.events).curve), {}
  if #curve > 0 then
    figures[1] = { title = "Training loss", drawing = plots.curves { series = loss_series(curve), x_title = "step",
      label = "Training loss by step" } }
  end
  evaluation_figures(facts, figures)
  for _, quantity in ipairs(quantities) do
    local points = points_of(curve, quantity.key)
    if points then
      figures[#figures + 1] = { title = quantity.title, drawing = plots.curves { series = { { name = quantity.title,
        points = points } }, x_title = "step",
        label = quantity.title .. " by step" } }
    end
  end
  return parts.figures(figures, "No step has been recorded.")
end

-- ---- ranks, classes, confusions ---------------------------------------------------------------------------------------------

local ranks = { "kingdom", "phylum", "class", "order", "family", "genus", "species" }

function page.ranks(facts)
  local figures = {}
  for _, evaluation in ipairs(evaluations_of(facts)) do
    local rows = {}
    for _, rank in ipairs(ranks) do
      local value = evaluation.metrics["rank_" .. rank]
      if svg.is_number(value) then rows[#rows + 1] = { name = rank, dots = { { value = value } } } end
    end
    figures[#figures + 1] = { title = evaluation.name, drawing = #rows > 0 and plots.dots { rows = rows, count = 1,
      kind = "share",
      label = "Accuracy by taxonomic rank, " .. evaluation.name } or nil }
  end
  local drawn = parts.figures(figures)
  return drawn ~= "" and html.paragraph("Share of images whose answer is right from the kingdom down to this rank.") .. drawn
    or ""
end

local function hardest(classes)
  local order = table.move(classes, 1, #classes, 1, {})
  table.sort(order, function(a, b)
    local one, other = a.right / a.samples, b.right / b.samples
    if one ~= other then return one < other end
    return a.class < b.class
  end)
  return order
end

local function class_rows(classes)
  local rows = {}
  for i, class in ipairs(classes) do
    rows[i] = { name = tostring(class.name), dots = { { value = class.right / class.samples, low = class.low,
      high = class.high } } }
  end
  return rows
end

local function class_table(classes)
  local rows = {}
  for i, class in ipairs(classes) do
    rows[i] = { html.name(class.name), parts.count(class.samples), parts.count(class.right),
      html.escape(plots.number(class.right / class.samples, "share")),
      html.escape(parts.interval({ class.low, class.high }, "share")) }
  end
  return html.table({ { title = "class" }, { title = "samples", number = true }, { title = "right", number = true },
    { title = "share", number = true },
    { title = "Wilson interval" } }, rows)
end

-- Evaluations whose predictions were read, with them: { evaluation name, mistakes }.
local function each_mistakes(facts, of_one)
  local out = {}
  for _, name in ipairs(list(facts.evaluation_names)) do
    local mistakes = list(facts.mistakes)[name]
    if mistakes then out[#out + 1] = of_one(name, mistakes) end
  end
  return table.concat(out, "\n")
end

local function classes_of(name, mistakes)
  local classes = hardest(list(mistakes.classes))
  if #classes == 0 then return "" end
  local figures = {}
  local rows = class_rows(table.move(classes, 1, math.min(#classes, most_classes), 1, {}))
  local count = math.ceil(#rows / math.ceil(#rows / per_figure))
  for first = 1, #rows, count do
    local some = table.move(rows, first, math.min(first + count - 1, #rows), 1, {})
    figures[#figures + 1] = { title = #rows > count and "Places " .. first .. " to " .. first + #some - 1 or "All classes",
      drawing = plots.dots { rows = some, count = 1, kind = "share", label = "Accuracy by class, " .. name } }
  end
  local all = #classes + (mistakes.left_out or 0)
  return "<h3>" .. html.name(name) .. "</h3>" .. html.paragraph((#rows < all and "The " .. #rows .. " hardest of " .. all
    .. " classes" or "Hardest first")
    .. ". Lines: Wilson intervals of 95 %; they are wide where a class has few samples.", "note") .. parts.figures(figures)
    .. html.details(parts.plural(#classes, "class", "classes") .. " as a table", class_table(classes))
end

function page.classes(facts)
  return each_mistakes(facts, classes_of)
end

local function confusions_of(name, mistakes)
  local rows = {}
  for i = 1, math.min(#list(mistakes.confusions), most_confusions) do
    local one = mistakes.confusions[i]
    rows[i] = { html.name(one.label_name), html.name(one.answer_name), parts.count(one.count),
      html.escape(plots.number(one.count / one.samples, "share")) }
  end
  if #rows == 0 then return "" end
  return "<h3>" .. html.name(name) .. "</h3>" .. html.table({ { title = "truth" }, { title = "taken for" },
    { title = "samples", number = true },
    { title = "of the class", number = true } }, rows)
end

function page.confusions(facts)
  return each_mistakes(facts, confusions_of)
end

-- ---- pictures ---------------------------------------------------------------------------------------------------------------

local function sheet_of(facts, name, mistakes)
  local items = {}
  for i, sample in ipairs(list(mistakes.wrong)) do
    local lines = sample.rank and { "first right text at rank " .. parts.count(sample.rank) }
      or { "✗ answer: " .. tostring(sample.answer_name), "ahead of the truth by " .. plots.number(sample.margin) }
    items[i] = { thumbnail = list(facts.thumbnails)[sample.sample_id], title = sample.label_name or "sample "
      .. tostring(sample.sample_id), lines = lines,
      where = sample.shard and tostring(sample.shard) .. ", record " .. tostring(sample.record) or nil }
  end
  return #items > 0 and "<h3>" .. html.name(name) .. "</h3>" .. parts.sheet(items) or ""
end

function page.pictures(facts)
  local drawn = each_mistakes(facts, function(name, mistakes) return sheet_of(facts, name, mistakes) end)
  if drawn == "" then return "" end
  return html.paragraph("The images on which the model is most sure of a wrong answer: its score lies farthest above that of "
    .. "the truth. In bold: the truth. Such images often show wrong labels, too.") .. drawn
end

-- ---- cost, bad images, records ----------------------------------------------------------------------------------------------

local function phases(cost)
  local rows = {}
  for phase, seconds in pairs(list(cost.seconds)) do
    if svg.is_number(seconds) and seconds > 0 then rows[#rows + 1] = { name = phase:gsub("_", " "), value = seconds,
      text = parts.duration(seconds) } end
  end
  table.sort(rows, function(a, b)
    if a.value ~= b.value then return a.value > b.value end
    return a.name < b.name
  end)
  return rows
end

function page.cost(facts)
  local cost, beat = list(facts.cost), list(facts.beat)
  local out = {}
  local function add(title, value, text)
    if svg.is_number(value) and value > 0 then out[#out + 1] = { title, html.escape(text(value)) } end
  end
  add("time, all sessions", cost.wall_seconds, parts.duration)
  add("samples a second", cost.samples_per_second, plots.number)
  add("samples trained on", cost.samples, parts.count)
  add("memory of a rank, most", cost.peak_memory_bytes, parts.bytes)
  add("sent by a rank", cost.bytes_sent, parts.bytes)
  add("ranks", beat.ranks, parts.count)
  add("threads a rank", beat.threads, parts.count)
  add("sessions (started anew or resumed)", cost.sessions, parts.count)
  if #out == 0 then return "" end
  local rows = phases(cost)
  return html.facts(out) .. parts.figures { { title = "Where the time went", drawing = #rows > 0
    and plots.bars { rows = rows, label = "Time by phase" } or nil } }
    .. (cost.complete == false and html.paragraph("A session ended without saying what it cost; it is not counted here.",
      "note") or "")
end

function page.bad_images(facts)
  local bad, rows = list(facts.quarantine), {}
  for i = 1, math.min(#bad, most_bad) do
    rows[i] = { html.name(bad[i].file or "?"), html.escape(bad[i].record or "?"), html.escape(bad[i].reason or "?") }
  end
  if #rows == 0 then return "" end
  return html.table({ { title = "file" }, { title = "record", number = true }, { title = "reason" } }, rows)
    .. (#bad > #rows and html.paragraph(#bad - #rows .. " more stand in quarantine.jsonl.", "note") or "")
end

function page.job(facts)
  local members = parts.members(facts.job, most_members)
  if members == "" then return "" end
  return html.paragraph("The resolved job, defaults included; job.lua in the run's folder reproduces the run.")
    .. html.details("All settings", members)
end

local function session_facts(session)
  local facts = list(session.facts)
  local out = {}
  local function add(title, value)
    if value ~= nil then out[#out + 1] = { title, html.name(value) } end
  end
  add("started", session.started)
  add("command", facts.command)
  add("hosts", session.hosts)
  add("processor", session.cpu)
  add("BLAS kernels", session.blas_core)
  add("precision", session.precision)
  add("Copse", list(session.versions).copse)
  return html.facts(out)
end

function page.provenance(facts)
  local sessions = list(list(facts.provenance).sessions)
  local last = sessions[#sessions]
  if not last then return "" end
  local checkpoints = {}
  for i, checkpoint in ipairs(list(facts.checkpoints)) do checkpoints[i] = { html.name(checkpoint.path),
    parts.count(checkpoint.step) } end
  return session_facts(last) .. (#checkpoints > 0 and html.table({ { title = "checkpoint" }, { title = "step",
    number = true } }, checkpoints) or "")
    .. html.details("All of provenance.json", parts.members(facts.provenance, most_members))
end

-- ---- the page ---------------------------------------------------------------------------------------------------------------

function page.whole(facts)
  local body = parts.head("Copse: one run", facts.name) .. page.verdict(facts) .. page.warnings(facts) .. page.results(facts)
    .. parts.sections {
    { id = "curves", title = "Learning curves", content = page.curves(facts) },
    { id = "ranks", title = "Accuracy by taxonomic rank", content = page.ranks(facts) },
    { id = "classes", title = "Accuracy by class", content = page.classes(facts) },
    { id = "confusions", title = "Most frequent confusions", content = page.confusions(facts) },
    { id = "pictures", title = "Surest mistakes", content = page.pictures(facts) },
    { id = "cost", title = "Cost", content = page.cost(facts) },
    { id = "bad", title = "Images that could not be read", content = page.bad_images(facts) },
    { id = "job", title = "Settings", content = page.job(facts) },
    { id = "provenance", title = "Provenance", content = page.provenance(facts) },
  } .. parts.footer("Made by Copse " .. tostring(facts.copse or "") .. ", " .. tostring(facts.made or "") .. ", from "
    .. tostring(facts.folder or "") .. ".")
  return html.page(facts.name, body)
end

return page
