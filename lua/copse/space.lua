-- The points of a sweep's space: which values the trials take. A point is a pure function of (search.seed, trial, parameter's
-- name), so that another parameter or more trials move nothing that was there.
local check = require "copse.check"
local node = require "copse.node"
local text = require "copse.text"

local space = { MOST_TRIALS = 10000 }

-- ---- axes -------------------------------------------------------------------------------------------------------------------

-- Draws of a distribution are rounded to what a person reads: the digest of a job must not depend on a machine's last bits.
local function rounded(value, low, high)
  return math.min(math.max(tonumber(string.format("%.6g", value)), low), high)
end

local draws = {
  uniform = function(axis, u) return rounded(axis.low + (axis.high - axis.low) * u, axis.low, axis.high) end,
  log_uniform = function(axis, u)
    return rounded(math.exp(math.log(axis.low) + (math.log(axis.high) - math.log(axis.low)) * u), axis.low, axis.high)
  end,
  integer = function(axis, u) return axis.low + math.floor(u * (axis.high - axis.low + 1)) end,
  choice = function(axis, u) return axis.list[1 + math.floor(u * #axis.list)] end,
}

local function choice(place, list)
  local result, seen = {}, {}
  for i, value in ipairs(list) do
    local at = check.child(place, i)
    local kind = type(value)
    if kind ~= "number" and kind ~= "string" and kind ~= "boolean" then
      check.report(at, "should be a number, a string, true or false, not %s: let job(p) make of it what is wanted",
        check.seen(value))
    elseif kind == "number" and not text.is_finite(value) then
      check.report(at, "should be a finite number, not %s", text.any_number(value))
    elseif seen[value] then
      check.report(at, "%s is there already, at [%d]", text.show(value), seen[value])
    else
      seen[value] = i
      result[#result + 1] = value
    end
  end
  if #result == 0 and next(list) == nil then check.report(place, "has no value: write  { a, b }") end
  return { kind = "choice", list = result }
end

-- One parameter: { kind, list } or { kind, low, high }, nil where it is wrong (reported).
local function axis(place, value)
  local origin = node.origin(value)
  local kind = origin and origin.kind
  if kind == "uniform" or kind == "log_uniform" or kind == "integer" then
    local low, high = value[1], value[2]
    if kind == "integer" then low, high = math.tointeger(low), math.tointeger(high) end
    return { kind = kind, low = low, high = high }
  elseif kind == "choice" or check.is_plain(value) and (text.is_list(value) or next(value) == nil) then
    return choice(place, value)
  end
  check.report(place, "should be a list of values or copse.uniform, copse.log_uniform, copse.integer or copse.choice, not %s",
    check.is_plain(value) and "a table with names" or check.seen(value))
end

-- Axes by name, and the names in order.
function space.axes(value, place)
  local axes = {}
  value = check.table(value, place, "a table such as { lr = copse.log_uniform(1e-5, 1e-3), method = { \"clip\", \"sclip\" } }")
  for _, name in ipairs(text.sorted_keys(value or {})) do
    local at = check.child(place, name)
    if type(name) ~= "string" or not name:find("^[%a_][%w_]*$") then
      check.report(at, "a parameter needs a name: write  lr = { ... }")
    elseif name == "seed" then
      check.report(at, "p.seed is the sweep's own: list the seeds in  seeds = { 1, 2, 3 }")
    else
      axes[name] = axis(at, value[name])
    end
  end
  if value and next(value) == nil then check.report(place, "is empty: write  space = { lr = { 1e-4, 1e-3 } }") end
  return axes, text.sorted_keys(axes)
end

-- ---- points -----------------------------------------------------------------------------------------------------------------

-- Number of points of a grid, or nil and the name of a parameter that has no list.
function space.size(axes, names)
  local count = 1
  for _, name in ipairs(names) do
    local one = axes[name]
    if one.kind == "choice" then
      count = count * #one.list
    elseif one.kind == "integer" then
      count = count * (one.high - one.low + 1)
    else
      return nil, name
    end
  end
  return count
end

-- Point `number` (from 1) of the grid: the last name changes fastest.
function space.grid_point(axes, names, number)
  local values, rest = {}, number - 1
  for i = #names, 1, -1 do
    local one = axes[names[i]]
    local is_list = one.kind == "choice"
    local count = is_list and #one.list or one.high - one.low + 1
    local index = rest % count
    rest = rest // count
    if is_list then values[names[i]] = one.list[index + 1] else values[names[i]] = one.low + index end
  end
  return values
end

function space.random_point(axes, names, seed, number)
  local values = {}
  for _, name in ipairs(names) do
    values[name] = draws[axes[name].kind](axes[name], host.draw(seed, number, name))
  end
  return values
end

return space
