-- copse submit JOB: checks the job as it will run, writes the batch script beside the run, submits it, says where to look.
local batch = require "copse.batch"
local runs = require "copse.runs"
local site_file = require "copse.site"
local slurm = require "copse.slurm"

local CHECK_SECONDS = 3600 -- data may be packed
local kinds = { [1] = "ended", [64] = "usage", [65] = "data", [69] = "missing", [74] = "io" }

local function whole_number(flags, name, default)
  local given = flags[name]
  if given == nil then return default end
  local value = math.tointeger(tonumber(given))
  if not value or value < 1 or value > 1000000 then
    system.fail("usage", "copse submit: --%s is '%s', a whole number from 1 is wanted", name, given)
  end
  return value
end

-- As sbatch takes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].
local function check_time(time)
  if time == nil or time:find "^%d+$" or time:find "^%d+:%d%d?$" or time:find "^%d+:%d%d?:%d%d?$"
    or time:find "^%d+%-%d+$" or time:find "^%d+%-%d+:%d%d?$" or time:find "^%d+%-%d+:%d%d?:%d%d?$" then
    return time
  end
  system.fail("usage", "copse submit: the time limit is '%s'; minutes (90), hours:minutes:seconds (12:00:00) or "
    .. "days-hours (2-00) are wanted", time)
end

local function check_options(options)
  for _, option in ipairs(options) do
    if not option:find "^%-%-%a" then
      system.fail("usage", "copse submit: --sbatch is '%s'; a long option of sbatch is wanted: --sbatch=--qos=long", option)
    end
  end
  return options
end

-- An absolute path; the file or folder need not be there.
local function absolute(path)
  if path:sub(1, 1) == "/" then return path end
  return system.absolute "." .. "/" .. path
end

-- ---- the plan

local function make_plan(arguments)
  local flags, all = arguments.flags, arguments.all
  local job = absolute(arguments.operands[1])
  local site = site_file.load(flags.site, job)
  site.launcher = site.launcher or site_file.default_launcher()
  local ranks = whole_number(flags, "ranks-per-node", site.ranks_per_node or 1)
  local node = slurm.node(flags.partition or site.partition)
  local share = node and math.max(1, node.cores // ranks)
  return {
    job = job, site = site, node = node, nodes = whole_number(flags, "nodes", 1), ranks_per_node = ranks,
    threads = whole_number(flags, "threads", site.threads or share), time = check_time(flags.time or site.time),
    partition = flags.partition, account = flags.account, options = check_options(all.sbatch or {}),
    tries = whole_number(flags, "tries", site.tries), stall = whole_number(flags, "stall", site.stall),
    warn = whole_number(flags, "warn", site.warn), sets = all.set or {}, runs = absolute(flags.runs or "runs"),
    run_name = flags.run,
  }
end

-- ---- the job

-- What `copse check` says of it on that many ranks; its message and code are ours when it finds something.
local function check_job(plan)
  local ranks = tostring(plan.nodes * plan.ranks_per_node)
  local argv = { system.program, "check", plan.job, "--json", "--runs", plan.runs, "--ranks", ranks }
  if plan.threads then
    for _, word in ipairs { "--threads", tostring(plan.threads) } do argv[#argv + 1] = word end
  end
  for _, set in ipairs(plan.sets) do
    argv[#argv + 1] = "--set"
    argv[#argv + 1] = set
  end
  local answer, message = system.capture { argv = argv, seconds = CHECK_SECONDS }
  if not answer then system.fail("internal", "the job could not be checked: %s", message) end
  for line in answer.errors:gmatch "warning: ([^\n]+)" do system.log("warning", line) end
  if answer.code ~= 0 then
    local said = answer.errors:match "error: (.*)" or answer.errors
    system.fail(kinds[answer.code] or "internal", "%s", (said:gsub("%s+$", "")))
  end
  local facts, mistake = system.decode(answer.output, "facts of the job")
  if not facts then system.fail("internal", "copse check: %s", mistake) end
  return facts
end

-- Memory of a node against what its ranks plan for.
local function check_memory(plan, facts)
  local has = plan.site.node_memory_mb or plan.node and plan.node.memory_mb
  local most, where = 0, nil
  for _, stage in ipairs(facts.stages) do
    if stage.memory_bytes > most then most, where = stage.memory_bytes, stage.name end
  end
  local wants = math.ceil(most / 2 ^ 20) * plan.ranks_per_node
  if has and has > 1 and wants > has then -- Slurm says 1 where nobody told it
    system.fail("usage", "stage '%s' takes %d MiB on a node (%d ranks of %d MiB), a node has %d: more nodes with fewer ranks "
      .. "each (--nodes, --ranks-per-node), a smaller grain, or an activation_budget_mb in the job", where, wants,
      plan.ranks_per_node, math.ceil(most / 2 ^ 20), has)
  end
end

-- ---- the run

local function place_run(plan, facts)
  plan.name = plan.run_name or facts.name
  local leaves = plan.name:sub(1, 1) == "/" or ("/" .. plan.name .. "/"):find("/../", 1, true)
  if plan.name == "" or plan.name:find "%c" or leaves then
    system.fail("usage", "'%s' is no name for a run: a folder below '%s' is wanted (--run NAME)", plan.name, plan.runs)
  end
  plan.run = plan.runs .. "/" .. plan.name
  plan.script = plan.run .. "/batch.sh"
  plan.log = plan.run:gsub("%%", "%%%%") .. "/slurm-%j.log"
  plan.command = { system.program, "train", plan.job, "--runs", plan.runs, "--run", plan.name }
  for _, set in ipairs(plan.sets) do
    plan.command[#plan.command + 1] = "--set"
    plan.command[#plan.command + 1] = set
  end
end

-- The id of the job that a run was submitted as last.
local function newest_job(folder)
  local record = runs.slurm(folder)
  local ids = record and type(record.jobs) == "table" and record.jobs or {}
  local id = ids[#ids]
  return type(id) == "string" and id:find "^%d+$" and id or nil
end

local goes_on = { starting = true, running = true, evaluating = true }

local function refuse_second(plan)
  local id = newest_job(plan.run)
  local state = id and slurm.state(id)
  if state then
    system.fail("usage", "run '%s' is in the queue already: job %s, %s. 'copse cancel %s' ends it, --run gives this "
      .. "one another name", plan.name, id, state, plan.run)
  end
  local heartbeat = system.read(plan.run .. "/heartbeat.json", 2 ^ 20)
  local beat = heartbeat and system.decode(heartbeat)
  if type(beat) == "table" and goes_on[beat.state] and runs.lives(beat) then
    system.fail("usage", "run '%s' is being trained here by process %d. 'copse cancel %s' ends it, --run gives this "
      .. "one another name", plan.name, beat.pid, plan.run)
  end
end

-- ---- submission

local function dependency(all)
  local ids = {}
  for _, word in ipairs(all.after or {}) do
    local id = word:find "^%d+$" and word or newest_job(word) or newest_job("runs/" .. word)
    if not id then
      system.fail("usage", "copse submit: --after is '%s': neither a job id nor a run that was submitted", word)
    end
    ids[#ids + 1] = id
  end
  if #ids > 0 then return { "--dependency=afterok:" .. table.concat(ids, ":"), "--kill-on-invalid-dep=yes" } end
  return {}
end

local function must(worked, message)
  if not worked then system.fail("io", "%s", message) end
end

local function write_script(plan, text)
  must(system.mkdir(plan.run))
  must(system.write(plan.script, text))
  must(system.chmod(plan.script, tonumber("755", 8)))
end

-- sbatch tries for minutes to reach Slurm: better asked before.
local function reach_slurm(plan)
  local _, _, code = slurm.ask { "sbatch", "--version" }
  if code == "ENOENT" then
    system.fail("missing", "sbatch is not on the PATH: submit from a login node of the cluster, or train here: copse train %s "
      .. "-n RANKS", batch.quote(plan.job))
  end
  local listed, why = slurm.ask { "squeue", "--noheader", "--jobs=1" }
  if not listed and not why:find("Invalid job id", 1, true) then
    system.fail("missing", "Slurm cannot be reached: %s. Submit from a login node of the cluster, or later", why)
  end
end

local function sbatch(plan, depends)
  local argv = { "sbatch", "--parsable", table.unpack(depends) }
  argv[#argv + 1] = plan.script
  local answer, message = system.capture { argv = argv, seconds = 120 }
  if not answer then system.fail("missing", "sbatch: %s. The script is written: sbatch %s", message, plan.script) end
  local id = answer.output:match "^(%d+)"
  if answer.code == 0 and id then return id end
  local said = (answer.errors .. answer.output):gsub("%s+$", ""):gsub("sbatch: ", ""):gsub("\n", "; ")
  system.fail("usage", "sbatch refuses the job: %s. The script is '%s'", said, plan.script)
end

-- The record of an earlier submission gives way to one of this, unless the job has begun already and made its own.
local function submit(plan, depends)
  local record = plan.run .. "/slurm.json"
  system.remove(plan.run .. "/cancel")
  system.rename(record, record .. ".before")
  local worked, id = pcall(sbatch, plan, depends)
  if not worked then
    system.rename(record .. ".before", record)
    error(id, 0)
  end
  system.create(record, batch.record { job = id, script = plan.script, log = plan.log })
  return id
end

local function report(plan, id, threads)
  local function counted(count, what) return ("%s %s%s"):format(count or "?", what, count == 1 and "" or "s") end
  system.print(("job %s: run '%s' on %s x %s x %s"):format(id, plan.name, counted(plan.nodes, "node"),
    counted(plan.ranks_per_node, "rank"), counted(threads, "thread")))
  system.print("script  " .. plan.script)
  system.print("log     " .. plan.log:gsub("%%j", id):gsub("%%%%", "%%"))
  system.print("look    copse status " .. batch.quote(plan.runs))
end

local function run(arguments)
  local plan = make_plan(arguments)
  local depends = dependency(arguments.all)
  local dry = arguments.flags["dry-run"]
  local facts = check_job(plan)
  check_memory(plan, facts)
  place_run(plan, facts)
  local text = batch.script(plan)
  if dry then
    system.log("info", ("'%s' would be submitted with: sbatch %s"):format(plan.script, table.concat(depends, " ")))
    system.print((text:gsub("\n$", "")))
    return
  end
  refuse_second(plan)
  reach_slurm(plan)
  write_script(plan, text)
  report(plan, submit(plan, depends), plan.threads)
end

-- The rest is for `copse sweep submit`.
return { run = run, make_plan = make_plan, check_job = check_job, check_memory = check_memory, dependency = dependency,
  sbatch = sbatch }
