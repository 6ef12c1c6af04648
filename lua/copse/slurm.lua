-- Slurm's commands, asked with a time limit. Answers of programs are text: what does not look as it should is nil.
local slurm = {}

local SECONDS = 15

local function first_line(words)
  return (words or ""):match "[^\n]+" or "it said nothing"
end

-- Runs a command of Slurm: its output, or nil, why not, and "ENOENT" when there is no such command.
function slurm.ask(argv, seconds)
  local answer, message, code = system.capture { argv = argv, seconds = seconds or SECONDS }
  if not answer then return nil, message, code end
  if answer.code ~= 0 then return nil, first_line(answer.errors ~= "" and answer.errors or answer.output), answer.code end
  return answer.output
end

-- State of a job in the queue, "PENDING", "RUNNING", ...; nil when it is not there (any more), or nil and why nobody knows.
function slurm.state(id)
  local output, message = slurm.ask { "squeue", "--noheader", "--format=%T", "--jobs=" .. id }
  if output then return output:match "%u[%u_]*" end
  if message:find("Invalid job id", 1, true) then return nil end
  return nil, message
end

-- The smallest node of a partition (nil: the default one): { memory_mb, cores, cpus }; nil where sinfo says nothing.
function slurm.node(partition)
  local argv = { "sinfo", "--noheader", "--Node", "--format=%m %X %Y %c %P" }
  if partition then argv[#argv + 1] = "--partition=" .. partition end
  local least
  for memory, sockets, cores, cpus, name in (slurm.ask(argv) or ""):gmatch "(%d+)%+? +(%d+)%+? +(%d+)%+? +(%d+)%+? +(%S+)" do
    local node = { memory_mb = tonumber(memory), cores = tonumber(sockets) * tonumber(cores), cpus = tonumber(cpus) }
    if partition or name:sub(-1) == "*" then
      least = least or node
      for key, value in pairs(node) do least[key] = math.min(least[key], value) end
    end
  end
  return least
end

return slurm
