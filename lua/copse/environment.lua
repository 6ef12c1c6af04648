-- What a job file sees: a few pure functions and `require`. It keeps slips out and ranks alike; it is no wall against an
-- attacker.
local node = require "copse.node"
local text = require "copse.text"

local environment = {}

local refusals = {
  os = "a job is data and cannot reach the system",
  io = "a job is data and cannot read or write files",
  debug = "a job is data",
  package = "modules are files beside the job or in Copse's Lua library",
  coroutine = "a job is data",
  load = "code comes from files, by require",
  loadstring = "code comes from files, by require",
  loadfile = "code comes from files, by require",
  dofile = "code comes from files, by require",
  collectgarbage = "a job is data",
  print = "'copse check' shows the resolved job",
  warn = "'copse check' shows the resolved job",
  pcall = "a mistake in a job should be seen",
  xpcall = "a mistake in a job should be seen",
  next = "its order changes from run to run: use 'pairs', which is sorted here",
  _G = "names of a job are local",
}

-- Tables with the same functions that jobs may not change.
local function sealed(name, functions, missing)
  return setmetatable({}, {
    __index = function(_, key)
      local value = functions[key]
      if value == nil then
        local why = missing and missing[key]
        error(string.format("jobs have no '%s.%s'%s", name, tostring(key), why and ": " .. why or ""), 2)
      end
      return value
    end,
    __newindex = function(_, key)
      error(string.format("'%s.%s' cannot be changed", name, tostring(key)), 2)
    end,
    __metatable = false,
  })
end

local function copy(t, without)
  local result = {}
  for key, value in next, t do
    if not without[key] then result[key] = value end
  end
  return result
end

-- Walks keys in a fixed order: Lua's own changes from process to process.
local function sorted_pairs(t)
  if type(t) ~= "table" then error("'pairs' takes a table, not " .. text.show(t), 2) end
  local origin = node.origin(t)
  local keys = text.sorted_keys(origin and origin.values or t) -- a sweep's parameters hide theirs
  local i = 0
  return function()
    i = i + 1
    if keys[i] ~= nil then return keys[i], t[keys[i]] end
  end
end

local names = {} -- function or table -> how a job writes it

local function remember(prefix, functions)
  for _, key in ipairs(text.sorted_keys(functions)) do
    if type(functions[key]) == "function" and not names[functions[key]] then names[functions[key]] = prefix .. key end
  end
end

-- "math.cos" for a function or table that every job has, else nil.
function environment.name_of(value)
  return names[value]
end

-- Modules of a job: files beside it, then those of the Lua library; each runs once, sees what the job sees.
local function job_require(new_environment, copse)
  local loaded, loading = { copse = copse }, {}
  return function(name)
    if type(name) ~= "string" or not name:find("^[%w_]+[%w_.]*$") or name:find("..", 1, true) then
      error("require takes a name such as \"common\", not " .. text.show(name), 2)
    end
    if loading[name] then error("'" .. name .. "' requires itself", 2) end
    if loaded[name] == nil then
      local file = name:gsub("%.", "/") .. ".lua"
      local shown = (host.path:match("^(.*/)") or "") .. file
      local path = host.folder .. "/" .. file
      if not host.exists(path) then
        path, shown = host.lua_folder .. "/" .. file, file
      end
      if not host.exists(path) then
        error(string.format("there is no module '%s': no file %s beside the job, none in Copse's Lua library", name, file), 2)
      end
      loading[name] = true
      local result = host.load_job(path, shown, new_environment)()
      loading[name] = nil
      loaded[name] = result == nil and true or result
    end
    return loaded[name]
  end
end

local function seal_strings()
  local strings = copy(string, { dump = true })
  local metatable = getmetatable("")
  metatable.__index = strings
  metatable.__metatable = false
  return strings
end

-- A fresh environment; `copse` is what `require "copse"` gives.
function environment.create(copse)
  local strings = seal_strings()
  local random = "draws are keyed by the job's seed: no random numbers in jobs"
  local visible = {
    assert = assert, error = error, ipairs = ipairs, pairs = sorted_pairs, select = select, tonumber = tonumber,
    tostring = tostring, type = type, rawequal = rawequal, rawget = rawget, rawlen = rawlen, rawset = rawset,
    setmetatable = setmetatable, getmetatable = getmetatable, _VERSION = _VERSION,
    string = sealed("string", strings),
    table = sealed("table", copy(table, {})),
    math = sealed("math", copy(math, { random = true, randomseed = true }), { random = random, randomseed = random }),
    utf8 = sealed("utf8", copy(utf8, {})),
  }
  remember("", visible)
  remember("string.", strings)
  remember("table.", table)
  remember("math.", math)
  remember("utf8.", utf8)
  for _, library in ipairs { "string", "table", "math", "utf8" } do names[visible[library]] = library end
  local result = setmetatable({}, {
    __index = function(_, name)
      local value = visible[name]
      if value ~= nil then return value end
      if refusals[name] then error(string.format("jobs have no '%s': %s", name, refusals[name]), 2) end
      local near = host.nearest(name, text.sorted_keys(visible))
      local hint = name == "copse" and ": begin with  local copse = require \"copse\""
        or near and string.format(" (did you mean '%s'?)", near) or ": write  local " .. tostring(name) .. " = ...  before its first use"
      error(string.format("unknown name '%s'%s", tostring(name), hint), 2)
    end,
    __newindex = function(_, name)
      error(string.format("'%s' is not local: write  local %s = ...", tostring(name), tostring(name)), 2)
    end,
    __metatable = false,
  })
  visible.require = job_require(result, copse)
  return result
end

return environment
