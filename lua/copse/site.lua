-- The site file: how a cluster wants its jobs. A Lua file that returns a table; README.md in commands/ lists keys and places.
-- Data alone: it runs with an empty environment.
local text = require "copse.text"
local site = {}

local MOST_BYTES = 64 * 1024

local function is_count(value) return math.type(value) == "integer" and value >= 1 and value <= 1000000 end
local function is_name(value) return type(value) == "string" and value ~= "" and not value:find "%c" end
local function is_words(value)
  if type(value) ~= "table" or #value == 0 then return false end
  for _, word in ipairs(value) do
    if not is_name(word) then return false end
  end
  return true
end

-- A value as it is kept, or nil and what is wanted.
local function name(value) if is_name(value) then return value end return nil, "a name" end
local function count(value) if is_count(value) then return value end return nil, "a whole number, 1 or more" end
local function words(value)
  if is_name(value) then value = { value } end
  if is_words(value) then return value end
  return nil, "a string or a list of strings"
end
local function launcher(value)
  if is_name(value) then
    local list = {}
    for word in value:gmatch "%S+" do list[#list + 1] = word end
    value = list
  end
  if is_words(value) then return value end
  return nil, "a command line, such as 'srun --mpi=pmix --kill-on-bad-exit=1'"
end
local function options(value)
  value = words(value)
  for _, option in ipairs(value or { "" }) do
    if not option:find "^%-%-%a" then return nil, "options of sbatch, such as { '--qos=long' }" end
  end
  return value
end
local function bind(value)
  if value == "cores" or value == "none" then return value end
  return nil, "'cores' or 'none'"
end
local function environment(value)
  local wanted = "a table of names and strings, such as { OMPI_MCA_pml = 'ucx' }"
  if type(value) ~= "table" then return nil, wanted end
  for key, one in pairs(value) do
    local fits = type(key) == "string" and key:find "^[%a_][%w_]*$" and type(one) == "string" and not one:find "%c"
    if not fits then return nil, wanted end
  end
  return value
end

local keys = {
  launcher = launcher, modules = words, partition = name, account = name, time = name, ranks_per_node = count,
  ranks_per_socket = count, threads = count, interface = name, bind = bind, environment = environment, sbatch = options,
  node_memory_mb = count, tries = count, stall = count, warn = count,
}

local function key_names()
  local names = {}
  for key in pairs(keys) do names[#names + 1] = key end
  table.sort(names)
  return names
end

local function check(path, values)
  local kept, mistakes = { path = path }, {}
  for key, value in pairs(values) do
    if not keys[key] then
      local near = type(key) == "string" and system.nearest(key, key_names())
      local hint = near and (" (did you mean '%s'?)"):format(near) or ""
      mistakes[#mistakes + 1] = ("unknown key '%s'%s"):format(tostring(key), hint)
    else
      local wanted
      kept[key], wanted = keys[key](value)
      if kept[key] == nil then mistakes[#mistakes + 1] = ("%s: %s is wanted, not %s"):format(key, wanted, text.show(value)) end
    end
  end
  table.sort(mistakes)
  if #mistakes > 0 then system.fail("usage", "site file '%s': %s", path, table.concat(mistakes, "; ")) end
  return kept
end

local function read(path)
  local source, message = system.read(path, MOST_BYTES)
  if not source then system.fail("missing", "site file: %s", message) end
  local chunk, mistake = load(source, "@" .. path, "t", {})
  if not chunk then system.fail("usage", "site file: %s", mistake) end
  local worked, values = pcall(chunk)
  if not worked then
    system.fail("usage", "site file: %s (it is data alone: return { launcher = ..., ... })", tostring(values))
  end
  if type(values) ~= "table" then
    system.fail("usage", "site file '%s': it returns %s, a table is wanted: return { partition = '...', ... }", path,
      text.show(values))
  end
  return check(path, values)
end

local function folder_of(path) return path:match "^(.*)/[^/]*$" or "." end

-- Where a site file may lie when nobody names one, in order.
function site.places(job)
  local home = system.environment "HOME"
  local config = system.environment "XDG_CONFIG_HOME" or home and home .. "/.config"
  local share = folder_of(system.lua_folder)
  local places = {}
  if job then places[#places + 1] = folder_of(job) .. "/copse-site.lua" end
  if config then places[#places + 1] = config .. "/copse/site.lua" end
  places[#places + 1] = share .. "/site.lua"
  places[#places + 1] = "/etc/copse/site.lua"
  return places
end

-- The site of `file` (--site), else of $COPSE_SITE, else of the first place that has one, else an empty one.
function site.load(file, job)
  file = file or system.environment "COPSE_SITE"
  if file and file ~= "" then return read(file) end
  for _, place in ipairs(site.places(job)) do
    if system.stat(place) then return read(place) end
  end
  return {}
end

-- What starts ranks where the site file names nothing: srun where Slurm's speaks PMIx, else mpirun.
function site.default_launcher()
  local listed = system.capture { argv = { "srun", "--mpi=list" }, seconds = 20 }
  if listed and (listed.output .. listed.errors):find "%f[%w_]pmix%f[^%w]" then
    return { "srun", "--mpi=pmix", "--kill-on-bad-exit=1" }
  end
  return { "mpirun" }
end

return site
