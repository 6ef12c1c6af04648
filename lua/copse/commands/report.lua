-- copse report RUN|DIR...: a page for a browser of a run, a comparison (a folder with comparison.json) or a sweep (sweep.json).
local gather = require "copse.gather"
local page = require "copse.page"
local runs = require "copse.runs"

local most_bytes = 256 * 2 ^ 20

local function is_file(path)
  local facts = system.stat(path)
  return facts ~= nil and facts.kind == "file"
end

local function comparison_page(folder, pictures)
  local path = folder .. "/comparison.json"
  local content, message = system.read(path, most_bytes)
  if not content then system.fail("io", "%s", message) end
  local comparison
  comparison, message = system.decode(content, path)
  if type(comparison) ~= "table" or comparison.format ~= "copse-comparison" then
    system.fail("data", "'%s' is no comparison%s: make it again with 'copse compare --out'", path, message and " ("
      .. message .. ")" or "")
  elseif comparison.version ~= 1 then
    system.fail("data", "'%s' has version %s, this Copse reads 1: make it again with 'copse compare --out'", path,
      tostring(comparison.version))
  end
  return page.comparison(comparison, gather.comparison(comparison, folder, pictures)), "comparison.html"
end

local function sweep_page(folder)
  local summary = require("copse.sweep").summary(folder)
  summary.copse, summary.made = system.version, system.date(system.now())
  return page.sweep(summary), "report.html"
end

local function run_page(folder, pictures)
  local found = runs.find { folder }
  if #found ~= 1 or not found[1] or system.absolute(found[1].folder) ~= system.absolute(folder) then
    system.fail("usage", "'%s' is no run, no comparison and no sweep%s", folder, #found > 0
      and string.format(", but holds %d runs: name one of them, such as '%s'", #found, found[1].folder) or "")
  end
  local facts = gather.run(folder, pictures)
  if not facts then system.fail("missing", "the run '%s' has gone while it was read", folder) end
  return page.run(facts), "report.html"
end

-- What a word of the command line names: a folder, or a run in ./runs.
local function folder_of(word)
  local facts, place = system.stat(word), word
  if not facts and not word:find("/", 1, true) then facts, place = system.stat("runs/" .. word), "runs/" .. word end
  if not facts then system.fail("missing", "there is no folder '%s': name a run, or the folder of a comparison or a sweep",
    word) end
  if facts.kind ~= "folder" then system.fail("usage", "'%s' is not a folder: name a run, or the folder of a comparison or a "
    .. "sweep", word) end
  return (place:gsub("(.)/+$", "%1"))
end

local function report(word, out, pictures)
  local folder = folder_of(word)
  local make = is_file(folder .. "/comparison.json") and comparison_page or is_file(folder .. "/sweep.json") and sweep_page
    or run_page
  local text, name = make(folder, pictures)
  local path = out or folder .. "/" .. name
  local good, message = system.write(path, text)
  if not good then system.fail("io", "%s", message) end
  system.print(string.format("%s: %.0f KB, opens in any browser", path, #text / 1000))
end

local function pictures_of(flags)
  local given = flags.pictures
  if not given then return nil end
  local count = math.tointeger(tonumber(given))
  if not count or count < 0 or count > 500 then system.fail("usage", "--pictures '%s': a whole number from 0 to 500 is "
    .. "wanted", given) end
  return count
end

return {
  run = function(arguments)
    local words, flags = arguments.operands, arguments.flags
    if flags.out and #words > 1 then
      system.fail("usage", "--out names one page, but there are %d folders: leave it out, then each gets its own", #words)
    end
    local pictures = pictures_of(flags)
    for _, word in ipairs(words) do report(word, flags.out, pictures) end
  end,
}
