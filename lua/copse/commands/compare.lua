-- copse compare RUN|SWEEP...: methods head to head. What is compared: copse.comparison; how it is shown: copse.comparison_text.
local comparison = require "copse.comparison"
local comparison_text = require "copse.comparison_text"
local gather = require "copse.gather"
local page = require "copse.page"
local text = require "copse.text"

local RESAMPLES_SEED, POWER = 1, 0.8

local function number_of(flags, name, default)
  if flags[name] == nil then return default end
  local value = tonumber(flags[name])
  return value or system.fail("usage", "--%s is '%s', a number is wanted", name, flags[name])
end

local function choice_of(flags, name, choices)
  local value = flags[name] or choices[1]
  for _, choice in ipairs(choices) do
    if value == choice then return value end
  end
  system.fail("usage", "--%s is '%s', %s is wanted", name, value, table.concat(choices, " or "))
end

local function settings_of(flags)
  local settings = { bootstrap = choice_of(flags, "bootstrap", { "bca", "percentile" }), seed = RESAMPLES_SEED, power = POWER,
    resamples = number_of(flags, "resamples", 2000), confidence = number_of(flags, "confidence", 0.95) }
  if math.tointeger(settings.resamples) == nil then
    system.fail("usage", "--resamples is %s, a whole number is wanted", flags.resamples)
  end
  return settings
end

-- comparisons/clip-sclip-1a2b3c4d: the same runs and settings go to the same folder.
local function default_folder(result)
  local parts = { text.encode(result.settings, "settings") }
  for _, run in ipairs(result.runs) do parts[#parts + 1] = system.absolute(run.folder) or run.folder end
  for _, evaluation in ipairs(result.evaluations) do
    for _, metric in ipairs(evaluation.metrics) do parts[#parts + 1] = evaluation.name .. "." .. metric.metric end
  end
  local names = result.title:gsub("[^%w._-]+", "-"):sub(1, 60)
  return "comparisons/" .. names .. "-" .. system.digest(table.concat(parts, "\0")):sub(1, 8)
end

local function write(path, content)
  local good, message = system.write(path, content)
  if not good then system.fail("io", "%s", message) end
end

local function write_all(folder, result)
  local good, message = system.mkdir(folder)
  if not good then system.fail("io", "%s", message) end
  local json = text.encode(result, "comparison")
  local read = system.decode(json, "comparison") -- what 'copse report' would read
  write(folder .. "/comparison.json", json .. "\n")
  write(folder .. "/comparison.csv", comparison_text.csv(result))
  write(folder .. "/comparison.tex", comparison_text.latex(result))
  write(folder .. "/comparison.html", page.comparison(read, gather.comparison(read, folder)))
end

return { run = function(arguments)
  local flags, all = arguments.flags, arguments.all
  local result = comparison.make { operands = arguments.operands, at = choice_of(flags, "at", { "final", "best" }),
    settings = settings_of(flags), baseline = flags.baseline, metric = all.metric, method = all.method, by = flags.by,
    trials = all.trials }
  local folder = flags.out or default_folder(result)
  write_all(folder, result)
  for _, line in ipairs(comparison_text.lines(result)) do system.print(line) end
  system.print("written: " .. folder .. "/comparison.html, .json, .csv, .tex")
end }
