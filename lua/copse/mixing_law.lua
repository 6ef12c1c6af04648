-- Data mixing laws (Ye et al. 2024, arXiv:2403.16952): the validation loss of a domain as a function of the shares of the domains
-- in the training data, fitted to a few short runs, and the mixture that it advises. For jobs and scripts:
--     local law = require "copse.mixing_law"
--     local fit = law.fit({ 0.125, 0.25, 0.375, 0.5 }, { 2.92617, 2.88049, 2.85707, 2.83876 })
--     local share = law.critical_share(fit, 2.87337).rounded -- least share of general data with which nothing is forgotten
-- Fits are plain tables of numbers. Arguments that make no sense, and laws that the points do not bear out, are errors.
-- Losses of contrastive models depend on the batch: measure each domain's by itself, in batches of one size.
local curve_fit = require "copse.curve_fit"

local law = {}

-- Raises at the line that called the public function. deeper: how many functions are between that and the check that refuses.
local function refuse(deeper, format, ...)
  error(string.format(format, ...), 4 + deeper)
end

local function show(value)
  if type(value) == "number" then return value ~= value and "nan" or string.format("%.6g", value) end
  return type(value) == "string" and "'" .. value .. "'" or type(value) == "table" and "a table" or tostring(value)
end

-- { least, most, words }
local shares_range = { 0, 1, "from 0 to 1" }
local losses_range = { 1e-9, math.huge, "above 0" } -- the margin of the scan is below
local positive_range = { 1e-300, math.huge, "above 0" }
local weights_range = { 0, math.huge, "from 0" }
local any_range = { -math.huge, math.huge, "that is finite" }

local function is_in(x, range)
  return curve_fit.is_finite(x) and x >= range[1] and x <= range[2]
end

local function check_number(what, x, range, deeper)
  if not is_in(x, range) then refuse(deeper or 0, "%s is %s: it should be a number %s", what, show(x), range[3]) end
end

local function check_numbers(what, list, range, deeper)
  if type(list) ~= "table" then refuse(deeper or 0, "%s should be a list of numbers, not %s", what, show(list)) end
  for i = 1, #list do check_number(string.format("%s[%d]", what, i), list[i], range, (deeper or 0) + 1) end
end

local function check_count(what, n, least)
  if math.type(n) ~= "integer" or n < least then
    refuse(0, "%s is %s: it should be a whole number from %d", what, show(n), least)
  end
end

local function check_pair(what, xs, losses, deeper)
  if #xs ~= #losses then refuse(deeper or 0, "there are %d %s and %d losses: each wants one of the other", #xs, what, #losses) end
end

local function names_of(defaults)
  local names = {}
  for name in pairs(defaults) do names[#names + 1] = name end
  table.sort(names)
  return table.concat(names, ", ")
end

-- The options with their defaults.
local function check_options(options, defaults)
  if options ~= nil and type(options) ~= "table" then refuse(0, "options should be a table, not %s", show(options)) end
  for name in pairs(options or {}) do
    if defaults[name] == nil then refuse(0, "there is no option '%s': there are %s", tostring(name), names_of(defaults)) end
  end
  local result = {}
  for name, default in pairs(defaults) do
    result[name] = default
    if options and options[name] ~= nil then result[name] = options[name] end
  end
  if defaults.delta then check_number("delta", result.delta, positive_range, 1) end
  return result
end

local function distinct(list)
  local seen, count = {}, 0
  for _, x in ipairs(list) do
    if not seen[x] then seen[x], count = true, count + 1 end
  end
  return count
end

local function check_differ(losses)
  if distinct(losses) < 2 then refuse(0, "all losses are the same: no law can be seen in them") end
end

-- ---- two domains: L(x) = c + exp(k x + b) ------------------------------------------------------------------------------

local function share_residual(shares, losses, c)
  return function(i, parameters, slope)
    local term = math.exp(parameters[1] * shares[i] + parameters[2])
    slope[1], slope[2] = term * shares[i], term
    return term - (losses[i] - c)
  end
end

-- Why a fit is no law, nil for a sound one.
local function why_rejected(fit, place)
  if place == curve_fit.scan_points then
    return string.format("the fit is rejected: c = %.6g lies at the end of the scan, at the least loss, so the points do not say "
      .. "where the curve ends: train at more or other shares, or average over more seeds", fit.c)
  elseif fit.k >= 0 then
    return string.format("the fit is rejected: k = %.6g, so the loss does not fall with the domain's own share: give each domain's "
      .. "loss the share of that domain, and check that the runs were trained alike", fit.k)
  end
end

-- The law of one domain from its own shares and its losses, 4 or more (two-step fit: c by scan, then k and b). options: delta of
-- Huber's objective (0.02), keep_rejected (a fit that is no law is returned with the reason in `rejected`).
-- Gives { c, k, b, correlation, residuals, gradient, delta }.
function law.fit(shares, losses, options)
  options = check_options(options, { delta = 0.02, keep_rejected = false })
  check_numbers("shares", shares, shares_range)
  check_numbers("losses", losses, losses_range)
  check_pair("shares", shares, losses)
  if distinct(shares) < 4 then
    error(string.format("the law wants losses at 4 different shares at least, not %d: train at more shares", distinct(shares)), 2)
  end
  check_differ(losses)
  local scan = curve_fit.scan(shares, losses)
  local residual = share_residual(shares, losses, scan.c)
  local result = curve_fit.minimise(residual, #shares, { scan.slope, scan.intercept }, options.delta)
  local fit = {
    kind = "share", c = scan.c, k = result.parameters[1], b = result.parameters[2], correlation = scan.correlation,
    residuals = {}, gradient = result.gradient, delta = options.delta,
  }
  for i = 1, #shares do fit.residuals[i] = residual(i, result.parameters, {}) end
  fit.rejected = why_rejected(fit, scan.place)
  if fit.rejected and not options.keep_rejected then error(fit.rejected, 2) end
  return fit
end

local makers = { share = "fit(shares, losses)", mixture = "fit_mixtures(mixtures, losses)", steps = "fit_steps(curves)" }

-- Fits may come from a file: those of shares want their three numbers.
local function check_fit(what, fit, kind, deeper)
  local has = type(fit) == "table" and fit.kind == kind
  for _, name in ipairs(kind == "share" and { "c", "k", "b" } or {}) do has = has and curve_fit.is_finite(fit[name]) end
  if not has then
    refuse(deeper or 0, "%s should be what %s gives, not %s", what, makers[kind], show(fit))
  end
end

local function check_sound(what, fit)
  check_fit(what, fit, "share", 1)
  if fit.rejected then refuse(0, "%s", fit.rejected) end
end

local function loss_at(fit, share)
  return fit.c + math.exp(fit.k * share + fit.b)
end

-- The loss of the domain at a share of its own.
function law.predict(fit, share)
  check_fit("the fit", fit, "share")
  check_number("the share", share, shares_range)
  return loss_at(fit, share)
end

local function clip(x)
  return math.max(0, math.min(1, x))
end

-- The least share of general data at which the predicted general loss is not above `before`, the loss of the model that training
-- starts from. options: grid (256), round: "down" to the grid, as the reference, or "up" where nothing may be forgotten.
-- Gives { share (in [0, 1]), rounded, exact (may lie outside: above 1 nothing prevents forgetting) }.
function law.critical_share(fit, before, options)
  options = check_options(options, { grid = 256, round = "down" })
  check_sound("the fit", fit)
  check_number("the loss before", before, losses_range)
  local grid, round = options.grid, options.round
  check_count("grid", grid, 1)
  if round ~= "down" and round ~= "up" then error("round is " .. show(round) .. ": it should be 'down' or 'up'", 2) end
  if before <= fit.c then
    error(string.format("no share of general data keeps a loss of %.6g: the law's least is %.6g", before, fit.c), 2)
  end
  local exact = (math.log(before - fit.c) - fit.b) / fit.k
  local share = clip(exact)
  local steps = round == "up" and math.ceil(share * grid) or math.floor(share * grid)
  return { share = share, rounded = steps / grid, exact = exact }
end

-- The share of general data that makes weights.general L_general(share) + weights.target L_target(1 - share) least.
-- Gives { share, value, exact (before it is kept in [0, 1]) }.
function law.optimum(general, target, weights)
  check_sound("the general fit", general)
  check_sound("the target's fit", target)
  if type(weights) ~= "table" then error("weights should be { general = ..., target = ... }, not " .. show(weights), 2) end
  check_number("weights.general", weights.general, positive_range)
  check_number("weights.target", weights.target, positive_range)
  local ratio = math.log(weights.target * target.k / (weights.general * general.k))
  local exact = (target.k + target.b - general.b + ratio) / (general.k + target.k)
  local share = clip(exact)
  local value = weights.general * loss_at(general, share) + weights.target * loss_at(target, 1 - share)
  return { share = share, value = value, exact = exact }
end

-- ---- any number of domains: L(r) = c + k exp(sum_j t_j r_j) --------------------------------------------------------------

local function check_mixture(what, mixture, domains)
  check_numbers(what, mixture, shares_range, 1)
  if #mixture < 2 then refuse(0, "%s should have 2 shares at least, not %d", what, #mixture) end
  if #mixture ~= domains then refuse(0, "%s has %d shares, not %d as the others", what, #mixture, domains) end
  local sum = 0
  for _, share in ipairs(mixture) do sum = sum + share end
  if math.abs(sum - 1) > 1e-6 then refuse(0, "the shares of %s add up to %.9g: they should to 1", what, sum) end
end

-- Parameters of the minimiser: log c, then log k + t_j: the shares add up to 1, so the two cannot be told apart.
local function mixture_residual(mixtures, losses)
  return function(i, parameters, slope)
    local exponent = 0
    for j, share in ipairs(mixtures[i]) do exponent = exponent + parameters[j + 1] * share end
    local floor, term = math.exp(parameters[1]), math.exp(exponent)
    slope[1] = floor
    for j, share in ipairs(mixtures[i]) do slope[j + 1] = term * share end
    return floor + term - losses[i]
  end
end

-- Starts of our own: for some values of c, the plane through log(loss - c).
local function planes(mixtures, losses)
  local least, starts, values = math.min(table.unpack(losses)), {}, 24
  for place = 1, values do
    local c, logs = least * (place - 0.5) / values, {}
    for i = 1, #losses do logs[i] = math.log(losses[i] - c) end
    local plane = curve_fit.regress(mixtures, logs)
    if plane then starts[#starts + 1] = { math.log(c), table.unpack(plane) } end
  end
  return starts
end

local function folded(starts, domains)
  local result = {}
  if type(starts) ~= "table" then refuse(0, "starts should be a list, not %s", show(starts)) end
  for i, start in ipairs(starts) do
    if type(start) ~= "table" or type(start.t) ~= "table" or #start.t ~= domains then
      refuse(0, "starts[%d] should be { log_c = ..., log_k = ..., t = { one number for each of %d domains } }", i, domains)
    end
    check_number(string.format("starts[%d].log_c", i), start.log_c, any_range, 1)
    check_number(string.format("starts[%d].log_k", i), start.log_k, any_range, 1)
    check_numbers(string.format("starts[%d].t", i), start.t, any_range, 1)
    result[i] = { start.log_c }
    for j, t in ipairs(start.t) do result[i][j + 1] = t + start.log_k end
  end
  return result
end

-- log k is the mean, so t adds up to zero; predictions do not depend on that.
local function mixture_fit(result, delta)
  local domains, mean = #result.parameters - 1, 0
  for j = 1, domains do mean = mean + result.parameters[j + 1] / domains end
  local fit = { kind = "mixture", log_c = result.parameters[1], log_k = mean, t = {}, gradient = result.gradient, delta = delta }
  for j = 1, domains do fit.t[j] = result.parameters[j + 1] - mean end
  return fit
end

-- The law of one validation loss over mixtures: lists of shares, one for each domain; as many as domains and 2 more, at least.
-- All parameters are fitted together. options: delta (0.05); starts, a list of { log_c, log_k, t = {...} } in place of our own.
-- Gives { log_c, log_k, t, residuals, gradient, delta }; t and log_k are not unique: compare predictions.
function law.fit_mixtures(mixtures, losses, options)
  options = check_options(options, { delta = 0.05, starts = false })
  if type(mixtures) ~= "table" or type(mixtures[1]) ~= "table" then error("mixtures should be a list of lists of shares", 2) end
  local domains = #mixtures[1]
  for i, mixture in ipairs(mixtures) do check_mixture(string.format("mixtures[%d]", i), mixture, domains) end
  check_numbers("losses", losses, losses_range)
  check_pair("mixtures", mixtures, losses)
  if #mixtures < domains + 2 then
    error(string.format("the law of %d domains wants %d mixtures at least, not %d: train with more", domains, domains + 2,
      #mixtures), 2)
  end
  check_differ(losses)
  local residual = mixture_residual(mixtures, losses)
  local starts = options.starts and folded(options.starts, domains) or planes(mixtures, losses)
  local best = curve_fit.best_of(residual, #losses, starts, options.delta)
  if not best then error("no start leads to a law: mixtures should differ in the share of every domain", 2) end
  local fit = mixture_fit(best, options.delta)
  fit.residuals = {}
  for i = 1, #losses do fit.residuals[i] = residual(i, best.parameters, {}) end
  return fit
end

local function mixture_loss(fit, mixture)
  local exponent = fit.log_k
  for j, share in ipairs(mixture) do exponent = exponent + fit.t[j] * share end
  return math.exp(fit.log_c) + math.exp(exponent)
end

-- The loss of a mixture.
function law.predict_mixture(fit, mixture)
  check_fit("the fit", fit, "mixture")
  check_mixture("the mixture", mixture, #fit.t)
  return mixture_loss(fit, mixture)
end

-- A number in [0, 1), a function of its arguments (finaliser of splitmix64: Steele, Lea, Flood 2014).
local function draw(seed, place)
  local z = seed * 0x9E3779B97F4A7C15 + (place + 1) * 0xD1B54A32D192ED03
  z = (z ~ (z >> 30)) * 0xBF58476D1CE4E5B9
  z = (z ~ (z >> 27)) * 0x94D049BB133111EB
  return ((z ~ (z >> 31)) >> 11) / (1 << 53)
end

local function spaced(first, last, count)
  local values = {}
  for i = 1, count do values[i] = count == 1 and first or first + (last - first) * (i - 1) / (count - 1) end
  return values
end

local function grid_of(what, grid)
  if type(grid) ~= "table" or #grid ~= 3 or math.type(grid[3]) ~= "integer" then
    refuse(0, "%s should be { first, last, count }, not %s", what, show(grid))
  end
  check_numbers(what, grid, any_range, 1)
  return spaced(table.unpack(grid))
end

-- The starts of the published code for fit_mixtures: a grid of log c and log k, for each `draws` times t drawn from (0, 0.1), or
-- from (-1, 0) for the domain `own`. 6,000 as published, too many for a job's limit on instructions: options log_c and log_k
-- ({ first, last, count }), draws and seed make fewer or others.
function law.published_starts(domains, options)
  options = check_options(options, { log_c = { -2, 1.5, 10 }, log_k = { -10, 1, 20 }, draws = 30, own = 0, seed = 0 })
  check_count("domains", domains, 2)
  check_count("draws", options.draws, 1)
  check_count("own", options.own, 0)
  check_count("seed", options.seed, 0)
  local starts = {}
  for _, log_c in ipairs(grid_of("log_c", options.log_c)) do
    for _, log_k in ipairs(grid_of("log_k", options.log_k)) do
      for _ = 1, options.draws do
        local t = {}
        for j = 1, domains do
          local u = draw(options.seed, #starts * domains + j)
          t[j] = j == options.own and -u or 0.1 * u
        end
        starts[#starts + 1] = { log_c = log_c, log_k = log_k, t = t }
      end
    end
  end
  return starts
end

-- ---- steps and sizes: L(S) = c + exp(alpha (log k - log S)), alpha shared by several curves ----------------------------------

-- Parameters: alpha, then log c and log k of each curve. points: { curve, log S, loss }.
local function steps_residual(points)
  return function(i, parameters, slope)
    local point, alpha = points[i], parameters[1]
    local at = 2 * point.curve
    local distance = parameters[at + 1] - point.log_size
    local floor, term = math.exp(parameters[at]), math.exp(alpha * distance)
    slope[1], slope[at], slope[at + 1] = term * distance, floor, term * alpha
    return floor + term - point.loss
  end
end

local function check_curves(curves)
  if type(curves) ~= "table" or type(curves[1]) ~= "table" then
    refuse(0, "curves should be a list of { steps = {...}, losses = {...} }")
  end
  for i, curve in ipairs(curves) do
    if type(curve) ~= "table" or not curve.steps or not curve.losses then
      refuse(0, "curves[%d] should be { steps = {...}, losses = {...} }", i)
    end
    check_numbers(string.format("curves[%d].steps", i), curve.steps, positive_range, 1)
    check_numbers(string.format("curves[%d].losses", i), curve.losses, losses_range, 1)
    check_pair("steps", curve.steps, curve.losses, 1)
    if distinct(curve.losses) < 2 then refuse(0, "the losses of curves[%d] do not fall with its steps", i) end
  end
end

-- The points that are fitted and those, the last of each curve, that choose among starts.
local function cut(curves, hold_out)
  local fitted, held = {}, {}
  for c, curve in ipairs(curves) do
    local count = #curve.steps - hold_out
    if distinct(table.move(curve.steps, 1, math.max(count, 0), 1, {})) < 3 then
      refuse(0, "curves[%d] has %d points of which %d are held out: 3 different numbers of steps at least should be fitted", c,
        #curve.steps, hold_out)
    end
    for i = 1, #curve.steps do
      local point = { curve = c, log_size = math.log(curve.steps[i]), loss = curve.losses[i] }
      table.insert(i <= count and fitted or held, point)
    end
  end
  return fitted, held
end

-- A start of our own: for each curve the straight line of log(loss - c) over log S for the best c; alpha is the mean.
local function straight_start(curves, hold_out)
  local start, sum = { 0 }, 0
  local lines = {}
  for i, curve in ipairs(curves) do
    local logs, losses = {}, {}
    for j = 1, #curve.steps - hold_out do logs[j], losses[j] = math.log(curve.steps[j]), curve.losses[j] end
    lines[i] = curve_fit.scan(logs, losses)
    if not lines[i] or lines[i].slope >= 0 then refuse(0, "the losses of curves[%d] do not fall with its steps", i) end
    sum = sum - lines[i].slope / #curves
  end
  start[1] = sum
  for _, line in ipairs(lines) do
    start[#start + 1] = math.log(math.max(line.c, 1e-6))
    start[#start + 1] = -line.intercept / line.slope
  end
  return start
end

local function steps_starts(starts, curves)
  local result = {}
  if type(starts) ~= "table" then refuse(0, "starts should be a list, not %s", show(starts)) end
  for i, start in ipairs(starts) do
    if type(start) ~= "table" then refuse(0, "starts[%d] should be { alpha = ..., log_k = ..., log_c = ... }", i) end
    check_number(string.format("starts[%d].alpha", i), start.alpha, any_range, 1)
    check_number(string.format("starts[%d].log_k", i), start.log_k, any_range, 1)
    check_number(string.format("starts[%d].log_c", i), start.log_c or 0, any_range, 1)
    result[i] = { start.alpha }
    for _ = 1, #curves do
      table.insert(result[i], start.log_c or 0)
      table.insert(result[i], start.log_k)
    end
  end
  return result
end

local function steps_fit(result, fitted, residual, delta)
  local fit = { kind = "steps", alpha = result.parameters[1], curves = {}, gradient = result.gradient, delta = delta }
  for i = 2, #result.parameters, 2 do
    table.insert(fit.curves, { log_c = result.parameters[i], log_k = result.parameters[i + 1], residuals = {} })
  end
  for i, point in ipairs(fitted) do table.insert(fit.curves[point.curve].residuals, residual(i, result.parameters, {})) end
  return fit
end

-- The law of steps, or of sizes: curves { steps = {...}, losses = {...} } that share alpha (validation losses of one mixture; all
-- there is for sizes). options: delta (0.05; published for sizes: 0.08); starts, a list of { alpha, log_k, log_c } in place of our
-- own; hold_out: the last points of each curve, not fitted, choose among starts (published: 5; default 0: the objective chooses).
-- Gives { alpha, curves = { { log_c, log_k, residuals }, ... }, gradient, delta }.
function law.fit_steps(curves, options)
  options = check_options(options, { delta = 0.05, starts = false, hold_out = 0 })
  check_curves(curves)
  local hold_out, delta = options.hold_out, options.delta
  check_count("hold_out", hold_out, 0)
  local fitted, held = cut(curves, hold_out)
  local starts = options.starts and steps_starts(options.starts, curves) or { straight_start(curves, hold_out) }
  local residual, ahead = steps_residual(fitted), steps_residual(held)
  local function judge(result)
    local sum = 0
    for i = 1, #held do sum = sum + curve_fit.huber(ahead(i, result.parameters, {}), delta) end
    return sum
  end
  local best = curve_fit.best_of(residual, #fitted, starts, delta, hold_out > 0 and judge or nil)
  if not best or best.parameters[1] <= 0 then error("no start leads to a law of steps: losses should fall with the steps", 2) end
  return steps_fit(best, fitted, residual, delta)
end

-- The loss of curve number `curve` (1) at a number of steps.
function law.predict_steps(fit, steps, curve)
  check_fit("the fit", fit, "steps")
  check_number("steps", steps, positive_range)
  local of = fit.curves[curve or 1]
  if not of then error(string.format("there is no curve %s: the fit has %d", tostring(curve), #fit.curves), 2) end
  return math.exp(of.log_c) + math.exp(fit.alpha * (of.log_k - math.log(steps)))
end

-- ---- search ----------------------------------------------------------------------------------------------------------------

-- The number of domains of all fits.
local function check_fits(fits)
  if type(fits) ~= "table" or #fits == 0 then refuse(0, "fits should be a list of what fit_mixtures gives, not %s", show(fits)) end
  for i, fit in ipairs(fits) do
    check_fit(string.format("fits[%d]", i), fit, "mixture", 1)
    if #fit.t ~= #fits[1].t then refuse(0, "fits[%d] is of %d domains, fits[1] of %d", i, #fit.t, #fits[1].t) end
  end
  return #fits[1].t
end

-- Shares of one domain: its largest, in 1/parts, and halves of it, below 1/parts nothing.
local function share_choices(most, parts)
  local choices, share = {}, math.floor(most * parts) / parts
  while share >= 1 / parts do
    choices[#choices + 1] = share
    share = share / 2
  end
  choices[#choices + 1] = 0
  return choices
end

-- Calls judge(mixture) for every mixture of the grid: choices of all domains but the last, which takes what is left.
local function each_mixture(available, parts, judge)
  local mixture, rounding = {}, 1e-12
  local function fill(domain, left)
    if domain == #available then
      mixture[domain] = math.max(left, 0)
      if left <= available[domain] + rounding then judge(mixture) end
      return
    end
    for _, share in ipairs(share_choices(available[domain], parts)) do
      if share <= left + rounding then
        mixture[domain] = share
        fill(domain + 1, left - share)
      end
    end
  end
  fill(1, 1)
end

local function best_mixture(fits, available, weights, parts)
  local best = { tried = 0 }
  each_mixture(available, parts, function(mixture)
    local value, losses = 0, {}
    for i, fit in ipairs(fits) do
      losses[i] = mixture_loss(fit, mixture)
      value = value + weights[i] * losses[i]
    end
    best.tried = best.tried + 1
    if not best.value or value < best.value then
      best.mixture, best.value, best.losses = table.move(mixture, 1, #mixture, 1, {}), value, losses
    end
  end)
  return best
end

-- The mixture with the least weighted sum of losses. fits: one of fit_mixtures for each validation loss. options: available, the
-- largest share of each domain that its data allows (1 each); weights of the losses (equal, adding up to 1); parts of the grid (16).
-- Gives { mixture, value, losses, tried }; of equals the first.
function law.search(fits, options)
  options = check_options(options, { available = false, weights = false, parts = 16 })
  local domains, parts = check_fits(fits), options.parts
  local available, weights = options.available or spaced(1, 1, domains), options.weights or spaced(1 / #fits, 1 / #fits, #fits)
  check_numbers("available", available, shares_range)
  check_numbers("weights", weights, weights_range)
  check_count("parts", parts, 1)
  if #available ~= domains or #weights ~= #fits then
    error(string.format("%d shares are available and %d weights given for %d domains and %d losses", #available, #weights,
      domains, #fits), 2)
  end
  local best = best_mixture(fits, available, weights, parts)
  if not best.value then
    error("no mixture of the grid is available: the last domain cannot take what the others leave; more data, or another order", 2)
  end
  return best
end

return law
