-- How much a parameter matters to a metric, from the trials of a sweep.
--
-- `share` is the share of the metric's variance between trials that lies between the levels of this parameter alone (one-way
-- analysis of variance, eta squared): SS_between / SS_total over the trials that read the parameter and have the metric (the
-- mean over their seeds). Levels are its values; a number with more than six values is cut into up to four quantile bins of
-- near-equal size. Levels alone explain something even where the parameter does nothing: `chance` = (levels - 1) / (trials - 1)
-- is what to expect then, so a share near it says nothing. `correlation` is Spearman's, for numbers: which way it goes.
-- Nothing here sees what parameters do together.
local importance = {}

local MOST_LEVELS, MOST_BINS, LEAST_TRIALS_OF_A_BIN = 6, 4, 3

-- Ranks from 1; equals share their mean.
local function ranks(values)
  local order, result = {}, {}
  for i = 1, #values do order[i] = i end
  table.sort(order, function(a, b)
    if values[a] ~= values[b] then return values[a] < values[b] end
    return a < b
  end)
  local i = 1
  while i <= #order do
    local last = i
    while last < #order and values[order[last + 1]] == values[order[i]] do last = last + 1 end
    for k = i, last do result[order[k]] = (i + last) / 2 end
    i = last + 1
  end
  return result
end

local function pearson(x, y)
  local n, mean_x, mean_y = #x, 0, 0
  for i = 1, n do mean_x, mean_y = mean_x + x[i] / n, mean_y + y[i] / n end
  local xx, yy, xy = 0, 0, 0
  for i = 1, n do
    xx, yy = xx + (x[i] - mean_x) ^ 2, yy + (y[i] - mean_y) ^ 2
    xy = xy + (x[i] - mean_x) * (y[i] - mean_y)
  end
  return xx > 0 and yy > 0 and xy / math.sqrt(xx * yy) or nil
end

-- Level of each value: itself, or the number of its bin.
local function levels_of(values)
  local seen, distinct, numbers = {}, 0, true
  for _, value in ipairs(values) do
    if not seen[value] then seen[value], distinct = true, distinct + 1 end
    numbers = numbers and type(value) == "number"
  end
  if not numbers or distinct <= MOST_LEVELS then return values, distinct, numbers end
  local bins = math.max(2, math.min(MOST_BINS, #values // LEAST_TRIALS_OF_A_BIN))
  local result, rank, used = {}, ranks(values), {}
  for i = 1, #values do
    result[i] = math.floor((rank[i] - 0.5) * bins / #values)
    used[result[i]] = true
  end
  local count = 0
  for _ in next, used do count = count + 1 end
  return result, count, numbers
end

-- Share of the variance of y that lies between levels.
local function share(levels, y)
  local mean, sums, counts = 0, {}, {}
  for i = 1, #y do
    mean = mean + y[i] / #y
    sums[levels[i]] = (sums[levels[i]] or 0) + y[i]
    counts[levels[i]] = (counts[levels[i]] or 0) + 1
  end
  local between, total = 0, 0
  for level, sum in next, sums do between = between + counts[level] * (sum / counts[level] - mean) ^ 2 end
  for i = 1, #y do total = total + (y[i] - mean) ^ 2 end
  return total > 0 and math.min(between / total, 1) or nil
end

-- trials: { { values, mean, same_as } }. A list with the greatest share first: { parameter, share, chance, trials, levels,
-- correlation }; without a share where there are too few trials or one level.
function importance.of(parameters, trials)
  local result = {}
  for _, name in ipairs(parameters) do
    local x, y = {}, {}
    for _, trial in ipairs(trials) do
      if trial.mean and trial.values[name] ~= nil and not trial.same_as then
        x[#x + 1], y[#y + 1] = trial.values[name], trial.mean
      end
    end
    local levels, count, numbers = levels_of(x)
    local one = { parameter = name, trials = #x, levels = count }
    if count > 1 and #x > count then
      one.share, one.chance = share(levels, y), (count - 1) / (#x - 1)
      one.correlation = numbers and pearson(ranks(x), ranks(y)) or nil
    end
    result[#result + 1] = one
  end
  table.sort(result, function(a, b)
    if (a.share or -1) ~= (b.share or -1) then return (a.share or -1) > (b.share or -1) end
    return a.parameter < b.parameter
  end)
  return result
end

return importance
