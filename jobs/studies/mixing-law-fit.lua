-- The arithmetic of the study mixing-law.sh: no job, a script for lua5.4 that takes the runs' losses and says which shares to try.
--     LUA_PATH='lua/?.lua' lua5.4 jobs/studies/mixing-law-fit.lua shares|report BEFORE SHARES <LOSSES
-- BEFORE: general loss of the start. SHARES: of general data that the law is fitted to, with blanks between. LOSSES: lines
-- "SHARE SEED GENERAL TARGET". shares: prints what the law advises, one a line; report: what it says of all runs, as Markdown.
local law = require "copse.mixing_law"

local mode, before, fitted_shares = arg[1], tonumber(arg[2]), arg[3] or ""
local runs = {} -- share as it is written -> { seed -> { general, target } }
for line in io.lines() do
  local share, seed, general, target = line:match "^(%S+) (%S+) (%S+) (%S+)$"
  if share and tonumber(general) and tonumber(target) then
    runs[share] = runs[share] or {}
    runs[share][seed] = { general = tonumber(general), target = tonumber(target) }
  end
end

-- Mean, deviation ("" for one run) and number of one loss at a share.
local function measured(share, domain)
  local sum, squares, n = 0, 0, 0
  for _, losses in pairs(runs[share] or {}) do sum, n = sum + losses[domain], n + 1 end
  for _, losses in pairs(runs[share] or {}) do squares = squares + (losses[domain] - sum / n) ^ 2 end
  return sum / n, n > 1 and math.sqrt(squares / (n - 1)) or nil, n
end

-- Fits to the means over the seeds, or to one seed alone. nil and why where there is no law.
local function fit(seed)
  local shares, rest, general, target = {}, {}, {}, {}
  for share in fitted_shares:gmatch "%S+" do
    local one = seed and runs[share] and runs[share][seed]
    if one or not seed and runs[share] then
      shares[#shares + 1], rest[#rest + 1] = tonumber(share), 1 - tonumber(share)
      general[#general + 1] = one and one.general or measured(share, "general")
      target[#target + 1] = one and one.target or measured(share, "target")
    end
  end
  local ok, result = pcall(function()
    return { general = law.fit(shares, general), target = law.fit(rest, target) }
  end)
  if not ok then return nil, (tostring(result):gsub("^[^ ]*:%d+: ", "")) end
  return result
end

-- Shares worth a run: { name, share, why }.
local function advice(fits)
  local list = {}
  local ok, critical = pcall(law.critical_share, fits.general, before or 0)
  if ok then
    list[1] = { name = "critical share", share = critical.rounded, exact = critical.exact }
  else
    list[1] = { name = "critical share", why = (tostring(critical):gsub("^[^ ]*:%d+: ", "")) }
  end
  local best = law.optimum(fits.general, fits.target, { general = 0.5, target = 0.5 })
  list[2] = { name = "least mean of the two losses", share = math.floor(best.share * 256 + 0.5) / 256, exact = best.exact }
  return list
end

-- A share as runs are named.
local function written(share)
  return string.format("%.8g", share)
end

local function with_spread(mean, spread)
  return mean ~= mean and "–" or spread and string.format("%.3f ± %.3f", mean, spread) or string.format("%.3f", mean)
end

local function print_fits(fits)
  print "| loss of | c | k | b | correlation | largest residual |\n|---|---|---|---|---|---|"
  for _, domain in ipairs { "general", "target" } do
    local of, largest = fits[domain], 0
    for _, e in ipairs(of.residuals) do largest = math.max(largest, math.abs(e)) end
    print(string.format("| %s | %.4f | %.3f | %.3f | %.4f | %.4f |", domain, of.c, of.k, of.b, of.correlation, largest))
  end
end

local function print_advice(fits)
  print "\n| | share of general data | general: predicted | measured | target: predicted | measured | runs |\n|---|---|---|---|---|---|---|"
  for _, item in ipairs(advice(fits)) do
    if item.share then
      local general, spread_g, n = measured(written(item.share), "general")
      local target, spread_t = measured(written(item.share), "target")
      print(string.format("| %s | %s | %.3f | %s | %.3f | %s | %d |", item.name, written(item.share),
        law.predict(fits.general, item.share), with_spread(general, spread_g),
        law.predict(fits.target, 1 - item.share), with_spread(target, spread_t), n))
    else
      print(string.format("| %s | none: %s | | | | | |", item.name, item.why))
    end
  end
end

-- What each seed alone would have advised: how much of the advice is chance.
local function print_seeds()
  local seeds = {}
  for _, of in pairs(runs) do
    for seed in pairs(of) do seeds[seed] = true end
  end
  local list = {}
  for seed in pairs(seeds) do list[#list + 1] = seed end
  table.sort(list)
  for _, seed in ipairs(list) do
    local fits, why = fit(seed)
    local said = {}
    for _, item in ipairs(fits and advice(fits) or {}) do
      said[#said + 1] = string.format("%s %s", item.name, item.share and string.format("%.3f", item.exact) or "none")
    end
    print(string.format("- seed %s alone: %s", seed, fits and table.concat(said, ", ") or why))
  end
end

local fits, why = fit()
if mode == "shares" then
  local seen = {}
  for _, item in ipairs(fits and advice(fits) or {}) do
    if item.share and not seen[item.share] then print(written(item.share)) end
    seen[item.share or 0] = true
  end
elseif mode == "report" then
  print(string.format("General loss of the start: %s.\n", before and string.format("%.3f", before) or "–"))
  if fits then
    print_fits(fits)
    print_advice(fits)
    print ""
    print_seeds()
  else
    print("No law: " .. why)
  end
else
  io.stderr:write("mixing-law-fit.lua: '" .. tostring(mode) .. "' is no mode: write 'shares' or 'report'\n")
  os.exit(64)
end
