-- A stand-in for copse/commands/sweep.lua in tests/cli/ledger.sh: works through a ledger of made-up entries with a trivial child,
-- so that the ledger is tried with many processes and nothing else. copse sweep run FOLDER --retries ENTRIES
local ledger = require "copse.ledger"

-- The child's own mark: its process lives.
local function child_lives(folder, key)
  local pid = tonumber(system.read(folder .. "/alive/" .. key) or "")
  return pid ~= nil and system.alive(math.tointeger(pid))
end

local function keys_of(count)
  local keys = {}
  for i = 1, count do keys[i] = string.format("%03d", (i * 7 + system.pid) % count + 1) end -- everyone in another order
  return keys
end

-- Runs the child of a claim to its end; false where the claim was lost meanwhile.
local function work(book, claim, folder)
  local pid = system.spawn { argv = { "sh", system.environment("LEDGER_CHILD"), folder, claim.key } }
  while true do
    local ended, code = system.wait(0.05)
    if ended == pid then return book:finish(claim, code == 0 and "done" or "failed", { code = code, key = claim.key }) end
    if not book:beat(claim) then
      system.kill(-pid, "KILL")
      system.wait(5)
      return false
    end
  end
end

-- True once all entries are done.
local function pass(book, keys, folder)
  local now, all = book:now(), true
  for _, key in ipairs(keys) do
    local entry = book:entry(key)
    all = all and entry.state == "done"
    local free = entry.state == "pending" or entry.state == "failed" or entry.state == "claimed" and book:judge(entry, now) == "stale"
    local claim = free and book:claim(entry)
    if claim then work(book, claim, folder) end
  end
  return all
end

return {
  run = function(arguments)
    local folder = arguments.operands[1]
    local book = ledger.open(folder .. "/ledger", { beat = 0.2, lost = 2, is_running = function(key) return child_lives(folder, key) end })
    local keys = keys_of(tonumber(arguments.flags.retries))
    for _, key in ipairs(keys) do book:add(key, { key = key }) end
    while not pass(book, keys, folder) do system.sleep(0.05) end
    book:close()
  end,
}
