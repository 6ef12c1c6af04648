-- Successive halving. All trials train to the first rung; the best of every eta go on to the next, from their checkpoint. A
-- rung waits for all of the one before, and is a pure function of what the ledger holds, so every runner comes to the same
-- choice.
local halving = {}

-- The metric of a run at a rung: what its outcome says, else its events; nil: none, or no number.
local function metric_at(own, run, entry, step)
  local outcome = own.view:outcome(entry)
  local metrics = outcome and outcome.metrics
  if type(metrics) ~= "table" then metrics = require "copse.sweep".metrics(own.folder .. "/" .. run.key, step) end
  return metrics[own.search.metric.name]
end

-- Mean over the seeds of a trial; nil where one of them has none.
local function score(own, runs, step, entry_of)
  local sum = 0
  for _, run in ipairs(runs) do
    local entry = entry_of(halving.key(run, step))
    local value = entry and entry.state == "done" and metric_at(own, run, entry, step)
    if not value then return nil end
    sum = sum + value
  end
  return sum / #runs
end

-- Key of the ledger's entry for a run at a rung.
function halving.key(run, step)
  return string.format("%s@%d", run.key, step)
end

-- { trial, runs } in the order of trials' numbers.
local function groups(own)
  local result, by_trial = {}, {}
  for _, run in ipairs(own.runs) do
    local group = by_trial[run.trial]
    if not group then
      group = { trial = run.trial, runs = {} }
      by_trial[run.trial] = group
      result[#result + 1] = group
    end
    group.runs[#group.runs + 1] = run
  end
  table.sort(result, function(a, b) return a.trial.number < b.trial.number end)
  return result
end

-- The best of every eta, at least one. Those without a number come last, equals by their number.
local function best(own, list, step, entry_of)
  local falls = own.search.metric.falls
  local without = {}
  for _, group in ipairs(list) do
    group.score = score(own, group.runs, step, entry_of)
    if not group.score then without[#without + 1] = group.trial.number end
  end
  table.sort(list, function(a, b)
    if (a.score == nil) ~= (b.score == nil) then return a.score ~= nil end
    if a.score ~= b.score then
      if falls then return a.score < b.score end
      return a.score > b.score
    end
    return a.trial.number < b.trial.number
  end)
  local kept = {}
  for i = 1, math.max(1, #list // own.search.eta) do
    if list[i].score then kept[#kept + 1] = list[i] end
  end
  table.sort(kept, function(a, b) return a.trial.number < b.trial.number end)
  return kept, without
end

-- Items of work so far: { key, run, until_step, rung }. is_final(entry): nothing more will come of it. Also, per rung that is
-- through: { step, kept = numbers, without = numbers of trials that have no number there }.
function halving.items(own, entry_of, is_final)
  local items, passed, list = {}, {}, groups(own)
  for i, step in ipairs(own.search.rungs) do
    local complete = true
    for _, group in ipairs(list) do
      for _, run in ipairs(group.runs) do
        local key = halving.key(run, step)
        items[#items + 1] = { key = key, run = run, until_step = step, rung = i }
        local entry = entry_of(key)
        complete = complete and entry ~= nil and is_final(entry)
      end
    end
    if not complete or i == #own.search.rungs then break end
    local without
    list, without = best(own, list, step, entry_of)
    passed[i] = { step = step, kept = {}, without = without }
    for k, group in ipairs(list) do passed[i].kept[k] = group.trial.number end
  end
  return items, passed
end

return halving
