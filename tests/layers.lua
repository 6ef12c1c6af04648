-- Reads every #include and every require of the tree and fails on one that points the wrong way. The folders are the
-- architecture: a file may include its own folder and whatever stands to the left of it. Every library from outside has one
-- owner. Run from the top of the tree: lua5.4 tests/layers.lua

-- Layers from left to right; folders of one layer do not see each other.
local layer_of = {
  ["runtime/base"] = 1,
  ["runtime/comm"] = 2, ["runtime/h5"] = 2, ["runtime/image"] = 2,
  ["runtime/tensor"] = 3, ["shards"] = 3,
  ["runtime/data"] = 4, ["runtime/model"] = 4, ["runtime/plugin"] = 4,
  ["runtime/eval"] = 5, ["runtime/report"] = 5,
  ["runtime/train"] = 6,
  ["runtime/job"] = 7,
  ["runtime"] = 8, -- main*.c
}
-- Neighbours that may be seen all the same: file pattern, header pattern.
local exceptions = {
  { "^runtime/plugin/host", "^runtime/model/" },
  { "^runtime/data/", "^runtime/plugin/copse_objective%.h$" },
  { "^runtime/model/", "^runtime/plugin/copse_objective%.h$" },
}

-- Header of a library -> who may include it. Tests may too: they make the hostile files.
local owners = {
  ["mpi.h"] = { "^runtime/comm/", "^runtime/main" },
  ["hdf5.h"] = { "^runtime/h5/" },
  ["jpeglib.h"] = { "^runtime/image/" }, ["jerror.h"] = { "^runtime/image/" }, ["png.h"] = { "^runtime/image/" },
  ["lua.h"] = { "^runtime/job/" }, ["lauxlib.h"] = { "^runtime/job/" }, ["lualib.h"] = { "^runtime/job/" },
  ["cblas.h"] = { "^runtime/tensor/gemm_openblas" }, ["openblas_config.h"] = { "^runtime/tensor/gemm_openblas" },
  ["dnnl.h"] = { "^runtime/tensor/gemm_onednn" },
  ["xxhash.h"] = { "^runtime/base/hash%.c$" },
  ["cJSON.h"] = { "^runtime/base/json%.c$" }, ["cjson/cJSON.h"] = { "^runtime/base/json%.c$" },
  ["utf8proc.h"] = { "^runtime/base/text" },
  ["zlib.h"] = { "^runtime/data/tokeniz" },
  -- oneDNN is opened only when a job asks for bf16: 40 MB that other runs need not load, or even have.
  ["dlfcn.h"] = { "^runtime/plugin/loader", "^runtime/tensor/gemm_onednn" },
  ["cmocka.h"] = { "^tests/", "^plugins/[^/]+/[^/]+_test%.c$" },
}

local function set(text)
  local names = {}
  for name in text:gmatch "%S+" do names[name] = true end
  return names
end
local libc = set [[assert.h complex.h ctype.h errno.h fenv.h float.h inttypes.h iso646.h limits.h locale.h math.h setjmp.h
  signal.h stdalign.h stdarg.h stdatomic.h stdbool.h stddef.h stdint.h stdio.h stdlib.h stdnoreturn.h string.h tgmath.h
  threads.h time.h uchar.h wchar.h wctype.h]]
local system = set [[dirent.h fcntl.h fnmatch.h ftw.h glob.h poll.h pthread.h pwd.h sched.h spawn.h strings.h termios.h unistd.h
  sys/file.h sys/ioctl.h sys/mman.h sys/prctl.h sys/random.h sys/resource.h sys/signalfd.h sys/stat.h sys/statvfs.h sys/syscall.h sys/time.h
  sys/types.h sys/uio.h sys/utsname.h sys/wait.h linux/futex.h linux/limits.h cpuid.h immintrin.h tmmintrin.h malloc.h]]

-- Calls that only some may make; messages and the end of the program have their place.
local calls = {
  { "MPI_Abort", { "^runtime/comm/agree%.c$" } },
  { "exit", { "^runtime/base/", "^runtime/main", "^tests/" } },
  { "_exit", { "^runtime/base/", "^runtime/main", "^tests/", "^runtime/comm/agree%.c$", "^runtime/train/signals?%.c$",
    "^runtime/job/system_processes%.c$" } },
  { "abort", { "^runtime/base/", "^tests/" } },
  { "assert", { "^runtime/base/", "^tests/" } },
  { "printf", { "^runtime/base/", "^runtime/main", "^tests/" } },
  { "puts", { "^runtime/base/", "^runtime/main", "^tests/" } },
  { "perror", { "^runtime/base/", "^runtime/main", "^tests/" } },
}

local breaches, files = {}, 0
local function breach(file, line, format, ...)
  breaches[#breaches + 1] = ("%s:%d: %s"):format(file, line, format:format(...))
end

local function matches(text, patterns)
  for _, pattern in ipairs(patterns) do
    if text:find(pattern) then return true end
  end
  return false
end

local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

-- Comments and the inside of string literals become blanks; lines stay where they are.
local function code_of(text)
  local out, at = {}, 1
  while at <= #text do
    local two = text:sub(at, at + 1)
    local first, last
    if two == "/*" then
      first, last = at, select(2, text:find("*/", at + 2, true)) or #text
    elseif two == "//" then
      first, last = at, (text:find("\n", at, true) or #text + 1) - 1
    elseif two:sub(1, 1) == '"' or two:sub(1, 1) == "'" then
      local quote, stop = two:sub(1, 1), at + 1
      while stop <= #text and text:sub(stop, stop) ~= quote do
        stop = stop + (text:sub(stop, stop) == "\\" and 2 or 1)
      end
      first, last = at, stop
    end
    if first then
      out[#out + 1] = text:sub(first, last):gsub("[^\n]", " ")
      at = last + 1
    else
      local stop = text:find("[/\"']", at + 1) or #text + 1
      out[#out + 1] = text:sub(at, stop - 1)
      at = stop
    end
  end
  return table.concat(out)
end

local function folder_of(path)
  return path:match "^(.*)/[^/]*$"
end

-- The file of ours that an include names, or nil.
local function resolve(from, name)
  for _, path in ipairs { folder_of(from) .. "/" .. name, "runtime/" .. name, name, "tests/" .. name } do
    if exists(path) then return path end
  end
end

local function check_ours(file, line, target)
  if file:find "^tests/" or file:find "^plugins/[^/]+/[^/]+_test%.c$" then return end
  if target:find "^tests/" then
    return breach(file, line, "'%s' is part of the tests", target)
  end
  local from, to = layer_of[folder_of(file)], layer_of[folder_of(target)]
  if not to then
    return breach(file, line, "'%s' lies in a folder without a layer: add the rule to tests/layers.lua", target)
  end
  if folder_of(file) == folder_of(target) or from > to then return end
  for _, exception in ipairs(exceptions) do
    if file:find(exception[1]) and target:find(exception[2]) then return end
  end
  breach(file, line, "%s may not include '%s' (%s)", folder_of(file), target, from == to and "a neighbour" or "to the right")
end

local function check_include(file, line, bracket, name)
  local is_plugin = file:find "^plugins/" and not file:find "_test%.c$"
  if is_plugin or file:find "^tests/plugins/" then
    local own = bracket == '"' and exists(folder_of(file) .. "/" .. name)
    if not (libc[name] or name == "copse_objective.h" or own) then
      breach(file, line, "a plugin includes copse_objective.h and libc, nothing else: '%s'", name)
    end
    return
  end
  if bracket == '"' then
    local target = resolve(file, name)
    if target then return check_ours(file, line, target) end
    if name == "copse_objective.h" then return end
    return breach(file, line, "no file '%s'", name)
  end
  if owners[name] then
    if not (matches(file, owners[name]) or file:find "^tests/") then
      breach(file, line, "<%s> has another owner: %s", name, table.concat(owners[name], ", "))
    end
  elseif not (libc[name] or system[name] or file:find "^tests/") then
    breach(file, line, "<%s> has no owner: add the rule to tests/layers.lua", name)
  end
end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

local function check_c(file)
  local text = read(file)
  if file:find "^runtime/" and not layer_of[folder_of(file)] then
    breach(file, 1, "folder '%s' has no layer: add the rule to tests/layers.lua", folder_of(file))
    return
  end
  local number = 0
  for line in (text .. "\n"):gmatch "(.-)\n" do
    number = number + 1
    local bracket, name = line:match '^%s*#%s*include%s*([<"])([^>"]+)[>"]'
    if name then check_include(file, number, bracket, name) end
  end
  number = 0
  for line in (code_of(text) .. "\n"):gmatch "(.-)\n" do
    number = number + 1
    for _, call in ipairs(calls) do
      if line:find("%f[%w_]" .. call[1] .. "%s*%(") and not line:find("__attribute__", 1, true) and not matches(file, call[2]) then
        breach(file, number, "%s() belongs to %s", call[1], table.concat(call[2], ", "))
      end
    end
    if line:find "fprintf%s*%(%s*std" and not matches(file, { "^runtime/base/", "^runtime/main", "^tests/" }) then
      breach(file, number, "messages go through base/log")
    end
  end
  local lines = select(2, text:gsub("\n", ""))
  if lines > 800 and not file:find "%.inc$" then breach(file, lines, "%d lines: above 800 a file is two files", lines) end
end

local function check_lua(file)
  local number = 0
  for line in (read(file) .. "\n"):gmatch "(.-)\n" do
    number = number + 1
    local name = line:gsub("%-%-.*", ""):match "%f[%w_]require%s*%(?%s*[\"']([%w_%.%-]+)[\"']"
    if name and not (name == "copse" or name:find "^copse%.") then
      local path = name:gsub("%.", "/") .. ".lua"
      if file:find "^lua/" or not (exists("jobs/" .. path) or exists(folder_of(file) .. "/" .. path)) then
        breach(file, number, "require '%s': only copse, copse.* and files of jobs/", name)
      end
    end
  end
end

local function each(command, check)
  for file in assert(io.popen(command)):lines() do
    files = files + 1
    check(file)
  end
end
each("find runtime shards plugins tests -name '*.[ch]' -o -name '*.inc' 2>/dev/null | LC_ALL=C sort", check_c)
each("find lua jobs -name '*.lua' 2>/dev/null | LC_ALL=C sort", check_lua)

for _, text in ipairs(breaches) do print(text) end
print(("%d files read"):format(files))
print(("%d passed, %d failed, 0 skipped"):format(#breaches == 0 and 1 or 0, #breaches))
os.exit(#breaches == 0 and files > 0)
