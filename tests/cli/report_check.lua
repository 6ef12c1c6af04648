-- lua5.4 report_check.lua FILE: is the page well-formed, and does it refer to nothing outside itself? Exit code 1 with what
-- is wrong.
local path = ...
local file = assert(io.open(path, "rb"))
local text = file:read "a"
file:close()

local problems = {}
local function problem(format, ...)
  if #problems < 10 then problems[#problems + 1] = string.format(format, ...) end
end

local known_entities = { amp = true, lt = true, gt = true, quot = true }
local function check_text(content, where)
  if content:find "[<>]" then problem("%s: a bare angle bracket in '%s'", where, content:sub(1, 60)) end
  for entity in content:gmatch "&([^;&]*;?)" do
    local name = entity:match "^(.-);$"
    if not name or not (known_entities[name] or name:find "^#%d+$") then problem("%s: '&%s' is no entity", where, entity) end
  end
end

local forbidden = { script = true, link = true, iframe = true, object = true, embed = true, base = true, use = true,
  image = true,
  video = true, audio = true, form = true, foreignObject = true }

local function check_style(style, where)
  local lower = style:lower()
  for _, word in ipairs { "url%(", "@import", "//", "https?:", "expression", "src%s*:" } do
    if lower:find(word) then problem("%s: the style holds '%s'", where, word) end
  end
end

local function check_attribute(element, name, value)
  check_text(value, element .. "/" .. name)
  if name == "src" and not value:find "^data:image/%a+;base64,[%w+/=]+$" then problem("%s: src is '%s'", element,
    value:sub(1, 60)) end
  if name == "href" and not value:find "^#[%w-]+$" then problem("%s: href is '%s'", element, value:sub(1, 60)) end
  if name:find "^on" or name:find ":" or name == "srcset" or name == "background" or name == "http-equiv" then
    problem("%s has an attribute '%s'", element, name)
  end
  if name == "style" then check_style(value, element) end
end

local function check_tag(tag)
  local element, rest = tag:match "^([%a][%w]*)(.-)/?$"
  if not element then
    problem("'<%s>' is no element", tag:sub(1, 40))
    return "?"
  end
  if forbidden[element] then problem("there is a <%s>", element) end
  local seen = {}
  local left = rest:gsub('%s+([%a][%w:-]*)="([^"]*)"', function(name, value)
    if seen[name] then problem("<%s> has %s twice", element, name) end
    seen[name] = true
    check_attribute(element, name, value)
    return ""
  end)
  if left:find "%S" then problem("<%s>: '%s' is no attribute", element, left:sub(1, 40)) end
  return element
end

-- Walks through all tags; what is opened must be closed in order.
local function walk(body)
  local open, at = {}, 1
  while true do
    local first, last, slash, tag = body:find("<(/?)([^<>]*)>", at)
    local content = body:sub(at, (first or #body + 1) - 1)
    if open[#open] == "style" then check_style(content, "style") else check_text(content, "text") end
    if not first then break end
    if slash == "/" then
      local opened = table.remove(open)
      if opened ~= tag then problem("</%s> closes <%s>", tag, tostring(opened)) end
    else
      local element = check_tag(tag)
      if tag:sub(-1) ~= "/" then open[#open + 1] = element end
    end
    at = last + 1
  end
  if #open > 0 then problem("<%s> is never closed", open[#open]) end
end

local prologue = "<!DOCTYPE html>\n"
if text:sub(1, #prologue) ~= prologue then problem "there is no doctype" end
if not utf8.len(text) then problem "the page is not valid UTF-8" end
for _, bad in ipairs { "[%z\1-\8\11-\31\127]", "\u{202E}", "\u{2066}" } do
  if text:find(bad) then problem("the page holds a control character") end
end
walk(text:sub(#prologue + 1))
for _, line in ipairs(problems) do print(path .. ": " .. line) end
os.exit(#problems == 0)
