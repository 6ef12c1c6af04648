-- Values as text: JSON for the engine, Lua for the resolved job, and short forms for messages.
local text = {}

-- Keys of a table in a fixed order: numbers first, then strings.
function text.sorted_keys(t)
  local keys = {}
  for key in next, t do keys[#keys + 1] = key end
  table.sort(keys, function(a, b)
    local ka, kb = type(a), type(b)
    if ka ~= kb then return ka < kb end
    if ka == "number" or ka == "string" then return a < b end
    return false
  end)
  return keys
end

-- True for a table whose keys are 1 .. n, n at least 1.
function text.is_list(t)
  local count = 0
  for _ in next, t do count = count + 1 end
  return count > 0 and count == #t
end

-- Shortest text that reads back equal.
function text.number(x)
  local whole = math.tointeger(x)
  if whole and math.abs(whole) <= 2 ^ 53 then return string.format("%d", whole) end
  for digits = 15, 17 do
    local s = string.format("%." .. digits .. "g", x)
    if tonumber(s) == x then return s end
  end
end

-- A number that JSON cannot carry too.
function text.any_number(x)
  if text.is_finite(x) then return text.number(x) end
  return x ~= x and "nan" or x > 0 and "inf" or "-inf"
end

function text.is_finite(x)
  return x == x and x ~= math.huge and x ~= -math.huge
end

-- A value as messages show it.
function text.show(value)
  local kind = type(value)
  if kind == "string" then
    if #value > 60 then value = value:sub(1, 57) .. "..." end
    return "the string '" .. value .. "'"
  elseif kind == "number" then
    return "the number " .. text.any_number(value)
  elseif kind == "boolean" then
    return tostring(value)
  elseif kind == "nil" then
    return "nothing"
  end
  return "a " .. kind
end

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function json_string(s)
  return '"' .. s:gsub('[%c"\\\127]', function(c)
    return escapes[c] or string.format("\\u%04x", c:byte())
  end) .. '"'
end

-- An empty table is an object unless it is marked as a list.
local List = {}
function text.list(t)
  return setmetatable(t or {}, List)
end

local function encode(value, where, out, seen)
  local kind = type(value)
  if kind == "number" then
    if not text.is_finite(value) then error(where .. ": the number " .. text.any_number(value) .. " is not finite", 0) end
    out[#out + 1] = text.number(value)
  elseif kind == "string" then
    if not utf8.len(value) then error(where .. ": a string is not valid UTF-8", 0) end
    if value:find("\0", 1, true) then error(where .. ": a string holds a zero byte", 0) end
    out[#out + 1] = json_string(value)
  elseif kind == "boolean" then
    out[#out + 1] = tostring(value)
  elseif kind ~= "table" then
    error(where .. ": a " .. kind .. " cannot be kept: use numbers, strings, true, false and tables of them", 0)
  else
    if seen[value] then error(where .. ": a table holds itself", 0) end
    seen[value] = true
    if getmetatable(value) == List or text.is_list(value) then
      out[#out + 1] = "["
      for i, element in ipairs(value) do
        if i > 1 then out[#out + 1] = "," end
        encode(element, where .. "[" .. i .. "]", out, seen)
      end
      out[#out + 1] = "]"
    else
      out[#out + 1] = "{"
      for i, key in ipairs(text.sorted_keys(value)) do
        if type(key) ~= "string" then
          error(where .. ": a table mixes names and places, or skips places", 0)
        end
        if i > 1 then out[#out + 1] = "," end
        encode(key, where, out, seen)
        out[#out + 1] = ":"
        encode(value[key], where .. "." .. key, out, seen)
      end
      out[#out + 1] = "}"
    end
    seen[value] = nil
  end
end

-- JSON text, keys sorted. Raises "where: why" on what JSON cannot carry.
function text.encode(value, where)
  local out = {}
  encode(value, where, out, {})
  return table.concat(out)
end

local reserved = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return then true until
  while]]):gmatch("%a+") do
  reserved[word] = true
end

local function lua_string(s)
  return (string.format("%q", s):gsub("\\\n", "\\n"))
end

-- Lua text of a key, followed by " = ".
function text.lua_key(key)
  if type(key) == "number" then return "[" .. text.number(key) .. "] = " end
  if key:find("^[%a_][%w_]*$") and not reserved[key] then return key .. " = " end
  return "[" .. lua_string(key) .. "] = "
end

-- Lua text in place of a value, for text.lua.
local Raw = {}
function text.raw(s)
  return setmetatable({ s }, Raw)
end

-- A constructor's call, for text.lua: text.call("copse.stage", { epochs = 3 }).
local Call = {}
function text.call(name, fields)
  return setmetatable({ name, fields }, Call)
end

local lua

local function lua_table(value, indent)
  local inner = indent .. "  "
  local parts, short = {}, true
  for i, element in ipairs(value) do
    parts[i] = lua(element, inner)
  end
  for _, key in ipairs(text.sorted_keys(value)) do
    if not (math.type(key) == "integer" and key >= 1 and key <= #value) then
      parts[#parts + 1] = text.lua_key(key) .. lua(value[key], inner)
    end
  end
  local total = 0
  for _, part in ipairs(parts) do
    total = total + #part + 2
    if part:find("\n", 1, true) then short = false end
  end
  if #parts == 0 then return "{}" end
  if short and total <= 90 then return "{ " .. table.concat(parts, ", ") .. " }" end
  return "{\n" .. inner .. table.concat(parts, ",\n" .. inner) .. ",\n" .. indent .. "}"
end

function lua(value, indent)
  if type(value) == "table" then
    if getmetatable(value) == Raw then return value[1] end
    if getmetatable(value) == Call then return value[1] .. " " .. lua_table(value[2], indent) end
    return lua_table(value, indent)
  elseif type(value) == "string" then
    return lua_string(value)
  elseif type(value) == "number" then
    if value == math.huge then return "math.huge" end
    if value == -math.huge then return "-math.huge" end
    if value ~= value then return "(0 / 0)" end
    return text.number(value)
  end
  return tostring(value)
end

-- Lua text of a value: data, text.call or text.raw.
function text.lua(value)
  return lua(value, "")
end

return text
