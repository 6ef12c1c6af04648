#!/bin/sh
# limit: 60
# What sweeps conclude from numbers, against values worked out by hand: importance of parameters, and who is promoted in halving.
. "$(dirname "$0")/../expect.sh"
if ! command -v lua5.4 >/dev/null; then
    skip "choices of sweeps" "lua5.4 is not installed"
    finish
fi
cat >"$scratch/importance.lua" <<'END'
local importance = require "copse.importance"
local function near(a, b) assert(math.abs(a - b) < 1e-12, tostring(a) .. " is not " .. tostring(b)) end
-- Metrics 1 2 3 6: mean 3, SS_total 4 + 1 + 0 + 9 = 14. a: levels {1, 2} and {3, 6}, means 1.5 and 4.5, SS_between 2 * 2.25 * 2 = 9.
-- b: {1, 3} and {2, 6}, means 2 and 4: SS_between 4.
local trials = {
  { values = { a = "x", b = 1 }, mean = 1 }, { values = { a = "x", b = 2 }, mean = 2 },
  { values = { a = "y", b = 1 }, mean = 3 }, { values = { a = "y", b = 2 }, mean = 6 },
  { values = { a = "y", b = 9 } },                             -- no metric: not counted
  { values = { a = "y", b = 9 }, mean = 100, same_as = 4 },    -- the same run as another: not counted
}
local list = importance.of({ "a", "b", "never" }, trials)
assert(list[1].parameter == "a" and list[2].parameter == "b" and list[3].parameter == "never")
near(list[1].share, 9 / 14)
near(list[1].chance, 1 / 3)
assert(list[1].trials == 4 and list[1].levels == 2 and list[1].correlation == nil) -- no number
near(list[2].share, 4 / 14)
-- Ranks of b: 1.5 3.5 1.5 3.5, of the metric 1 2 3 4: covariance 2, variances 4 and 5.
near(list[2].correlation, 2 / math.sqrt(20))
assert(list[3].share == nil and list[3].trials == 0)
-- Twelve values: four bins of three in the order of x; the metric is the bin.
local many = {}
for i = 1, 12 do many[i] = { values = { lr = 10.0 ^ i }, mean = (i - 1) // 3 } end
local one = importance.of({ "lr" }, many)[1]
near(one.share, 1)
near(one.chance, 3 / 11)
assert(one.levels == 4)
-- All metrics equal: nothing to explain.
for _, trial in ipairs(many) do trial.mean = 5 end
assert(importance.of({ "lr" }, many)[1].share == nil)
END
cat >"$scratch/halving.lua" <<'END'
local halving = require "copse.halving"
-- scores[trial] = { at rung 1, at rung 2 } for two seeds each; nil: not a number.
local function sweep_of(scores, falls, eta)
  local own = { search = { kind = "halving", rungs = { 10, 30 }, eta = eta, metric = { name = "v.x", falls = falls } }, runs = {} }
  local outcomes = {}
  for number, values in ipairs(scores) do
    local trial = { number = number }
    for seed = 1, 2 do
      local run = { key = number .. "-" .. seed, trial = trial, seed = seed }
      own.runs[#own.runs + 1] = run
      outcomes[run.key .. "@10"] = { metrics = { ["v.x"] = values[seed] } }
    end
  end
  own.view = { outcome = function(_, entry) return outcomes[entry.key] end }
  return own
end
local function kept(scores, falls, eta, states)
  local entries = function(key)
    if key:find("@30", 1, true) then return nil end
    return { key = key, state = states and states[key] or "done" }
  end
  local items, passed = halving.items(sweep_of(scores, falls, eta), entries, function(entry) return entry.state ~= "claimed" end)
  return passed[1] and table.concat(passed[1].kept, " "), passed[1] and table.concat(passed[1].without, " "), #items
end
local four = { { 1, 3 }, { 2, 2 }, { 5, 5 }, { 0, 1 } }
assert(kept(four, false, 2) == "1 3")                         -- equals: the smaller number
assert(kept(four, true, 2) == "1 4")
assert(kept(four, false, 4) == "3")
assert(kept(four, false, 3) == "3")                           -- 4 // 3 = 1
assert(kept({ { 1, 1 }, { 9, 9 } }, true, 5) == "1")          -- at least one
local list, without, count = kept({ { nil, 9 }, { 1, 1 }, { 2, 2 }, { 9, nil } }, false, 2)
assert(list == "2 3" and without == "1 4" and count == 8 + 4) -- those without a number for a seed come last
list, without = kept({ { nil, nil }, { 1, 1 }, { nil, nil }, { nil, nil } }, false, 2)
assert(list == "2" and without == "1 3 4")                    -- and never go on
list, without = kept(four, false, 2, { ["3-2@10"] = "failed" })
assert(list == "1 2" and without == "3")
list, without, count = kept(four, false, 2, { ["3-2@10"] = "claimed" })
assert(list == nil and count == 8)                            -- a rung waits for all of it
END
check "importance" env LUA_PATH="$tree/lua/?.lua" lua5.4 "$scratch/importance.lua"
check "promotion" env LUA_PATH="$tree/lua/?.lua" lua5.4 "$scratch/halving.lua"
finish
