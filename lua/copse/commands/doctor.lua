-- copse doctor [--slurm]: looks whether this machine can train, and what to change. One line a check:
--   ok      what: what was seen
--   change  what: what was seen: what to do        (works, but not well, or not on every cluster)
--   wrong   what: what was seen: what to do        (training will fail)
local batch = require "copse.batch"
local site_file = require "copse.site"
local slurm = require "copse.slurm"

local TRIAL_SECONDS = 120
local counts = { ok = 0, change = 0, wrong = 0 }

local function line(verdict, what, seen, advice)
  counts[verdict] = counts[verdict] + 1
  system.print(("%-6s  %s: %s%s"):format(verdict, what, seen, advice and ": " .. advice or ""))
end
local function ok(what, seen) line("ok", what, seen) end
local function change(what, seen, advice) line("change", what, seen, advice) end
local function wrong(what, seen, advice) line("wrong", what, seen, advice) end

-- The first line that says something: Open MPI's messages begin with one of dashes.
local function first_line(words)
  for line in (words or ""):gmatch "[^\n]+" do
    if line:find "%w" then return line end
  end
  return ""
end

-- Open MPI asks twice before it starts for root; `copse train -n` answers in the same way.
local as_root = { OMPI_ALLOW_RUN_AS_ROOT = "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = "1" }

-- Output of a program, or nil and why.
local function output_of(argv, seconds)
  local answer, message, code = system.capture { argv = argv, seconds = seconds or 30, environment = as_root }
  if not answer then return nil, message, code end
  if answer.code ~= 0 then return nil, first_line(answer.errors .. answer.output) end
  return answer.output .. answer.errors
end

local function bytes(amount)
  if amount >= 2 ^ 30 then return ("%.1f GiB"):format(amount / 2 ^ 30) end
  return ("%.0f MiB"):format(amount / 2 ^ 20)
end

-- ---- the program

local function check_program()
  ok("program", ("copse %s, %s"):format(system.version, system.program))
  ok("Lua library", system.lua_folder)
  local listed, why = output_of { system.program, "objectives" }
  if listed then
    ok("objectives", ("%d load"):format(select(2, listed:gsub("[^\n]+", ""))))
  else
    wrong("objectives", why, "build with 'make', install with 'make install', or correct COPSE_HOME")
  end
end

local function check_site(file)
  local site = site_file.load(file, system.absolute "." .. "/job.lua")
  if site.path then
    ok("site file", site.path)
  else
    ok("site file", "none, Slurm's and our defaults are used")
  end
  site.launcher = site.launcher or site_file.default_launcher()
  return site
end

-- ---- MPI

local function check_mpirun(site)
  local version, why, code = output_of { "mpirun", "--version" }
  local needed = batch.launcher_kind(site.launcher) == "mpirun"
  if version then
    ok("mpirun", first_line(version))
  elseif needed then
    wrong("mpirun", why, "install Open MPI ('make deps'), or load its module before copse and name it under `modules` of the "
      .. "site file")
  else
    change("mpirun", code == "ENOENT" and "not on the PATH" or why, "'copse train -n' needs it; srun does not")
  end
end

local function mca_settings()
  local names = {}
  for entry in (system.read("/proc/self/environ", 2 ^ 22) or ""):gmatch "[^\0]+" do
    local name = entry:match "^OMPI_MCA_([^=]+)"
    if name then names[#names + 1] = entry:match "^OMPI_MCA_(.*)" end
  end
  table.sort(names)
  return names
end

local function check_mca()
  local settings = mca_settings()
  ok("Open MPI settings", #settings == 0 and "none in the environment" or table.concat(settings, " "))
  for _, setting in ipairs(settings) do
    if setting:find "^hwloc_base_binding_policy=none" then
      change("binding", setting, "ranks wander between cores: unset it where nodes are not shared")
    end
  end
end

local function check_launcher(site)
  local kind, words = batch.launcher_kind(site.launcher), table.concat(site.launcher, " ")
  if kind ~= "srun" then return ok("launcher", words) end
  local listed, why = output_of { "srun", "--mpi=list" }
  if not listed then
    return wrong("launcher", words .. ": " .. why, "mend Slurm, or set launcher = \"mpirun\" in the site file")
  end
  local method = words:match "%-%-mpi=(%S+)"
  if not listed:find "%f[%w_]pmix" then
    return wrong("launcher", words .. ", but srun --mpi=list has no pmix", "set `launcher = \"mpirun\"` in the site file")
  elseif not method or not method:find "^pmix" then
    return change("launcher", words, "Open MPI of distributions speaks PMIx alone: srun --mpi=pmix --kill-on-bad-exit=1")
  elseif not (words:find("--kill-on-bad-exit", 1, true) or words:find(" -K", 1, true)) then
    return change("launcher", words, "without --kill-on-bad-exit=1 a step never ends when one of its ranks was killed")
  end
  ok("launcher", words)
end

-- Interfaces with a way to other machines.
local function interfaces()
  local list, seen = {}, {}
  for row in (system.read("/proc/net/route", 2 ^ 20) or ""):gmatch "[^\n]+" do
    local name = row:match "^(%S+)"
    local virtual = name:find "^docker" or name:find "^virbr" or name:find "^veth" or name:find "^br%-"
    if name ~= "Iface" and name ~= "lo" and not seen[name] and not virtual then
      seen[name] = true
      list[#list + 1] = name
    end
  end
  return list
end

local function check_network(site)
  local list = interfaces()
  local chosen = site.interface or system.environment "OMPI_MCA_btl_tcp_if_include"
  local names = table.concat(list, ", ")
  if chosen then
    local there = chosen == "lo" or chosen:find "/" or system.stat("/sys/class/net/" .. chosen:match "^[^,]*")
    if there then return ok("network", ("Open MPI uses %s (of %s)"):format(chosen, names == "" and "lo alone" or names)) end
    wrong("network", ("there is no interface '%s', there is %s"):format(chosen, names), "correct `interface` in the site file")
  elseif #list == 0 then
    change("network", "no interface leads to another machine", "one node only")
  elseif #list > 1 then
    change("network", "several interfaces, " .. names, "name the fast one: interface = \"" .. list[1] .. "\" in the site file")
  else
    ok("network", names)
  end
end

-- ---- the machine

local function cpu_flags()
  local text = system.read("/proc/cpuinfo", 2 ^ 24) or ""
  local flags = {}
  for flag in (text:match "\nflags%s*:([^\n]*)" or ""):gmatch "%S+" do flags[flag] = true end
  return flags, text:match "model name%s*:%s*([^\n]*)" or "unknown"
end

local function check_cpu()
  local flags, model = cpu_flags()
  local family = flags.avx512f and flags.avx512bw and flags.avx512dq and flags.avx512vl and flags.avx512cd and "SkylakeX"
    or flags.avx2 and flags.fma and "Haswell" or "what OpenBLAS finds"
  local bf16 = flags.amx_bf16 and "AMX" or flags.avx512_bf16 and "AVX512-BF16" or "none"
  ok("CPU", ("%s; BLAS kernels %s; bf16 by %s"):format(model, family, bf16))
  local forced = system.environment "OPENBLAS_CORETYPE"
  if forced and forced ~= family then
    change("OPENBLAS_CORETYPE", forced, "unset it: Copse chooses, and other kernels give other bits")
  end
end

local function count_cpus(list)
  local count = 0
  for first, last in list:gmatch "(%d+)%-?(%d*)" do
    count = count + (last == "" and 1 or tonumber(last) - tonumber(first) + 1)
  end
  return count
end

local function check_cores(site)
  local allowed = (system.read("/proc/self/status", 2 ^ 16) or ""):match "Cpus_allowed_list:%s*(%S+)" or ""
  local cpus = count_cpus(allowed)
  local more = cpus > system.cores and (", %d hardware threads"):format(cpus) or ""
  ok("cores", ("%d for this process%s"):format(system.cores, more))
  local asked = tonumber(system.environment "SLURM_CPUS_PER_TASK" or nil)
  if asked and asked > cpus then
    change("SLURM_CPUS_PER_TASK", ("%d, but this process may use %d CPUs"):format(asked, cpus),
      "srun does not take it from sbatch: give srun --cpus-per-task, as the scripts of 'copse submit' do")
  end
  local ranks, threads = site.ranks_per_node, site.threads
  if ranks and threads and ranks * threads > system.cores and not asked then
    change("threads x ranks", ("%d ranks x %d threads on %d cores"):format(ranks, threads, system.cores),
      "lower `threads` or `ranks_per_node` in the site file")
  end
end

-- The smallest limit of the control groups above us, version 2 or 1.
local function cgroup_limit()
  local least
  local function note(path)
    local limit = tonumber((system.read(path, 64) or ""):match "^%d+")
    if limit and limit < 2 ^ 60 and (not least or limit < least) then least = limit end
  end
  for controllers, group in (system.read("/proc/self/cgroup", 2 ^ 16) or ""):gmatch "%d+:([^:\n]*):([^\n]*)" do
    local top, file
    if controllers == "" then top, file = "/sys/fs/cgroup", "/memory.max" end
    if controllers:find "memory" then top, file = "/sys/fs/cgroup/memory", "/memory.limit_in_bytes" end
    while top and group ~= "" do
      note(top .. (group == "/" and "" or group) .. file)
      group = group:match "^(.*)/[^/]+$" or ""
    end
  end
  return least
end

local function check_memory()
  local text = system.read("/proc/meminfo", 2 ^ 16) or ""
  local total = tonumber(text:match "MemTotal:%s*(%d+)" or 0) * 1024
  local free = tonumber(text:match "MemAvailable:%s*(%d+)" or 0) * 1024
  local limit = cgroup_limit()
  local less = limit and limit < total and ", this process may take " .. bytes(limit) or ""
  local seen = ("%s, %s free%s"):format(bytes(total), bytes(free), less)
  if math.min(free, limit or free) < 2 ^ 29 then
    return wrong("memory", seen, "a rank takes more than that: 'copse check JOB' says how much")
  end
  ok("memory", seen)
end

local limits = { { "Max open files", 1024, "ulimit -n 4096" }, { "Max file size", 2 ^ 40, "ulimit -f unlimited" },
  { "Max address space", 2 ^ 40, "ulimit -v unlimited" }, { "Max processes", 256, "ulimit -u 4096" } }

local function check_limits()
  local text, low = system.read("/proc/self/limits", 2 ^ 16) or "", 0
  for _, limit in ipairs(limits) do
    local soft = text:match(limit[1] .. "%s+(%S+)")
    local value = tonumber(soft)
    if value and value < limit[2] then
      low = low + 1
      change("limits", ("%s: %s"):format(limit[1]:lower(), soft), limit[3])
    end
  end
  if low == 0 then ok("limits", "files, processes and sizes suffice") end
end

-- ---- files

local function check_space(folder)
  local free = tonumber((output_of { "df", "-Pk", folder } or ""):match "\n%S+%s+%d+%s+%d+%s+(%d+)" or nil)
  local inodes = tonumber((output_of { "df", "-Pi", folder } or ""):match "\n%S+%s+%d+%s+%d+%s+(%d+)%s" or nil)
  if not free then return change("disk", "df says nothing of '" .. folder .. "'", "look yourself whether checkpoints fit") end
  local seen = bytes(free * 1024) .. " free" .. (inodes and inodes > 0 and (", room for %d files"):format(inodes) or "")
  if free < 2 ^ 20 then return change("disk", seen, "a checkpoint of ViT-B/32 takes 1.7 GiB, and two are kept") end
  if inodes and inodes > 0 and inodes < 1000 then
    return change("disk", seen, "delete files: the file system has few places left")
  end
  ok("disk", seen)
end

local function check_clock(folder)
  local path = folder .. "/.doctor-clock"
  if not system.write(path, "") then return end
  local before = system.now()
  system.touch(path)
  local facts = system.stat(path)
  system.remove(path)
  local skew = facts and facts.time - before or 0
  if math.abs(skew) > 5 then
    return change("clock", ("the file system's is %.0f s off this host's"):format(skew), "let all nodes use one time server")
  end
  ok("clock", "this host and the file system agree")
end

local function check_locks(folder)
  local path = folder .. "/.doctor-lock"
  if not system.write(path, "") then return end
  local _, why, code = output_of({ "flock", "--nonblock", "--exclusive", path, "true" }, 20)
  system.remove(path)
  local forced = system.environment "HDF5_USE_FILE_LOCKING"
  if why and code ~= "ENOENT" then
    if forced and forced:upper() ~= "FALSE" and forced ~= "0" and forced:upper() ~= "BEST_EFFORT" then
      return wrong("file locks", "refused here, and HDF5_USE_FILE_LOCKING=" .. forced, "unset HDF5_USE_FILE_LOCKING")
    end
    return ok("file locks", "refused here: harmless, Copse asks HDF5 for none")
  end
  ok("file locks", (code == "ENOENT" and "not tried" or "work") .. "; Copse asks HDF5 for none")
end

-- ---- trials: shards are drawn, by one process and by two ranks of the launcher, and every byte is read again

local function remove_all(folder)
  for _, entry in ipairs(system.list(folder) or {}) do
    local path = folder .. "/" .. entry
    if not system.remove(path) then remove_all(path) end
  end
  system.remove(folder)
end

-- Processes that do not find each other do it all twice, and say so twice.
local function trial(folder, launch)
  local words = { table.unpack(launch) }
  for _, word in ipairs { system.program, "synth", folder, "--classes", "2", "--train-per-class", "8", "--test-per-class", "2",
    "--size", "32" } do words[#words + 1] = word end
  local said, why = output_of(words, TRIAL_SECONDS)
  if not said then return nil, why end
  if select(2, said:gsub("pictures to train on", "")) ~= 1 then
    return nil, "its processes do not find each other: the launcher and this Open MPI speak no common PMI"
  end
  local shard
  for _, name in ipairs(system.list(folder) or {}) do
    if name:find "^train.*%.h5$" then shard = folder .. "/" .. name end
  end
  if not shard then return nil, "nothing was written" end
  said, why = output_of({ system.program, "verify", shard, "--quiet" }, TRIAL_SECONDS)
  return said and true, why
end

-- Two ranks on this machine or allocation; with --slurm, outside of an allocation, in a job of their own.
local function trial_launch(site, with_slurm)
  local list = { table.unpack(site.launcher) }
  local inside = system.environment "SLURM_JOB_ID"
  local function add(...)
    for _, word in ipairs { ... } do list[#list + 1] = word end
  end
  if batch.launcher_kind(list) == "srun" then
    if not inside and not with_slurm then return nil end
    if not inside then add("--immediate=30", "--time=2") end
    if not inside and site.partition then add("--partition=" .. site.partition) end
    if not inside and site.account then add("--account=" .. site.account) end
    add("--ntasks=2")
    if inside then add("--overlap") end
  else
    add("-np", "2", "--bind-to", "none")
    if not inside then add("--oversubscribe") end
  end
  return list
end

local function check_files(folder)
  local worked, why = system.mkdir(folder)
  if not worked then return wrong("runs folder", why, "choose a folder that you may write to, --runs DIR") end
  check_space(folder)
  check_clock(folder)
  check_locks(folder)
end

local function check_trials(folder, site, with_slurm)
  local place = ("%s/.doctor-%s-%d"):format(folder, system.host, system.pid)
  if not system.mkdir(place) then return end
  local worked, why = trial(place .. "/one", {})
  if worked then ok("HDF5 files", "written and read again in '" .. folder .. "'")
  else wrong("HDF5 files", why, "correct what it says, or choose another folder, --runs DIR") end
  local launch = trial_launch(site, with_slurm)
  if not launch then
    ok("two ranks", "not tried: srun wants an allocation; 'copse doctor --slurm' asks for one")
  else
    worked, why = trial(place .. "/two", launch)
    if worked then ok("two ranks", table.concat(launch, " ") .. ": worked")
    else wrong("two ranks", table.concat(launch, " ") .. ": " .. why, "set `launcher` and `modules` in the site file") end
  end
  remove_all(place)
end

-- ---- Slurm

local function check_slurm(site)
  local version, why = slurm.ask { "sinfo", "--version" }
  if not version then return wrong("Slurm", why, "go to a login node of the cluster, or leave --slurm out") end
  local config
  config, why = slurm.ask { "scontrol", "show", "config" }
  if not config then change("scontrol", why, "jobs go on by submitting themselves again instead of requeueing") end
  local node
  node, why = slurm.node(site.partition)
  if not node then
    return wrong("partition", site.partition or "no default", "name one that sinfo shows: partition = \"...\" in the site file")
  end
  ok("Slurm", first_line(version))
  ok("partition", ("%s: %d cores and %d MiB a node"):format(site.partition or "the default", node.cores, node.memory_mb))
  local function setting(name) return (config or ""):match("\n" .. name .. "%s*=%s*([^\n]*)") end
  if setting "JobRequeue" == "0" then
    change("JobRequeue", "0", "jobs of a lost node do not come back by themselves; our scripts ask for it (--requeue)")
  end
  local plugin = setting "TaskPlugin"
  if plugin and (plugin == "task/none" or plugin == "(null)") and site.bind ~= "none" then
    change("binding", "TaskPlugin=" .. plugin, "srun binds nothing here: bind = \"none\" in the site file")
  end
end

local function run(arguments)
  local flags = arguments.flags
  local folder = flags.runs or "runs"
  local where = system.environment "SLURM_JOB_ID" and ", in a job of Slurm" or ""
  ok("host", ("%s, user %s%s"):format(system.host, system.user, where))
  check_program()
  local site = check_site(flags.site)
  check_cpu()
  check_cores(site)
  check_memory()
  check_limits()
  check_mpirun(site)
  check_launcher(site)
  check_mca()
  check_network(site)
  if flags.slurm then check_slurm(site) end
  check_files(folder)
  check_trials(folder, site, flags.slurm)
  system.print(("%d ok, %d to change, %d wrong"):format(counts.ok, counts.change, counts.wrong))
  return counts.wrong > 0 and 69 or 0
end

return { run = run }
