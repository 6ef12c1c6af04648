-- Entered from C (runtime/job/job.c): runs the job file, checks what it returns.
local check = require "copse.check"
local copse = require "copse"
local emit = require "copse.emit"
local environment = require "copse.environment"
local node = require "copse.node"
local resolve = require "copse.resolve"
local text = require "copse.text"

local run = { encode = text.encode }

-- What is wrong with the value that the file returned, nil for a job.
local function wrong_result(result)
  local origin = node.origin(result)
  if origin and origin.kind == "job" then return nil end
  if origin and origin.kind == "sweep" then
    return string.format("%s:%d: this file returns a sweep, not a job: 'copse sweep plan' shows it, 'copse sweep run' trains it",
      host.path, origin.line)
  end
  local seen = origin and node.written(origin) or text.show(result)
  return string.format("%s: the file returns %s: it should end with  return copse.job { ... }", host.path, seen)
end

-- JSON text, Lua text and functions of the job; or nil and the message.
function run.load()
  local chunk = host.load_job(host.path, host.path, environment.create(copse.module))
  local result = chunk()
  local wrong = wrong_result(result)
  if wrong then return nil, wrong end
  local job = resolve.job(result)
  local messages = copse.unused_sets()
  messages[#messages + 1] = check.mistakes()
  if #messages > 0 then return nil, table.concat(messages, "\n") end
  return text.encode(job, "job"), emit.job(job), check.functions
end

return run
