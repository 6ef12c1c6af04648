-- What pages of runs, comparisons and sweeps share: names of metrics in words, heads, warnings, sheets of pictures, tables of
-- keys and values. Results are finished text (html.lua).
local html = require "copse.html"
local plots = require "copse.plots"
local svg = require "copse.svg"

local parts = {}

-- ---- words ----------------------------------------------------------------------------------------------------------------

local metric_titles = {
  top1 = "top-1 accuracy", top5 = "top-5 accuracy", per_class = "accuracy, mean of classes", loss = "loss",
  shared_depth = "ranks right, of 7", tree_distance = "distance in the tree of ranks", chance = "chance",
}
local directions = { image_to_text = "image to text", text_to_image = "text to image" }

-- A metric's key in words; unknown ones as they are.
function parts.metric(key)
  if metric_titles[key] then return metric_titles[key] end
  local shots, rest = key:match("^shot(%d+)(.*)$")
  if shots then
    local what = rest == "" and "accuracy" or rest == "_std" and "deviation over folds" or rest:gsub("^_", ""):gsub("_", " ")
    return what .. ", " .. shots .. (shots == "1" and " shot" or " shots")
  end
  local direction, recall = key:match("^(%a+_to_%a+)_r(%d+)$")
  if directions[direction] then return "recall at " .. recall .. ", " .. directions[direction] end
  local ranked, which = key:match("^(%a+_to_%a+)_(%a+)_rank$")
  if directions[ranked] then return which .. " rank, " .. directions[ranked] end
  local kind, rank = key:match("^(%a+)_(%a+)$")
  if kind == "rank" then return "right down to " .. rank end
  if kind == "aggregated" then return "right " .. rank .. ", summed over its classes" end
  return key:gsub("_", " ")
end

-- Whether a metric is a share of samples, shown in per cent.
function parts.is_share(key)
  return key:find "^top%d+$" ~= nil or key:find "_r%d+$" ~= nil or key == "per_class" or key == "chance"
    or key:find "^shot%d+$" ~= nil
    or key:find "^rank_" ~= nil or key:find "^aggregated_" ~= nil or key:find "^purity_" ~= nil
end

function parts.plural(count, one, many)
  return count .. " " .. (count == 1 and one or many or one .. "s")
end

-- 8095 -> "2 h 15 min".
function parts.duration(seconds)
  if not svg.is_number(seconds) or seconds < 0 then return "not known" end
  if seconds < 100 then return plots.number(seconds) .. " s" end
  local minutes = math.floor(seconds / 60 + 0.5)
  if minutes < 100 then return minutes .. " min" end
  local hours = minutes // 60
  if hours < 48 then return hours .. " h " .. minutes % 60 .. " min" end
  return hours // 24 .. " d " .. hours % 24 .. " h"
end

function parts.bytes(count)
  if not svg.is_number(count) then return "not known" end
  local units = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" }
  local index = 1
  while count >= 1024 and index < #units do count, index = count / 1024, index + 1 end
  return plots.number(count) .. " " .. units[index]
end

-- A whole number with thin blanks between thousands.
function parts.count(number)
  if not svg.is_number(number) then return "not known" end
  local text = string.format("%.0f", number)
  if #text < 5 then return text end
  return (text:reverse():gsub("(%d%d%d)", "%1\u{202F}"):reverse():gsub("^\u{202F}", ""))
end

-- "61.2 % [58.0 to 64.0]", as finished text.
function parts.interval(interval, kind)
  if type(interval) ~= "table" or not svg.is_number(interval[1]) or not svg.is_number(interval[2]) then return "" end
  local low, high = plots.number(interval[1], kind), plots.number(interval[2], kind)
  return "[" .. low:gsub(" %%$", "") .. " to " .. high .. "]"
end

-- ---- pieces of pages --------------------------------------------------------------------------------------------------------

-- kicker: what the page is; title: of users; sections: { { id, title } } that the page has.
function parts.head(kicker, title)
  return html.element("header", nil, html.paragraph(html.escape(kicker), "kicker"), "<h1>" .. html.name(title) .. "</h1>")
end

-- Sections with a title each: { { id, title, content } }; those without content are left out, and so is their entry in the
-- list.
function parts.sections(sections)
  local links, out = {}, {}
  for _, section in ipairs(sections) do
    if section.content and section.content ~= "" then
      links[#links + 1] = html.element("a", { href = "#" .. section.id }, html.escape(section.title))
      out[#out + 1] = html.element("section", { id = section.id }, "<h2>" .. html.escape(section.title) .. "</h2>\n",
        section.content)
    end
  end
  return html.element("nav", { ["aria-label"] = "Sections" }, table.concat(links, " ")) .. table.concat(out, "\n")
end

-- Sentences as a list; escaped here.
function parts.list(sentences, class)
  local out = {}
  for i, sentence in ipairs(sentences) do out[i] = "<li>" .. html.escape(sentence) .. "</li>" end
  return #out > 0 and html.element("ul", class and { class = class }, table.concat(out, "\n")) or ""
end

-- A sentence whose end is folded away where it is very long.
local function folded(sentence)
  local text = html.clean(sentence)
  local cut = #text > 400 and text:sub(1, 300):match "^(.*)%s"
  if not cut then return "<li>" .. html.escape(text) .. "</li>" end
  return "<li>" .. html.escape(cut) .. " ..." .. html.details("all of it", html.escape(text)) .. "</li>"
end

-- What a reader must know before he believes the numbers. Sentences.
function parts.warnings(sentences, title)
  if #sentences == 0 then return "" end
  local out = {}
  for i, sentence in ipairs(sentences) do out[i] = folded(sentence) end
  return html.element("aside", { class = "warnings" }, "<h3>" .. html.escape(title) .. "</h3>",
    "<ul>" .. table.concat(out, "\n") .. "</ul>")
end

-- A picture where there is none, with the reason.
local function placeholder(reason)
  return '<svg viewBox="0 0 96 96" width="96" height="96" role="img" aria-label="no picture">'
    .. '<rect x="0.5" y="0.5" width="95" height="95" class="grid-line"/>'
    .. '<path d="M20 66L40 42L54 58L64 48L78 66Z" class="grid-line"/>'
    .. '<circle cx="64" cy="32" r="6" class="grid-line"/></svg><p class="where">No picture: ' .. html.escape(reason) .. "</p>"
end

local function picture(thumbnail, alternative)
  if not thumbnail or not thumbnail.data then return placeholder(thumbnail and thumbnail.reason or "it was not asked for") end
  return html.element("img", { src = thumbnail.data, alt = alternative, width = thumbnail.width, height = thumbnail.height })
end

-- Pictures with words below. items: { { thumbnail = { data, width, height } or { reason }, title, lines = sentences, where } }.
function parts.sheet(items)
  local out = {}
  for i, item in ipairs(items) do
    out[i] = "<li>" .. picture(item.thumbnail, item.title) .. "<b>" .. html.name(item.title) .. "</b>" .. parts.list(item.lines)
      .. (item.where and html.paragraph(html.name(item.where), "where") or "") .. "</li>"
  end
  return #out > 0 and '<ol class="sheet">' .. table.concat(out, "\n") .. "</ol>" or ""
end

-- A table of names and values that stand as they are in a job or a record; nested ones with dots.
local function flatten(value, key, out)
  if type(value) ~= "table" then
    out[#out + 1] = { html.escape(key), html.escape(type(value) == "number" and string.format("%.15g", value) or value) }
    return
  end
  local is_list, plain = #value > 0, #value > 0
  for _, element in pairs(value) do plain = plain and type(element) ~= "table" end
  if plain then
    local texts = {}
    for i, element in ipairs(value) do texts[i] = html.clean(element) end
    out[#out + 1] = { html.escape(key), html.escape(table.concat(texts, ", ")) }
    return
  end
  local keys = {}
  for name in pairs(value) do keys[#keys + 1] = name end
  table.sort(keys, function(a, b)
    if type(a) == type(b) then return a < b end
    return type(a) == "number"
  end)
  for _, name in ipairs(keys) do
    local below = is_list and key .. "[" .. name .. "]" or key == "" and tostring(name) or key .. "." .. name
    flatten(value[name], below, out)
  end
end

-- All members of a table, one a row, at most `most`.
function parts.members(value, most)
  local rows = {}
  flatten(value or {}, "", rows)
  if #rows == 0 then return "" end
  local left_out = #rows - most
  if left_out > 0 then
    rows = table.move(rows, 1, most, 1, {})
    rows[#rows + 1] = { "…", left_out .. " more" }
  end
  return html.table({ { title = "key" }, { title = "value" } }, rows)
end

-- A last line that says what made the page.
function parts.footer(text)
  return html.element("footer", nil, html.escape(text))
end

-- A grid of the figures that are there; `empty` in words where none is. figures: { { title, note, drawing } }.
function parts.figures(figures, empty)
  local out = {}
  for _, figure in ipairs(figures) do
    if figure.drawing then
      out[#out + 1] = html.figure(html.escape(figure.title), figure.drawing, figure.note and html.escape(figure.note))
    end
  end
  if #out == 0 then return empty and html.paragraph(html.escape(empty), "note") or "" end
  return html.grid(out)
end

return parts
