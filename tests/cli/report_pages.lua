-- lua5.4 report_pages.lua FOLDER: pages of data that is awkward, one file a case, to be looked at by report_check.lua and a
-- browser: hostile names, very many and very few classes, numbers that are none, one seed, nothing at all.
local page = require "copse.page"
local folder = ...

local nan, infinity = 0 / 0, 1 / 0
local hostile = { "<script>alert(1)</script>", "\"quotes' & <b> &amp; ]]> -->", "مرحبا بالعالم طريقة",
  ("Donaudampfschifffahrt"):rep(12),
  "\255\254 no UTF-8 \0\27[31m", "an\u{202E}evil\u{2066}one", "漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字", "",
    "https://example.org/x url(y) @import" }

-- Draws between 0 and 1 that are the same everywhere.
local state = 1
local function draw()
  state = (state * 1103515245 + 12345) % 2 ^ 31
  return state / 2 ^ 31
end

local function some(count, make)
  local out = {}
  for i = 1, count do out[i] = make(i) end
  return out
end

local function name_of(names, i)
  return names[(i - 1) % #names + 1]
end

local function shares_of(names, number)
  return some(#names, function(m)
    local value = number or draw()
    return { method = names[m], mean = value, low = value - 0.05, high = value + 0.05 }
  end)
end

local function metric_of(names, case, key)
  local metric = { metric = key, larger_is_better = true, is_share = true, comparisons = {} }
  metric.methods = some(#names, function(m)
    local value = case.number or 0.4 + draw() / 3
    return { method = names[m], seeds = case.seeds, values = some(#case.seeds, function() return value end), estimate = value,
      interval = { value - 0.03, value + 0.03 }, seed_sd = #case.seeds > 1 and 0.01 or nil, best = m == 1, tied = m == 2 }
  end)
  for m = 2, #names do
    local value = case.number or draw() / 5 - 0.1
    metric.comparisons[m - 1] = { method = names[m], to = names[1], family = "baseline", seeds = case.seeds, estimate = value,
      interval = { value - 0.03, value + 0.03 }, p = draw(), p_adjusted = draw(), detectable = 0.031,
      verdict = m % 2 == 0 and "better" or "not distinguishable",
      per_seed = { { seed = 1, difference = value, only_method = 40, only_other = 20, p_exact = 0.01, p_mid = 0.009 } } }
  end
  return metric
end

local function confusions_of(names, classes, case)
  local out = {}
  for m = 2, #names do
    for _ = 1, math.min(40, #classes * (#classes - 1)) do
      local truth, answer = math.floor(draw() * #classes) + 1, math.floor(draw() * #classes) + 1
      if truth ~= answer then
        out[#out + 1] = { method = names[m], label = truth, label_name = classes[truth], answer = answer,
          answer_name = classes[answer], share = 0.1, baseline_share = 0.3, count_change = case.number or draw() * 40 - 20 }
      end
    end
  end
  return out
end

local function evaluation_of(names, classes, case, name)
  local all = { "kingdom", "phylum", "class", "order", "family", "genus", "species" }
  return { name = name, kind = "zero_shot", samples = 1000, data_digest = "32580b08c424ed3b",
    metrics = some(2, function(i) return metric_of(names, case, i == 1 and "top1" or "per_class") end),
    per_class = { left_out = 3, classes = some(#classes, function(i)
      return { class = i - 1, name = classes[i], samples = 50, methods = shares_of(names, case.number) }
    end) },
    ranks = some(7, function(i) return { rank = all[i], methods = shares_of(names, case.number) } end),
    confusions = confusions_of(names, classes, case),
    disagreements = some(6, function(i)
      return { sample_id = name .. i, shard = "/data/" .. name_of(hostile, i), record = i, label = 0,
        label_name = name_of(classes, i),
        methods = some(#names, function(m)
          return { method = names[m], right = ({ 0, 1, 0.67 })[(m + i) % 3 + 1], answer = 0, answer_name = name_of(classes,
            m + i) }
        end) }
    end) }
end

local function runs_of(names, case)
  local out = {}
  for m = 1, #names do
    for _, seed in ipairs(case.seeds) do
      out[#out + 1] = { run = names[m] .. seed, folder = "runs/" .. names[m], method = names[m], seed = seed, state = "done",
        step = 2400, cost = { seconds = case.number or 3600 * draw(), samples_per_second = 100, memory_bytes = 3e9,
          bytes_sent = 0 },
        provenance = { hosts = "n01*4", cpu = names[m], facts = { command = "copse train '" .. names[m] .. "'" } } }
    end
  end
  return out
end

local function curve(case, m)
  return some(40, function(i)
    local y = 4 / i + m * 0.02 + draw() * 0.1
    return { x = i * 50, y = i % 9 == 0 and nan or case.number or y, low = y - 0.1, high = i % 7 == 0 and infinity or y + 0.1 }
  end)
end

local function comparison_of(case)
  local names, values = case.names, {}
  local gathered = { thumbnails = { rs1 = { reason = hostile[1] } },
    curves = { quantities = { { key = "loss", title = "Training loss" } }, methods = {} } }
  for m, name in ipairs(names) do
    gathered.curves.methods[name] = { loss = curve(case, m) }
    values[name] = name
  end
  return { format = "copse-comparison", version = 1, title = table.concat(names, ", "), baseline = names[1],
    settings = { at = "final", confidence = 0.95, bootstrap = "bca", resamples = 2000, seed = 1, power = 0.8 },
    methods = some(#names, function(m) return { name = names[m], seeds = case.seeds, runs = {} } end),
    runs = runs_of(names, case), warnings = some(#names, function(m) return { kind = "images", text = names[m]
      .. " saw less." } end),
    verdicts = some(9, function(i) return name_of(names, i) .. " is better than " .. names[1] .. "." end),
    evaluations = some(#case.sets, function(i) return evaluation_of(names, case.classes, case, case.sets[i]) end),
    friedman = { { metric = "top1", evaluations = case.sets, chi2 = case.number or 3.2, p = 0.2,
      ranks = some(#names, function(m) return { method = names[m], rank = m } end) } },
    job_differences = { { key = "stages[1].objective.name", values = values } } }, gathered
end

local few = { "common rust of maize", "grey leaf spot", "healthy" }
local comparisons = {
  usual = { names = { "clip", "sclip, soft pseudo-labels", "sclip" }, classes = some(24, function(i) return few[i % 3 + 1]
    .. " " .. i end),
    seeds = { 1, 2, 3 }, sets = { "rs", "plants" } },
  hostile = { names = hostile, classes = some(40, function(i) return name_of(hostile, i) .. i end), seeds = { 1, 2, 3 },
    sets = { "rs", hostile[4], hostile[2] } },
  many_classes = { names = { "a", "b" }, classes = some(1000, function(i) return "class " .. i end), seeds = { 1, 2 },
    sets = { "rs" } },
  many_methods = { names = some(20, function(i) return "method " .. i end), classes = few, seeds = { 1, 2 }, sets = { "rs" } },
  one_class = { names = { "a", "b" }, classes = { "only" }, seeds = { 1, 2 }, sets = { "rs" } },
  no_numbers = { names = { "a", "b" }, classes = few, seeds = { 1, 2 }, sets = { "rs" }, number = nan },
  infinite = { names = { "a", "b" }, classes = few, seeds = { 1, 2 }, sets = { "rs" }, number = infinity },
  huge = { names = { "a", "b" }, classes = few, seeds = { 1, 2 }, sets = { "rs" }, number = 1e300 },
  tiny = { names = { "a", "b" }, classes = few, seeds = { 1, 2 }, sets = { "rs" }, number = -1e-300 },
  one_seed = { names = { "a", "b" }, classes = few, seeds = { 7 }, sets = { "rs" } },
  no_evaluation = { names = { "a", "b" }, classes = few, seeds = { 1, 2 }, sets = {} },
}

local function write(name, text)
  local file = assert(io.open(folder .. "/" .. name .. ".html", "wb"))
  file:write(text)
  file:close()
end

local order = {}
for name in pairs(comparisons) do order[#order + 1] = name end
table.sort(order)
for _, name in ipairs(order) do
  local case = comparisons[name]
  local comparison, gathered = comparison_of(case)
  write("comparison-" .. name, page.comparison(comparison, gathered))
  write("comparison-" .. name .. "-alone", page.comparison(comparison))
end
write("comparison-empty", page.comparison {})

-- Retrieval and validation have neither classes nor ranks.
local bare = comparison_of(comparisons.usual)
for _, evaluation in ipairs(bare.evaluations) do
  evaluation.per_class, evaluation.ranks, evaluation.confusions, evaluation.disagreements = {}, {}, {}, nil
end
write("comparison-bare", page.comparison(bare))

-- ---- runs -----------------------------------------------------------------------------------------------------------------

local function run_of(names, number)
  local evaluations = {}
  for i, name in ipairs(names) do
    evaluations[name] = { name = name, step = 60, event = {}, metrics = { top1 = number or 0.5, top1_low = 0.4, top1_high = 0.6,
      chance = 0.1, samples = 72, equal_texts = 2, non_finite = 1, rank_genus = 0.5, loss = i, image_to_text_r10 = 0.5 } }
  end
  local curve_points = some(300, function(i)
    return { step = i, stage = names[1], loss = i % 50 == 0 and nan or number or 5 / i, lr = 1e-5 * i, grad_norm = 1e9 * draw(),
      [names[2] or "term"] = draw(), [names[1]] = draw(), skipped = i % 100 == 0 and 2 or nil }
  end)
  return { name = names[1], folder = "runs/" .. names[1], state = "failed", reason = hostile[1], problems = { hostile[2] },
    beat = { step = 5, steps = 60, ranks = 2, threads = 1 }, job = { name = hostile[1], list = { 1, 2, hostile[2] },
      deep = { { a = hostile[3] } } },
    events = { steps = 300, curve = curve_points, ends = {}, evaluations = some(5, function(i)
      return { name = names[1], step = i * 10, top1 = draw(), top1_low = 0.1, top1_high = nan, chance = 0.1, loss = number
        or draw() }
    end) }, evaluations = evaluations, evaluation_names = names, cost = { wall_seconds = number or 1e6,
      seconds = { steps = 5, [names[1]] = 3 } },
    provenance = { sessions = { { started = hostile[1], facts = { command = hostile[5] }, versions = { copse = "0.1.0" } } } },
    checkpoints = { { step = 60, path = hostile[4] } }, predictions = {},
    quarantine = some(60, function(i) return { file = name_of(hostile, i), record = i, reason = hostile[1] } end),
    mistakes = { [names[1]] = { classes = some(45, function(i)
      return { class = i, name = name_of(hostile, i), samples = 9, right = i % 10, low = 0.1, high = 0.9 }
    end), left_out = 2, confusions = some(30, function(i)
      return { label_name = name_of(hostile, i), answer_name = name_of(hostile, i + 1), count = i, samples = 90 }
    end), wrong = some(5, function(i)
      return { sample_id = "s" .. i, shard = "x.h5", record = i, label_name = name_of(hostile, i),
        answer_name = name_of(hostile, i + 2), margin = 0.1 }
    end) } } }
end
write("run-hostile", page.run(run_of(hostile)))
write("run-no_numbers", page.run(run_of({ "a", "b" }, nan)))
write("run-empty", page.run { name = "empty", state = "unknown" })

-- ---- sweeps ---------------------------------------------------------------------------------------------------------------

local function sweep_of(parameters, count)
  return { name = parameters[1], folder = "runs/x", parameters = parameters, metric = { name = "rs.top1" }, seeds = { 1, 2 },
    search = { kind = "random", trials = count }, counts = { done = count, failed = 1 },
    trials = some(count, function(i)
      local values = { [parameters[1]] = 10.0 ^ (-draw() * 4), [parameters[2]] = name_of(hostile, i), [parameters[3]] = i }
      return { number = i, values = values, mean = i % 7 == 0 and nan or i % 5 > 0 and draw() or nil, count = 2,
        runs = some(2, function(seed)
        return { seed = seed, key = "x", folder = "runs/" .. hostile[1], state = i % 5 > 0 and "done" or "failed",
          metrics = { ["rs.top1"] = draw() } }
      end) }
    end), importance = some(3, function(i) return { parameter = parameters[i], share = i < 3 and draw() or nil, chance = 0.2,
      correlation = 0.5 } end) }
end
write("sweep-usual", page.sweep(sweep_of({ "lr", "method", "depth" }, 30)))
write("sweep-hostile", page.sweep(sweep_of(hostile, 200)))
write("sweep-empty", page.sweep { name = "empty", trials = {} })
