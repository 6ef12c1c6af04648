-- The module that jobs see: require "copse". Constructors only; everything is checked when the job is whole (resolve.lua).
local node = require "copse.node"
local text = require "copse.text"

local copse = {}

local constructors = {
  "job", "sweep", "model", "tower", "tokenizer", "shards", "mixture", "stage", "adamw", "sgd", "lars", "cosine", "constant",
  "zero_shot", "retrieval", "validation_loss", "knn", "linear_probe", "few_shot", "checkpoint", "early_stop",
  "grid", "random", "halving",
}

local function fail(file, line, message)
  error(string.format("@%d:%d: %s", file, line, message), 0)
end

local function check_fields(fields, written, file, line)
  if type(fields) ~= "table" then
    fail(file, line, string.format("%s takes a table, not %s: write  %s { ... }", written, text.show(fields), written))
  end
  if node.origin(fields) then
    fail(file, line, string.format("%s is given %s: write  %s { ... }", written, node.written(node.origin(fields)), written))
  end
end

for _, kind in ipairs(constructors) do
  copse[kind] = function(fields)
    local file, line = host.where()
    check_fields(fields, "copse." .. kind, file, line)
    return node.create(kind, kind, fields, file, line)
  end
end

-- ---- distributions of a sweep's parameters ---------------------------------------------------------------------------------

-- copse.uniform(0, 1), copse.log_uniform(1e-5, 1e-3), copse.integer(1, 8)
local function range(kind, wanted, is_right)
  copse[kind] = function(low, high)
    local file, line = host.where()
    local numbers = type(low) == "number" and type(high) == "number" and text.is_finite(low) and text.is_finite(high)
    if not (numbers and low < high and is_right(low, high)) then
      fail(file, line, string.format("copse.%s takes %s, not %s and %s", kind, wanted, text.show(low), text.show(high)))
    end
    return node.create(kind, kind, { low, high }, file, line)
  end
end

range("uniform", "two numbers, the smaller first", function() return true end)
range("log_uniform", "two numbers above 0, the smaller first", function(low) return low > 0 end)
range("integer", "two whole numbers, the smaller first", function(low, high)
  return math.tointeger(low) and math.tointeger(high) and high - low < 2 ^ 31
end)

-- copse.choice { "clip", "sclip" }: the same as the list alone.
function copse.choice(list)
  local file, line = host.where()
  check_fields(list, "copse.choice", file, line)
  return node.create("choice", "choice", list, file, line)
end

-- copse.objective.load("path.so", "name") { ... }: a user's own plugin.
local function load_objective(path, name)
  local file, line = host.where()
  if type(path) ~= "string" or type(name) ~= "string" then
    fail(file, line, 'copse.objective.load takes a path and a name: write  copse.objective.load("path.so", "name") { ... }')
  end
  return function(fields)
    check_fields(fields, "copse.objective.load(...)", file, line)
    return node.create("objective", "load", fields, file, line, { name = name, plugin = path })
  end
end

-- copse.objective.clip, copse.objective.agriclip.dino: any name will do here, resolve.lua knows which are built.
local function objective(name)
  return setmetatable(node.mark({}, "uncalled", name == "" and "" or "." .. name), {
    __index = function(_, key)
      if name == "" and key == "load" then return load_objective end
      return objective(name == "" and tostring(key) or name .. "." .. tostring(key))
    end,
    __newindex = function() error("copse.objective cannot be changed", 2) end,
    __call = function(_, fields)
      local file, line = host.where()
      if name == "" then fail(file, line, "copse.objective is no objective: write  copse.objective.clip { ... }") end
      check_fields(fields, "copse.objective." .. name, file, line)
      return node.create("objective", name:match("[^.]+$"), fields, file, line, { name = name })
    end,
    __metatable = false,
  })
end
copse.objective = objective("")

-- ---- parameters of a job -----------------------------------------------------------------------------------------------

local declared = {} -- name -> true, over all calls of copse.arg

local function from_command_line(name, given, default)
  local kind = type(default)
  if kind == "number" then
    local value = tonumber(given)
    if value and text.is_finite(value) then return value end
  elseif kind == "boolean" then
    if given == "true" or given == "false" then return given == "true" end
  else
    return given
  end
  error(string.format("--set %s=%s: should be %s, as in the job (%s = %s)", name, given,
    kind == "number" and "a number" or "true or false", name, tostring(default)), 0)
end

-- copse.arg { data = "crops", fraction = 0.1 }: the same table with what --set says. The default gives the type.
function copse.arg(defaults)
  local file, line = host.where()
  check_fields(defaults, "copse.arg", file, line)
  local values = {}
  for _, name in ipairs(text.sorted_keys(defaults)) do
    local default = defaults[name]
    local kind = type(default)
    if type(name) ~= "string" or (kind ~= "number" and kind ~= "string" and kind ~= "boolean") then
      fail(file, line, string.format("copse.arg: '%s' should have a number, a string, true or false as its default, not %s",
        tostring(name), text.show(default)))
    end
    values[name], declared[name] = default, true
    for _, set in ipairs(host.sets) do
      if set[1] == name then values[name] = from_command_line(name, set[2], default) end
    end
  end
  return setmetatable(node.mark(values, "arg"), {
    __index = function(_, name)
      error(string.format("copse.arg declares no '%s': there are %s", tostring(name),
        table.concat(text.sorted_keys(values), ", ")), 2)
    end,
    __metatable = false,
  })
end

-- Messages for --set of what no copse.arg declares.
local function unused_sets()
  local messages, names = {}, text.sorted_keys(declared)
  for _, set in ipairs(host.sets) do
    if not declared[set[1]] then
      local near = host.nearest(set[1], names)
      messages[#messages + 1] = string.format("--set %s=%s: the job declares no parameter '%s'%s", set[1], set[2], set[1],
        near and " (did you mean '" .. near .. "'?)" or #names > 0 and ": there are " .. table.concat(names, ", ")
        or ": give it one with  local arg = copse.arg { " .. set[1] .. " = ... }")
    end
  end
  return messages
end

local sealed = setmetatable(node.mark({}, "module"), {
  __index = function(_, name)
    local value = copse[name]
    if value ~= nil then return value end
    local near = type(name) == "string" and host.nearest(name, text.sorted_keys(copse))
    error(string.format("copse has no '%s'%s", tostring(name), near and " (did you mean '" .. near .. "'?)"
      or ": there are " .. table.concat(text.sorted_keys(copse), ", ")), 2)
  end,
  __newindex = function(_, name) error(string.format("'copse.%s' cannot be changed", tostring(name)), 2) end,
  __metatable = false,
})

return { module = sealed, unused_sets = unused_sets }
