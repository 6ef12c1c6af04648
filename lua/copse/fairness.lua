-- What makes a comparison less than fair, or less than sure: sentences that name methods and values. Nothing here decides; people do.
local text = require "copse.text"

local fairness = {}

local function add(warnings, kind, format, ...)
  warnings[#warnings + 1] = { kind = kind, text = string.format(format, ...) }
end

-- "clip 24; sclip 24 and 48": `value_of(run)` of each method's runs, equal ones once. Second result: whether methods differ.
local function by_method(groups, names, value_of)
  local parts, first, differ = {}, nil, false
  for _, name in ipairs(names) do
    local values, seen = {}, {}
    for _, run in ipairs(groups[name]) do
      local value = value_of(run) or "unknown"
      if not seen[value] then
        seen[value] = true
        values[#values + 1] = value
      end
    end
    table.sort(values)
    local joined = table.concat(values, " and ")
    first = first or joined
    differ = differ or joined ~= first
    parts[#parts + 1] = name .. " " .. joined
  end
  return table.concat(parts, "; "), differ
end

-- ---- facts of a run as text ----

-- Steps of each stage that were done: by the last step of its curve.
local function steps_of_stages(run)
  local last, done, before = {}, {}, 0
  for _, point in ipairs(run.facts.events.curve or {}) do
    if point.stage and point.step then last[point.stage] = point.step end
  end
  for _, stage in ipairs(run.stages) do
    local step = last[stage.name]
    done[stage.name] = step and step - before or 0
    before = step or before
  end
  return done
end

-- Samples of each stream that were shown: { paired = n, unlabelled = m }; nil where the run does not say it.
function fairness.images(run)
  if #run.stages == 0 then return nil end
  local done, images = steps_of_stages(run), {}
  for _, stage in ipairs(run.stages) do
    for stream, samples in pairs(stage.samples_per_step or {}) do
      images[stream] = (images[stream] or 0) + samples * (done[stage.name] or 0)
    end
  end
  return images
end

local function images_text(run)
  local images, parts = fairness.images(run), {}
  for _, stream in ipairs(images and text.sorted_keys(images) or {}) do
    parts[#parts + 1] = string.format("%s of %s", text.number(images[stream]), stream)
  end
  return images and table.concat(parts, " + ")
end

local function batch_text(run)
  local parts = {}
  for _, stage in ipairs(run.job.stages or {}) do parts[#parts + 1] = tostring(stage.global_batch) end
  return table.concat(parts, ", ")
end

-- Settings of the model on which the first runs of methods differ, as { [key] = true }.
local function differing_model(groups, names)
  local keys, first = {}, groups[names[1]][1].flat
  for _, name in ipairs(names) do
    local flat = groups[name][1].flat
    for _, one in ipairs { first, flat } do
      for key in pairs(one) do
        if key:find "^model%." and not key:find "weights" and first[key] ~= flat[key] then keys[key] = true end
      end
    end
  end
  return keys
end

local function model_text(run, keys)
  local flat, parts = run.flat, {}
  for _, key in ipairs(text.sorted_keys(keys)) do
    if flat[key] then parts[#parts + 1] = key:sub(7) .. " = " .. flat[key] end
  end
  return #parts > 0 and table.concat(parts, ", ") or "without these"
end

-- Digests whose names begin with `front`, as text.
local function digests_text(run, front)
  local parts = {}
  for _, key in ipairs(text.sorted_keys(run.digests)) do
    if key:sub(1, #front) == front then parts[#parts + 1] = key .. " " .. tostring(run.digests[key]) end
  end
  return table.concat(parts, ", ")
end

local function weights_text(run)
  local digests = digests_text(run, "weights")
  return digests ~= "" and digests or "none (from the seed)"
end

local function trials_text(run)
  return run.trials and text.number(run.trials)
end

local function steps_text(run)
  return run.step and text.number(run.step)
end

-- ---- between methods ----

-- Training data by seed: a subset may be drawn by it.
local function check_data(groups, names, warnings)
  local told = {}
  for _, name in ipairs(names) do
    for _, run in ipairs(groups[name]) do
      for _, first in ipairs(groups[names[1]]) do
        local ours, theirs = digests_text(run, "data."), digests_text(first, "data.")
        if first.seed == run.seed and first.block == run.block and ours ~= theirs and not told[name] then
          told[name] = true
          add(warnings, "data", "training data differ: %s %s; %s %s (seed %s)", names[1], theirs, name, ours, text.any_number(run.seed))
        end
      end
    end
  end
end

local function check_model(groups, names, warnings)
  local keys = differing_model(groups, names)
  local values, differ = by_method(groups, names, function(run) return model_text(run, keys) end)
  if differ then add(warnings, "model", "models differ: %s", values) end
end

local checks = {
  { "images", "images seen differ: %s", images_text },
  { "steps", "training steps differ: %s", steps_text },
  { "global_batch", "global batches differ: %s", batch_text },
  { "weights", "starting weights differ: %s", weights_text },
  { "trials", "tuning trials differ: %s", trials_text },
  { "precision", "precision or BLAS kernels differ: %s", function(run) return run.bits end },
}

local function seeds_text(list)
  local parts, seen = {}, {}
  for _, run in ipairs(list) do
    if not seen[run.seed] then parts[#parts + 1] = text.any_number(run.seed) end
    seen[run.seed] = true
  end
  return table.concat(parts, ", "), #parts
end

local function check_seeds(groups, names, warnings)
  local parts, first, differ, single = {}, nil, false, {}
  for _, name in ipairs(names) do
    local seeds, count = seeds_text(groups[name])
    first = first or seeds
    differ = differ or seeds ~= first
    parts[#parts + 1] = name .. " " .. seeds
    if count == 1 then single[#single + 1] = name end
  end
  if differ then
    add(warnings, "seeds", "seeds differ: %s; differences are of the seeds that both have", table.concat(parts, "; "))
  end
  if #single > 0 then
    add(warnings, "one_seed", "one seed of %s: the variance between seeds is unknown; intervals and tests are about these trained "
      .. "models, not about the methods", table.concat(single, ", "))
  end
end

-- ---- single runs ----

-- Metrics of the run's last evaluations that are no numbers: NaN or infinite ones are written as null, so the key is missing; and
-- counts that say that something was not finite.
local function check_numbers(run, warnings)
  for _, name in ipairs(run.facts.evaluation_names) do
    local evaluation = run.facts.evaluations[name]
    if (evaluation.metrics.non_finite or 0) > 0 then
      add(warnings, "numbers", "run '%s', evaluation '%s': %d features are not finite (NaN or infinite) and count as zeros: the model "
        .. "has broken down", run.name, name, evaluation.metrics.non_finite)
    elseif next(evaluation.metrics) == nil then
      add(warnings, "numbers", "run '%s', evaluation '%s': no metric is a finite number (NaN?)", run.name, name)
    end
  end
  local skipped = run.facts.beat and run.facts.beat.skipped
  if type(skipped) == "number" and skipped > 0 then
    add(warnings, "numbers", "run '%s' skipped %d steps whose loss or gradient was not finite", run.name, skipped)
  end
end

local function check_run(run, warnings)
  if run.facts.state ~= "done" then
    add(warnings, "incomplete", "run '%s' is not complete (%s%s): its predictions so far are compared", run.name, run.facts.state,
      run.step and ", step " .. text.number(run.step) or "")
  end
  for _, problem in ipairs(run.facts.problems) do add(warnings, "files", "run '%s': %s", run.name, problem) end
  check_numbers(run, warnings)
end

-- Everything unequal or unsure, as { kind, text }: what stands between methods first. Runs need facts, job, flat, seed, block,
-- stages, digests, bits, step, trials.
function fairness.warnings(groups, names)
  local warnings = {}
  for _, check in ipairs(checks) do
    local values, differ = by_method(groups, names, check[3])
    if differ then add(warnings, check[1], check[2], values) end
  end
  check_model(groups, names, warnings)
  check_data(groups, names, warnings)
  check_seeds(groups, names, warnings)
  for _, name in ipairs(names) do
    for _, run in ipairs(groups[name]) do check_run(run, warnings) end
  end
  return warnings
end

return fairness
