-- `copse sweep run`: starts the runs of a sweep as children, several at once, and writes down what became of them. Everything
-- that must outlive this process is in the ledger.
local halving = require "copse.halving"
local ledger = require "copse.ledger"
local runs = require "copse.runs"
local sweep = require "copse.sweep"

local runner = {}
local Runner = {}
Runner.__index = Runner

local POLL_SECONDS = 1
local GENTLE_STOP = 85                                     -- checkpointed after a signal
local STATED = { [1] = true, [64] = true, [65] = true, [69] = true } -- another try would meet them again

-- ---- what there is to do ----------------------------------------------------------------------------------------------------

local function selected(self, run)
  return not self.settings.only or self.settings.only[run.trial.number]
end

function Runner:is_final(entry)
  return entry.state == "done" or entry.state == "ended" or entry.state == "damaged"
    or (entry.state == "failed" or entry.state == "pending") and entry.tries > self.settings.retries
end

-- The items of the sweep as it stands: { key, run, until_step }.
function Runner:find_items()
  local own = self.own
  if own.search.kind ~= "halving" then
    if not self.items then
      self.items = {}
      for i, run in ipairs(own.runs) do self.items[i] = { key = run.key, run = run } end
    end
    return
  end
  local passed
  self.items, passed = halving.items(own, function(key) return self.entries[key] end,
    function(entry) return self:is_final(entry) end)
  for i = self.rungs_told + 1, #passed do self:tell_rung(passed[i]) end
end

function Runner:tell_rung(rung)
  self.rungs_told = self.rungs_told + 1
  local metric = self.own.search.metric.name
  if #rung.without > 0 then
    system.log("warning", string.format("rung of %d steps: no finite '%s' from trial %s: ranked last", rung.step, metric,
      table.concat(rung.without, ", ")))
  end
  system.log("info", string.format("rung of %d steps is through by '%s': %s", rung.step, metric,
    #rung.kept > 0 and "trial " .. table.concat(rung.kept, ", ") .. " goes on" or "no trial goes on"))
end

local function facts_of(item)
  local run = item.run
  return { run = run.key, number = run.trial.number, seed = run.seed, digest = run.digest, values = run.trial.values,
    until_step = item.until_step }
end

-- Makes what the ledger lacks; false: another runner gave a name to another job meanwhile.
function Runner:register()
  for _, item in ipairs(self.items) do
    if not self.entries[item.key] then
      if not self.book:add(item.key, facts_of(item)) then
        local facts = self.book:facts(item.key)
        if facts and facts.digest ~= item.run.digest then return false end
        if not facts then
          system.log("warning", string.format("ledger entry '%s' was damaged: its entry.json is written anew", item.key))
          self.book:mend(item.key, facts_of(item))
        end
      end
      self.entries[item.key] = self.book:entry(item.key)
    end
  end
  return true
end

function Runner:register_all()
  for _ = 1, 5 do
    self:find_items()
    if self:register() then return end
    sweep.reopen(self.own)
    self.items, self.entries = nil, {}
  end
  system.fail("io", "other runners keep adding trials to '%s': start this one again", self.own.folder)
end

-- Reads all entries anew.
function Runner:refresh()
  self:find_items()
  for _, item in ipairs(self.items) do self.entries[item.key] = self.book:entry(item.key) end
  self:find_items()
  self:register()
  self.refreshed = system.clock()
end

-- ---- picking ----------------------------------------------------------------------------------------------------------------

-- Whether an entry may be claimed now; also whether it is worth waiting for.
function Runner:is_free(entry, now)
  if entry.state == "pending" or entry.state == "failed" then return entry.tries <= self.settings.retries, false end
  if entry.state ~= "claimed" or entry.token == self.book.token then return false, false end
  local verdict = self.book:judge(entry, now)
  return verdict == "stale", verdict ~= "alive" or self.own.search.kind == "halving" -- there may be another rung
end

-- The item at place `i` of the order in which this runner looks: an array's task begins at its own.
function Runner:at(i)
  return self.items[(i - 1 + (self.settings.task or 0)) % #self.items + 1]
end

-- A claim that was taken over after too many tries is not tried again.
function Runner:give_up(item, claim)
  local outcome = { error = string.format("its runner was lost, after %d tries", claim.try - 1), host = system.host }
  self.book:finish(claim, "failed", outcome)
  self.entries[item.key] = self.book:entry(item.key)
end

function Runner:try_claim(item)
  local claim = self.book:claim(self.entries[item.key])
  self.entries[item.key] = self.book:entry(item.key)
  if claim and claim.try > self.settings.retries + 1 then
    self:give_up(item, claim)
    return nil
  end
  return claim
end

-- One pass over the items: item and claim, or nil and whether to wait for others. Entries of few tries come first.
function Runner:pass()
  local now = self.book:now()
  local wait = false
  for tries = 0, self.settings.retries + 1 do
    for i = 1, #self.items do
      local item = self:at(i)
      local entry = self.entries[item.key]
      if entry and entry.tries == tries and not self.skip[item.key] and selected(self, item.run) then
        local free, worth = self:is_free(entry, now)
        local claim = free and self:try_claim(item)
        if claim then return item, claim end
        wait = wait or worth
      end
    end
  end
  return nil, wait
end

function Runner:pick()
  local item, claim = self:pass()
  if item or self.running > 0 and system.clock() - self.refreshed < POLL_SECONDS then return item, claim end
  self:refresh()
  return self:pass()
end

-- ---- children ---------------------------------------------------------------------------------------------------------------

function Runner:threads()
  local settings = self.settings
  if settings.threads then return settings.threads end
  local given = math.tointeger(tonumber(system.environment("SLURM_CPUS_PER_TASK") or ""))
  return math.max(1, (given or system.cores // settings.ranks) // settings.jobs)
end

function Runner:command(item)
  local folder = self.own.folder
  local argv = { system.program, "train", string.format("%s/jobs/%s.lua", folder, item.run.key), "--runs", folder, "--run",
    item.run.key, "--threads", tostring(self:threads()) }
  if self.settings.ranks > 1 then table.move({ "--ranks", tostring(self.settings.ranks) }, 1, 2, #argv + 1, argv) end
  if item.until_step then table.move({ "--until", tostring(item.until_step), "--evaluate" }, 1, 3, #argv + 1, argv) end
  return argv
end

-- Writes the job, unless it is there, and starts it.
function Runner:start(item, claim)
  local folder, key = self.own.folder, item.run.key
  local path = string.format("%s/jobs/%s.lua", folder, key)
  local log = string.format("%s/logs/%s.log", folder, key)
  local good, message, code = system.create(path, item.run.source)
  if not good and code ~= "EEXIST" then system.fail("io", "%s", message) end
  local pid, why = system.spawn { argv = self:command(item), output = log }
  if not pid then
    self:record(item, claim, "failed", { error = why, host = system.host })
    return
  end
  self.mine[item.key] = true
  self.children[pid] = { item = item, claim = claim, log = log, started = system.clock() }
  self.running = self.running + 1
end

-- The last error that a log holds.
local function last_error(log)
  local content, found = system.read(log) or "", nil
  for line in content:gmatch("[^\n]+") do
    if line:sub(1, 6) == "error:" then found = line:sub(8) end
  end
  return found
end

-- Notes how a try went, in the ledger and to the user.
function Runner:record(item, claim, state, outcome)
  local kept = self.book:finish(claim, state, outcome)
  self.entries[item.key] = self.book:entry(item.key)
  if not kept then
    system.log("warning", item.key .. ": its claim was lost: what this runner did is not recorded")
    return
  end
  self.finished = self.finished + (self:is_final(self.entries[item.key]) and 1 or 0)
  self:tell_end(item, state, outcome)
end

function Runner:tell_end(item, state, outcome)
  local counts = self:counts()
  local head = string.format("[%d/%d] %s", counts.done + counts.failed, counts.all, item.key)
  local metric = self.own.metric and self.own.metric.name
  if state == "done" then
    local value = metric and outcome.metrics[metric]
    system.log("info", string.format("%s: %s (%s)", head, value and metric .. " " .. sweep.show(value)
      or metric and metric .. " is not a number" or "done", runner.duration(outcome.seconds)))
  else
    local final = self:is_final(self.entries[item.key])
    system.log("warning", string.format("%s: %s: %s%s", head, outcome.code and "exit code " .. outcome.code or "failed",
      outcome.error or "no error message", final and "" or "; it will be tried again"))
  end
end

-- What the end of a child means.
function Runner:finish(pid, code)
  local child = self.children[pid]
  if not child then return end
  self.children[pid], self.running = nil, self.running - 1
  local item, claim = child.item, child.claim
  if child.lost then return end
  if code == GENTLE_STOP or self.stopping and code ~= 0 then
    self.book:release(claim)
    self.entries[item.key] = self.book:entry(item.key)
    self.skip[item.key] = true
    if not self.stopping then system.log("info", item.key .. ": was asked to stop; it is left for another start") end
    return
  end
  local outcome = { code = code, seconds = system.clock() - child.started, host = system.host, until_step = item.until_step }
  if code == 0 then
    self.seconds, self.timed = self.seconds + outcome.seconds, self.timed + 1
    outcome.metrics = sweep.metrics(self.own.folder .. "/" .. item.run.key, item.until_step)
    self:record(item, claim, "done", outcome)
  else
    outcome.error = last_error(child.log)
    self:record(item, claim, STATED[code] and "ended" or "failed", outcome)
  end
end

-- Touches the claims; ends children whose claim was taken over.
function Runner:beat()
  for pid, child in next, self.children do
    if not child.lost and not self.book:beat(child.claim) then
      child.lost = true
      self.entries[child.item.key] = self.book:entry(child.item.key)
      system.log("warning", child.item.key .. ": its claim was lost (this runner was thought dead); its process is ended")
      system.kill(-pid, "KILL")
    end
  end
end

-- ---- signals ----------------------------------------------------------------------------------------------------------------

function Runner:heed_signals()
  for _, signal in ipairs(system.signals()) do
    if not self.stopping then
      self.stopping = true
      system.log("info", string.format("SIG%s: %d runs end with a checkpoint; once more ends them at once", signal,
        self.running))
      for pid in next, self.children do system.kill(pid, "TERM") end
    else
      for pid in next, self.children do system.kill(-pid, "KILL") end
    end
  end
end

-- ---- telling ----------------------------------------------------------------------------------------------------------------

function runner.duration(seconds)
  if not seconds then return "?" end
  if seconds < 100 then return string.format("%.1f s", seconds) end
  if seconds < 6000 then return string.format("%.0f min", seconds / 60) end
  return string.format("%.1f h", seconds / 3600)
end

function Runner:counts()
  local counts = { done = 0, failed = 0, running = self.running, elsewhere = 0, all = 0, left = 0 }
  for _, item in ipairs(self.items) do
    local entry = self.entries[item.key]
    if entry and selected(self, item.run) then
      counts.all = counts.all + 1
      if entry.state == "done" then
        counts.done = counts.done + 1
      elseif self:is_final(entry) then
        counts.failed = counts.failed + 1
      elseif entry.state == "claimed" and entry.token ~= self.book.token then
        counts.elsewhere = counts.elsewhere + 1
      end
    end
  end
  counts.left = counts.all - counts.done - counts.failed
  return counts
end

function Runner:tell()
  if not system.terminal.errors then return end
  local counts = self:counts()
  local eta = self.timed > 0 and self.running > 0
    and ", " .. runner.duration(self.seconds / self.timed * counts.left / self.settings.jobs) .. " left" or ""
  system.live(string.format("sweep %s: %d of %d done, %d running, %d failed%s", self.own.name, counts.done, counts.all,
    counts.running + counts.elsewhere, counts.failed, eta))
end

-- ---- the loop ---------------------------------------------------------------------------------------------------------------

-- Starts what there is room for. "work": children run; "wait": for others; "over": nothing is left to do here.
function Runner:fill()
  while not self.stopping and self.running < self.settings.jobs do
    if self.settings.task and self.finished > 0 then break end
    local item, claim = self:pick()
    if not item then return self.running > 0 and "work" or claim and "wait" or "over" end
    self:start(item, claim)
  end
  return self.running > 0 and "work" or "over"
end

function Runner:pause()
  if self.running == 0 then return system.sleep(POLL_SECONDS / 2) end
  local pid, code = system.wait(POLL_SECONDS)
  while pid do
    self:finish(pid, code)
    pid, code = system.wait(0)
  end
end

function Runner:loop()
  while true do
    self:heed_signals()
    local what = self:fill()
    self:tell()
    if what == "over" then return end
    self:pause()
    self:beat()
  end
end

-- Why an entry failed for good.
function Runner:reason(item, entry)
  if entry.why then
    return string.format("ledger entry damaged, %s: delete the folder %s/%s to have it done again", entry.why, self.book.folder,
      item.key)
  end
  return (self.book:outcome(entry) or {}).error or "no error message"
end

-- Says what failed (a task of an array: of its own); whether anything did.
function Runner:tell_failures()
  local any = false
  for _, item in ipairs(self.items) do
    local entry = self.entries[item.key]
    local concerns = selected(self, item.run) and (not self.settings.task or self.mine[item.key])
    if entry and concerns and entry.state ~= "done" and self:is_final(entry) then
      any = true
      system.log("error", string.format("%s failed: %s; see %s/logs/%s.log", item.key, self:reason(item, entry),
        self.own.folder, item.run.key))
    end
  end
  return any
end

-- The exit code.
function Runner:conclude()
  self:refresh()
  local counts = self:counts()
  system.log("info", string.format("sweep '%s': %d of %d runs done, %d failed%s%s; 'copse sweep results %s' shows them",
    self.own.name, counts.done, counts.all, counts.failed,
    counts.elsewhere > 0 and ", " .. counts.elsewhere .. " under way in other runners" or "",
    counts.left > counts.elsewhere and ", " .. counts.left - counts.elsewhere .. " to be done" or "", self.own.folder))
  local failed = self:tell_failures()
  if self.stopping and counts.left > 0 then return GENTLE_STOP end
  return failed and 1 or 0
end

-- ---- starting ---------------------------------------------------------------------------------------------------------------

-- A run whose folder was deleted by hand is done again, and so is, when asked, what failed.
function Runner:reopen()
  for _, item in ipairs(self.items) do
    local entry = self.entries[item.key]
    local wanted = entry and selected(self, item.run)
    local gone = wanted and entry.state == "done" and not system.stat(self.own.folder .. "/" .. item.run.key)
    local again = wanted and self.settings.again and (entry.state == "failed" or entry.state == "ended")
    if gone then
      system.log("warning", string.format("%s: was done, but its folder was deleted: it is done again", item.run.key))
    end
    if (gone or again) and self.book:reopen(entry) then self.entries[item.key] = self.book:entry(item.key) end
  end
end

local goes_on = { starting = true, running = true, evaluating = true }

-- Whether the training of an entry still runs, whatever became of its runner: its own heartbeat says so.
local function heartbeat_check(own, lost)
  return function(key)
    local path = string.format("%s/%s/heartbeat.json", own.folder, key:match("^[^@]+"))
    local facts, content = system.stat(path), system.read(path)
    local beat = content and system.decode(content)
    if not facts or type(beat) ~= "table" or not goes_on[beat.state] then return false end
    local lives = runs.lives(beat)
    if lives ~= nil then return lives end
    return own.book:now() - facts.time < lost
  end
end

-- settings: jobs, ranks, threads, retries, only = { [number] = true }, again, task (from 0), lost. Returns the exit code.
function runner.run(own, settings)
  sweep.keep(own)
  local self = setmetatable({ own = own, settings = settings, entries = {}, children = {}, skip = {}, mine = {}, running = 0,
    finished = 0, seconds = 0, timed = 0, rungs_told = 0, refreshed = system.clock() }, Runner)
  self.book = ledger.open(own.folder .. "/ledger", { lost = settings.lost, is_running = heartbeat_check(own, settings.lost) })
  own.book = self.book
  system.signals()
  self:register_all()
  self:refresh()
  self:reopen()
  self:refresh()
  local counts = self:counts()
  system.log("info", string.format("sweep '%s': %d runs of %d trials, %d done; %d at once, %d ranks of %d threads each",
    own.name, counts.all, #own.trials, counts.done, settings.jobs, settings.ranks, self:threads()))
  self:loop()
  local code = self:conclude()
  self.book:close()
  return code
end

return runner
