-- What tests/cli/status.sh asks of the outputs of copse status:
--   status_member.lua RUN KEY <JSON     a member of one run
--   status_member.lua --csv FILE COUNT  that a CSV has COUNT lines beside its header, all with its number of fields
local function member(run, key)
  for object in io.read("a"):gmatch("%b{}") do
    if object:find('"name":"' .. run .. '"', 1, true) then
      local value = object:match('"' .. key .. '":("[^"]*")') or object:match('"' .. key .. '":([^,}]*)')
      print((value or ""):gsub('"', "") .. "")
      return
    end
  end
  error("no run '" .. run .. "'")
end

local function fields(line)
  local count, quoted = 1, false
  for c in line:gmatch(".") do
    if c == '"' then quoted = not quoted end
    if c == "," and not quoted then count = count + 1 end
  end
  return count
end

local function check_csv(path, wanted)
  local count, header = -1, nil
  for line in io.lines(path) do
    header = header or fields(line)
    assert(fields(line) == header, line)
    count = count + 1
  end
  assert(count == wanted, count .. " lines, " .. wanted .. " are wanted")
end

if arg[1] == "--csv" then check_csv(arg[2], tonumber(arg[3])) else member(arg[1], arg[2]) end
