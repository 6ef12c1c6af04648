-- What constructors make: a copy of the table that they are given, and on record where the call stood.
local node = {}

local origins = setmetatable({}, { __mode = "k" })
local counts = {}

-- kind: of the option rows; token: the name before the "{" in the job's text; extra: more of the origin.
function node.create(kind, token, fields, file, line, extra)
  local copy = {}
  for key, value in next, fields do copy[key] = value end
  local place = file .. ":" .. line .. ":" .. token
  counts[place] = (counts[place] or 0) + 1
  local origin = { kind = kind, token = token, file = file, line = line, ordinal = counts[place] }
  for key, value in next, extra or {} do origin[key] = value end
  origins[copy] = origin
  return copy
end

-- Tables of Copse that are no constructor's: objectives without their "{", parameters.
function node.mark(value, kind, name)
  origins[value] = { kind = kind, name = name }
  return value
end

-- { kind, token, file, line, ordinal } of a constructor's table, nil for any other value.
function node.origin(value)
  return type(value) == "table" and origins[value] or nil
end

-- How a job writes the constructor of a kind: "copse.stage", "copse.objective.clip".
function node.written(origin)
  if origin.kind == "uncalled" then return "copse.objective" .. origin.name .. " without { ... }" end
  if origin.kind == "objective" then
    return origin.plugin and "copse.objective.load" or "copse.objective." .. origin.name
  end
  return "copse." .. origin.kind
end

return node
