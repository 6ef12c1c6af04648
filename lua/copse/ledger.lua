-- Who does which piece of work, among any number of processes on any number of hosts that share a folder.
--
-- Every entry is a folder of the ledger, and the NAME of one file in it says how it stands:
--     pending.<tries>             nobody does it; that many tries are used up
--     claimed.<try>.<token>       the process that <token> names does it
--     done.<try>.<token>          finished
--     failed.<try>.<token>        the try failed; may be tried again
--     ended.<try>.<token>         it ended for a reason that another try would meet again
-- Beside it stand entry.json (what the entry is) and outcome.<try>.<token>.json (how a try went), both whole before they count.
--
-- A change of state is ONE rename of that file, and the old name says whose it was: of all who try the same change one finds
-- the old name, the others get ENOENT. So there is no moment at which an entry has two owners, and a process that was thought
-- dead cannot record anything: the name that it would rename is gone. A rename whose reply was lost (NFS) is recognised by our
-- token in the new name. Entries are made by renaming a whole folder: of two makers one fails, because a folder with files in
-- it is never replaced. No locks, no appending to shared files.
--
-- Life: an owner touches its claim every `beat` seconds. A claim is stale when it was not touched for `lost` seconds (for three
-- beats where its process is known to be dead: same host, no such process). Ages are judged by the clock of the file system, of
-- which the judge touches a file of its own; the clocks of hosts never enter. A claim from the future is stale when the judge
-- has watched it unchanged for that long. An owner that could not touch its claim for lost / 2 gives up its work by itself,
-- before anybody may take it over.
local runs = require "copse.runs"
local text = require "copse.text"

local ledger = {}
local Ledger = {}
Ledger.__index = Ledger

local BEAT, LOST = 5, 120

-- ---- processes --------------------------------------------------------------------------------------------------------------

-- When a process of this host started, as text; nil if there is none.
local function start_of(pid)
  local start = runs.process_start(pid)
  return start and tostring(start)
end

-- <pid>-<start>-<unique>-<host>
local function new_token()
  local unique = string.format("%x", math.floor(system.now() * 1e6) % 2 ^ 40)
  return string.format("%d-%s-%s-%s", system.pid, start_of(system.pid) or "0", unique, (system.host:gsub("[^%w.-]", "_")))
end

-- { pid, start, host } of a token, nil for what is none.
function ledger.owner(token)
  local pid, start, host = token:match("^(%d+)%-(%d+)%-%x+%-(.*)$")
  return pid and { pid = math.tointeger(tonumber(pid)), start = start, host = host }
end

-- Whether the process of a token is known to be gone.
local function is_dead(token)
  local owner = ledger.owner(token)
  if not owner or owner.host ~= system.host:gsub("[^%w.-]", "_") then return false end
  local start = start_of(owner.pid)
  return start == nil or owner.start ~= "0" and start ~= owner.start
end

-- ---- opening ----------------------------------------------------------------------------------------------------------------

local function fail_io(folder, message)
  system.fail("io", "the ledger of the sweep, '%s', cannot be written: %s. Give this user the right to write there, or another "
    .. "folder of runs (--runs)", folder, message)
end

-- settings: beat, lost (seconds), is_running = function(key) (something of the entry still runs, whatever its claim says).
function ledger.open(folder, settings)
  settings = settings or {}
  local self = setmetatable({
    folder = folder, token = new_token(), beat_seconds = settings.beat or BEAT, lost_seconds = settings.lost or LOST,
    is_running = settings.is_running, watched = {},
  }, Ledger)
  self.clock_file = folder .. "/.clock." .. self.token
  local good, message = system.mkdir(folder)
  if good then good, message = system.create(self.clock_file, "") end
  if not good then fail_io(folder, message) end
  return self
end

-- For looking only.
function ledger.view(folder)
  return setmetatable({ folder = folder }, Ledger)
end

function Ledger:close()
  system.remove(self.clock_file)
end

-- ---- reading ----------------------------------------------------------------------------------------------------------------

-- One look at an entry. A folder that is listed while a name changes may show both names, or none.
local function look(folder, key)
  local names = system.list(folder .. "/" .. key)
  if not names then return nil end
  local found
  for _, name in ipairs(names) do
    local state, tries, token = name:match("^(%a+)%.(%d+)%.?(.*)$")
    if state == "pending" or state == "claimed" or state == "done" or state == "failed" or state == "ended" then
      if found then
        return { key = key, state = "damaged", tries = 0, why = "two states: " .. found.name .. " and " .. name }
      end
      found = { key = key, state = state, tries = math.tointeger(tonumber(tries)), token = token, name = name }
    end
  end
  return found or { key = key, state = "damaged", tries = 0, why = "no file says its state" }
end

-- { key, state, tries, token, name } of an entry; state "damaged" where not exactly one file says it; nil if it is not there.
function Ledger:entry(key)
  local entry
  for look_number = 1, 4 do
    entry = look(self.folder, key)
    if not entry or entry.state ~= "damaged" then return entry end
    system.sleep(0.02 * look_number)
  end
  return entry
end

-- Keys in order.
function Ledger:keys()
  local keys = {}
  for _, name in ipairs(system.list(self.folder) or {}) do
    if name:sub(1, 1) ~= "." then keys[#keys + 1] = name end
  end
  return keys
end

-- JSON of an entry's folder, nil where it is not there or cut.
local function read_json(path)
  local content = system.read(path)
  local value = content and system.decode(content, path)
  return type(value) == "table" and value or nil
end

-- What an entry is.
function Ledger:facts(key)
  return read_json(string.format("%s/%s/entry.json", self.folder, key))
end

-- How the last try of an entry went.
function Ledger:outcome(entry)
  return entry.token ~= "" and read_json(string.format("%s/%s/outcome.%d.%s.json", self.folder, entry.key, entry.tries,
    entry.token)) or nil
end

-- ---- making -----------------------------------------------------------------------------------------------------------------

-- Makes an entry, pending; false if it is there already.
function Ledger:add(key, facts)
  local path = self.folder .. "/" .. key
  if system.stat(path) then return false end
  local aside = string.format("%s/.new.%s.%s", self.folder, self.token, system.digest(key))
  local good, message = system.mkdir(aside)
  if good then good, message = system.write(aside .. "/entry.json", text.encode(facts, key) .. "\n") end
  if good then good, message = system.write(aside .. "/pending.0", "") end
  if not good then fail_io(self.folder, message) end
  if system.rename(aside, path) then return true end
  for _, name in ipairs { "entry.json", "pending.0" } do system.remove(aside .. "/" .. name) end
  system.remove(aside)
  if not system.stat(path) then fail_io(self.folder, "entry '" .. key .. "' cannot be made") end
  return false
end

-- Writes entry.json anew, where it was cut.
function Ledger:mend(key, facts)
  system.write(string.format("%s/%s/entry.json", self.folder, key), text.encode(facts, key) .. "\n")
end

-- ---- changing ---------------------------------------------------------------------------------------------------------------

-- Renames the state's file; true if that was us.
function Ledger:change(key, from, to)
  local folder = self.folder .. "/" .. key .. "/"
  local good, message, code = system.rename(folder .. from, folder .. to)
  if good or to:find(self.token, 1, true) and system.stat(folder .. to) then return true end
  if code ~= "ENOENT" and code ~= "ESTALE" then fail_io(self.folder, message) end
  return false
end

-- Takes an entry: { key, try, name, beaten }, nil if somebody else was faster.
function Ledger:claim(entry)
  local path = string.format("%s/%s/%s", self.folder, entry.key, entry.name)
  if not system.touch(path) then return nil end -- the claim must not look old from the start
  local try = entry.tries + 1 -- a try whose owner was lost counts
  local name = string.format("claimed.%d.%s", try, self.token)
  if not self:change(entry.key, entry.name, name) then return nil end
  return { key = entry.key, try = try, name = name, beaten = system.clock() }
end

-- Says that we live; false: the claim is lost, and its work must end at once.
function Ledger:beat(claim)
  if system.clock() - claim.beaten < self.beat_seconds then return true end
  local good, _, code = system.touch(string.format("%s/%s/%s", self.folder, claim.key, claim.name))
  if good then
    claim.beaten = system.clock()
    return true
  end
  return code ~= "ENOENT" and system.clock() - claim.beaten < self.lost_seconds / 2
end

-- Ends a claim as "done", "failed" or "ended"; false: it was lost, nothing is recorded.
function Ledger:finish(claim, state, outcome)
  local path = string.format("%s/%s/outcome.%d.%s.json", self.folder, claim.key, claim.try, self.token)
  local good, message = system.write(path, text.encode(outcome, claim.key) .. "\n")
  if not good then fail_io(self.folder, message) end
  if self:change(claim.key, claim.name, string.format("%s.%d.%s", state, claim.try, self.token)) then return true end
  system.remove(path)
  return false
end

-- Gives a claim back as if it had not been tried.
function Ledger:release(claim)
  return self:change(claim.key, claim.name, string.format("pending.%d", claim.try - 1))
end

-- An entry that is to be done again from the first try.
function Ledger:reopen(entry)
  return self:change(entry.key, entry.name, "pending.0")
end

-- ---- judging ----------------------------------------------------------------------------------------------------------------

-- The file system's now.
function Ledger:now()
  local good, message = system.touch(self.clock_file)
  local facts = good and system.stat(self.clock_file)
  if not facts then fail_io(self.folder, message or "its clock file is gone") end
  return facts.time
end

-- "stale": may be taken over; "alive": was seen to beat; "unknown": too early to say; "gone": no longer there.
function Ledger:judge(entry, now)
  local facts = system.stat(string.format("%s/%s/%s", self.folder, entry.key, entry.name))
  if not facts then return "gone" end
  local watched = entry.key .. "/" .. entry.name
  local seen = self.watched[watched]
  if not seen or seen.time ~= facts.time then
    local was_seen = seen ~= nil
    seen = { time = facts.time, since = system.clock(), alive = was_seen }
    self.watched[watched] = seen
  end
  local limit = is_dead(entry.token) and 3 * self.beat_seconds or self.lost_seconds
  local quiet = math.max(system.clock() - seen.since, facts.time <= now and now - facts.time or 0)
  if quiet <= limit then return seen.alive and "alive" or "unknown" end
  if self.is_running and self.is_running(entry.key) then return "unknown" end
  return "stale"
end

return ledger
