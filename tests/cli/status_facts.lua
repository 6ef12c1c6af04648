-- Stands in for a command in tests/cli/status.sh: prints what runs.facts says of a run.
local runs = require "copse.runs"

local function step_of(facts, name)
  return string.format("%s step %s", name, facts.evaluations[name] and math.tointeger(facts.evaluations[name].step) or "none")
end

local function run(arguments)
  local facts = runs.facts(arguments.operands[1], 2)
  if not facts then
    system.print("it is gone")
    return
  end
  local predictions = {}
  for name in pairs(facts.predictions) do predictions[#predictions + 1] = name end
  table.sort(predictions)
  local last = facts.checkpoints[#facts.checkpoints]
  system.print(string.format("state %s; steps %d; curve %d; %s; %s; checkpoints %s; predictions %s; problems %d", facts.state,
    facts.events.steps, #facts.events.curve, step_of(facts, "names"), step_of(facts, "pairs"), last and last.step or "none",
    table.concat(predictions, " "), #facts.problems))
  for _, problem in ipairs(facts.problems) do system.print(problem) end
  if facts.job then
    system.print(string.format("lr %s; seed %d", facts.job.stages[1].optimizer.lr, facts.job.seed))
  end
end

return { run = run }
