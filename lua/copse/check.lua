-- Mistakes, collected; and values checked against the option rows that C modules and plugins own.
local closure = require "copse.closure"
local node = require "copse.node"
local source = require "copse.source"
local text = require "copse.text"

local check = { functions = {} }

local MOST_ERRORS = 30
local mistakes = {}

-- ---- places --------------------------------------------------------------------------------------------------------------
-- { path = "stages[1].optimizer", origin = of the constructor above, keys = from there, whole = what path "" is called, "job" }

function check.child(place, key)
  local path = type(key) == "number" and place.path .. "[" .. key .. "]" or place.path == "" and key or place.path .. "." .. key
  local keys = table.move(place.keys, 1, #place.keys, 1, {})
  keys[#keys + 1] = key
  return { path = path, origin = place.origin, keys = keys, whole = place.whole }
end

-- The place of a constructor's table.
function check.enter(place, origin)
  return { path = place.path, origin = origin, keys = {} }
end

function check.report(place, message, ...)
  local line = source.line(place.origin, place.keys)
  local name = host.file(place.origin.file) or host.path
  mistakes[#mistakes + 1] = {
    file = place.origin.file, line = line, order = #mistakes,
    text = string.format("%s:%d: %s: %s", name, line, place.path == "" and (place.whole or "job") or place.path,
      string.format(message, ...)),
  }
end

-- Forgets everything of the job before, for the next one of a sweep.
function check.begin()
  check.functions, mistakes = {}, {}
end

function check.any()
  return #mistakes > 0
end

-- All mistakes in the order of files and lines, nil if there are none.
function check.mistakes()
  if #mistakes == 0 then return nil end
  table.sort(mistakes, function(a, b)
    if a.file ~= b.file then return a.file < b.file end
    if a.line ~= b.line then return a.line < b.line end
    return a.order < b.order
  end)
  local lines = {}
  for i = 1, math.min(#mistakes, MOST_ERRORS) do lines[i] = mistakes[i].text end
  if #mistakes > MOST_ERRORS then lines[#lines + 1] = string.format("... and %d more", #mistakes - MOST_ERRORS) end
  return table.concat(lines, "\n")
end

function check.hint(name, names)
  local near = type(name) == "string" and host.nearest(name, names)
  return near and " (did you mean '" .. near .. "'?)" or ""
end

-- ---- paths ---------------------------------------------------------------------------------------------------------------

-- Relative paths start at the job's folder, which is absolute and free of links, so ".." may be cut from its end.
function check.absolute(path)
  if path:sub(1, 1) == "/" then return path end
  local folder = host.folder
  while true do
    if path:sub(1, 3) == "../" then
      folder, path = folder:match("^(.*)/[^/]*$") or "", path:sub(4)
    elseif path:sub(1, 2) == "./" then
      path = path:sub(3)
    else
      return (folder == "/" and "" or folder) .. "/" .. path
    end
  end
end

-- A table that holds what it shows: no constructor's, nothing behind it.
function check.is_plain(value)
  return type(value) == "table" and not node.origin(value) and getmetatable(value) == nil
end

-- What a value is, where a plain table was wanted.
function check.seen(value)
  local origin = node.origin(value)
  if origin then return node.written(origin) end
  return type(value) == "table" and getmetatable(value) ~= nil and "a table with a metatable" or text.show(value)
end

-- ---- values by kind of row -------------------------------------------------------------------------------------------------

local function wanted_range(row)
  local low, high = row.minimum, row.maximum
  local show = text.number
  if high == math.huge or high >= 1e9 then return "at least " .. show(low) end
  if low == -math.huge or low <= -1e9 then return "at most " .. show(high) end
  if row.kind ~= "integer" and low > 0 and low < 1e-300 then return "above 0, at most " .. show(high) end
  return "between " .. show(low) .. " and " .. show(high)
end

local function number(place, value, row)
  if type(value) ~= "number" then
    return check.report(place, "should be a number, not %s", text.show(value))
  elseif not text.is_finite(value) then
    return check.report(place, "should be a finite number, not %s", text.any_number(value))
  elseif row.minimum and (value < row.minimum or value > row.maximum) then
    return check.report(place, "should be %s, not %s", wanted_range(row), text.number(value))
  end
  return value
end

local function integer(place, value, row)
  if type(value) == "number" and text.is_finite(value) and not math.tointeger(value) then
    return check.report(place, "should be a whole number, not %s", text.number(value))
  elseif type(value) ~= "number" then
    return check.report(place, "should be a whole number, not %s", text.show(value))
  end
  value = number(place, value, row)
  return value and math.tointeger(value)
end

-- By place, or by name: then what is not named is 0.
local function list_of_numbers(place, value, row, named)
  local result, good = text.list(), true
  local count = named and #row.choices or #value
  for i = 1, count do
    local key = named and row.choices[i] or i
    local element = 0
    if value[key] ~= nil then element = number(check.child(place, key), value[key], row) end
    result[i], good = element, good and element ~= nil
  end
  return good and result or nil
end

local function numbers(place, value, row)
  if type(value) == "number" and row.length <= 1 then value = { value } end
  if not check.is_plain(value) then
    return check.report(place, "should be a list of numbers such as { 1, 2 }, not %s", check.seen(value))
  end
  local named = row.choices and next(value) ~= nil and not text.is_list(value)
  for _, key in ipairs(text.sorted_keys(value)) do
    local known = math.type(key) == "integer" and key >= 1 and key <= #value
    for _, choice in ipairs(named and row.choices or {}) do known = known or key == choice end
    if not known then
      return check.report(check.child(place, tostring(key)), "unknown name '%s'%s", tostring(key),
        check.hint(key, row.choices or {}))
    end
  end
  if not named and row.length > 0 and #value ~= row.length then
    return check.report(place, "should have %d numbers, not %d", row.length, #value)
  end
  return list_of_numbers(place, value, row, named)
end

local PROBE_TOTAL = 1000

-- A function of the step: kept by the path of its key.
function check.keep_function(place, f)
  local written, why = closure.text(f, place.origin, place.keys)
  if not written then
    return check.report(place, "this function cannot be written into the resolved job: %s", why)
  end
  check.functions[place.path] = f
  return { ["function"] = place.path, source = written }
end

-- A message of Lua with the names of files in place of their numbers.
local function with_names(message)
  return (tostring(message):gsub("@(%d+):", function(number)
    return (host.file(tonumber(number)) or "") .. ":"
  end))
end

local function schedule(place, value, row)
  if type(value) == "table" then return numbers(place, value, row) end
  if type(value) ~= "function" then
    if type(value) == "number" then return number(place, value, row) end
    return check.report(place, "should be a number or a function of (step, total), not %s", text.show(value))
  end
  local good, first = pcall(value, 0, PROBE_TOTAL)
  if not good then
    return check.report(place, "the function fails at step 0 of %d: %s", PROBE_TOTAL, with_names(first))
  elseif type(first) ~= "number" then
    return check.report(place, "the function gives %s at step 0 of %d: it should give a number", text.show(first), PROBE_TOTAL)
  end
  return check.keep_function(place, value)
end

local function choice(place, value, row)
  for _, allowed in ipairs(row.choices) do
    if value == allowed then return value end
  end
  return check.report(place, "should be one of '%s', not %s%s", table.concat(row.choices, "', '"), text.show(value),
    check.hint(value, row.choices))
end

function check.text(place, value)
  if type(value) ~= "string" then return check.report(place, "should be a string, not %s", text.show(value)) end
  if value == "" then return check.report(place, "should not be empty") end
  if not utf8.len(value) or value:find("\0", 1, true) then return check.report(place, "should be UTF-8 text") end
  return value
end

local function bool(place, value)
  if type(value) ~= "boolean" then return check.report(place, "should be true or false, not %s", text.show(value)) end
  return value
end

local function lines_of(place, path)
  local content, why = host.read_file(path)
  if not content then return check.report(place, "%s", why) end
  if not utf8.len(content) then return check.report(place, "file %s is not UTF-8 text", path) end
  content = content:gsub("^\u{FEFF}", ""):gsub("\r\n?", "\n"):gsub("\n$", "")
  if content:match("^%s*$") then return check.report(place, "file %s has no line of text", path) end
  local list = text.list()
  for line in (content .. "\n"):gmatch("(.-)\n") do
    list[#list + 1] = line:match("^%s*(.-)%s*$")
    if list[#list] == "" then
      return check.report(place, "file %s: line %d is empty; every line is an entry: remove it", path, #list)
    end
  end
  return list
end

-- A file of lines, or what the resolved job holds of one: { path = ..., lines = { ... } }.
local function lines(place, value)
  if type(value) == "string" then
    local path = check.absolute(value)
    local list = lines_of(place, path)
    return list and { path = path, lines = list }
  elseif not check.is_plain(value) then
    return check.report(place, "should be the path of a text file, not %s", check.seen(value))
  end
  local list = check.strings(check.child(place, "lines"), value.lines or value)
  return list and { path = type(value.path) == "string" and value.path or nil, lines = list }
end

-- A list of strings; a lone string is a list of one.
function check.strings(place, value)
  if type(value) == "string" then value = { value } end
  if not check.is_plain(value) or not (text.is_list(value) or next(value) == nil) then
    return check.report(place, "should be a list of strings, not %s", check.seen(value))
  end
  local result = text.list()
  for i, element in ipairs(value) do
    result[#result + 1] = check.text(check.child(place, i), element)
  end
  return #result == #value and result or nil
end

local readers = {
  number = number, integer = integer, numbers = numbers, schedule = schedule, choice = choice, string = check.text, bool = bool,
  lines = lines, tower = check.text, stream = check.text,
}

-- ---- tables of rows --------------------------------------------------------------------------------------------------------

local function default_list(written)
  local result = text.list()
  for element in written:gmatch("[^{},%s=]+") do
    if tonumber(element) then result[#result + 1] = tonumber(element) end
  end
  return result
end

-- The value that a row's default text stands for, nil if it has none.
local function default_of(row)
  local written = row.default
  if not written then return nil end
  if row.kind == "bool" then return written == "true" end
  if row.kind == "numbers" or written:find("^%s*{") and row.kind == "schedule" then return default_list(written) end
  if row.kind == "number" or row.kind == "integer" or row.kind == "schedule" then
    return math.tointeger(tonumber(written)) or tonumber(written)
  end
  return written
end

local function row_names(rows, also)
  local names = {}
  for _, row in ipairs(rows) do names[#names + 1] = row.name end
  for key in next, also do
    if type(key) == "string" then names[#names + 1] = key end
  end
  table.sort(names)
  return names
end

local function report_unknown(rows, fields, place, also)
  local names = row_names(rows, also)
  local known = {}
  for _, name in ipairs(names) do known[name] = true end
  for _, key in ipairs(text.sorted_keys(fields)) do
    if type(key) ~= "string" then
      if not also[1] then
        check.report(check.child(place, math.tointeger(key) or tostring(key)), "a value without a name: write  name = value")
      end
    elseif not known[key] then
      local hint = check.hint(key, names)
      local at = check.child(place, key)
      at.path = place.path
      check.report(at, "unknown key '%s'%s", key, hint ~= "" and hint
        or #names > 0 and ": there are " .. table.concat(names, ", ") or ": it takes none")
    end
  end
end

-- Checks `fields` against `rows`: the values by name, defaults filled in.
-- settings: also = { key = true } other keys that are legal ([1] = true: a list part too); paths = { key = true } strings that are
-- paths;
-- partial: no defaults, nothing required.
function check.rows(rows, fields, place, settings)
  settings = settings or {}
  local paths = settings.paths or {}
  local result = {}
  report_unknown(rows, fields, place, settings.also or {})
  for _, row in ipairs(rows) do
    local value = fields[row.name]
    local at = check.child(place, row.name)
    if value ~= nil then
      value = readers[row.kind](at, value, row)
      if value and paths[row.name] then value = check.absolute(value) end
      result[row.name] = value
    elseif not settings.partial then
      if row.required then
        check.report(place, "lacks '%s': %s", row.name, row.help)
      end
      result[row.name] = default_of(row)
    end
  end
  return result
end

-- Rows of a kind, or nil when this build lacks it (reported).
function check.kind(kind, place)
  local found = host.kinds[kind]
  if found then return found end
  check.report(place, "copse.%s is not built in this version", kind)
end

-- The origin of a value that should come from one of the constructors `kinds`, or nil (reported).
function check.node(value, place, kinds)
  local origin = node.origin(value)
  for _, kind in ipairs(kinds) do
    if origin and origin.kind == kind then return origin end
  end
  local wanted = "copse." .. table.concat(kinds, " or copse.")
  check.report(place, "should be %s { ... }, not %s", wanted, check.is_plain(value) and "a plain table" or check.seen(value))
end

-- A plain table that the job gives by name or place, or nil (reported).
function check.table(value, place, what)
  if check.is_plain(value) then return value end
  check.report(place, "should be %s, not %s", what, check.seen(value))
end

return check
