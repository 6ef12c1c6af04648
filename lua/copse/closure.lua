-- A function of a job as Lua text that stands by itself: its source, with the values of the locals that it uses.
local environment = require "copse.environment"
local node = require "copse.node"
local source = require "copse.source"
local text = require "copse.text"

local closure = {}

local function fail(message, ...)
  error({ why = string.format(message, ...) }, 0)
end

local expression

-- A value as text.lua takes it, functions as their text.
local function plain(value, name, running)
  local kind = type(value)
  if environment.name_of(value) then return text.raw(environment.name_of(value)) end
  if kind == "function" then
    return text.raw(expression(value, { file = 0 }, {}, running))
  elseif kind == "table" then
    local origin = node.origin(value)
    if origin and origin.kind == "parameters" then return origin.read_all() end
    if origin and origin.kind ~= "arg" then fail("it uses '%s', a table of Copse", name) end
    if not origin and getmetatable(value) ~= nil then fail("it uses '%s', a table with a metatable", name) end
    if running[value] then fail("it uses '%s', a table that holds itself", name) end
    running[value] = true
    local copy = {}
    for key, element in next, value do
      if type(key) ~= "string" and type(key) ~= "number" then fail("it uses '%s', which has a %s as a key", name, type(key)) end
      copy[key] = plain(element, name, running)
    end
    running[value] = nil
    return copy
  elseif kind == "nil" or kind == "number" or kind == "string" or kind == "boolean" then
    return value
  end
  fail("it uses '%s', a %s", name, kind)
end

function expression(f, origin, keys, running)
  if running[f] then fail("it calls itself through a local") end
  local info = host.function_info(f)
  if info.file == 0 then fail("it uses a function of Copse") end
  local body = source.function_text(info, origin, keys)
  if not body then
    fail("several functions stand on line %d of %s: give each its own line", info.first, (host.file(info.file)))
  end
  running[f] = true
  local lines, seen = {}, {}
  for _, upvalue in ipairs(info.upvalues) do
    local name, value = upvalue[1], upvalue[2]
    if name ~= "_ENV" then
      if seen[name] then fail("it uses two locals named '%s'", name) end
      seen[name] = true
      lines[#lines + 1] = "local " .. name .. " = " .. text.lua(plain(value, name, running)) .. "\n"
    end
  end
  running[f] = nil
  if #lines == 0 then return body end
  return "(function()\n" .. table.concat(lines) .. "return " .. body .. "\nend)()"
end

-- Text of an expression that gives an equal function, or nil and why not. `origin` and `keys`: the key whose value it is.
function closure.text(f, origin, keys)
  local good, result = pcall(expression, f, origin, keys, {})
  if good then return result end
  if type(result) ~= "table" then error(result, 0) end
  return nil, result.why
end

return closure
