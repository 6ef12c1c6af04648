-- Text for pages that people open in a browser: escaping, elements, the skeleton of a page with its style.
-- Pages are XML as well as HTML, and refer to nothing outside themselves. What comes from users passes html.escape.
local html = {}

-- Characters that turn the direction of what follows, or that XML cannot hold.
local function is_unfit(code)
  return code < 32 and code ~= 10 or code >= 127 and code < 160 or code >= 0x202A and code <= 0x202E
    or code >= 0x2066 and code <= 0x2069 or code >= 0xD800 and code <= 0xDFFF or code >= 0xFFFE and code <= 0xFFFF
    or code > 0x10FFFF
end

local function clean_valid(s)
  if not s:find "[%z\1-\9\11-\31\127-\255]" then return s end
  local out = {}
  for _, code in utf8.codes(s, true) do
    out[#out + 1] = (code == 9 or code == 13) and " " or is_unfit(code) and "\u{FFFD}" or utf8.char(code)
  end
  return table.concat(out)
end

-- The text as valid UTF-8 that XML can hold; what cannot be shown becomes U+FFFD.
function html.clean(value)
  local s = tostring(value)
  local out, from = {}, 1
  while true do
    local _, bad = utf8.len(s, from, -1, true)
    if not bad then break end
    out[#out + 1] = clean_valid(s:sub(from, bad - 1))
    out[#out + 1] = "\u{FFFD}"
    from = bad + 1
  end
  out[#out + 1] = clean_valid(s:sub(from))
  return table.concat(out)
end

local entities = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

-- For element content and attribute values alike.
function html.escape(value)
  return (html.clean(value):gsub("[&<>\"']", entities))
end

-- A piece of finished text inside others is a string; everything of users goes through html.escape or html.name.
-- html.element("td", { class = "n" }, "a", "b"): content is finished text.
function html.element(name, attributes, ...)
  local out = { "<", name }
  local keys = {}
  for key in pairs(attributes or {}) do keys[#keys + 1] = key end
  table.sort(keys)
  for _, key in ipairs(keys) do
    out[#out + 1] = " " .. key .. '="' .. html.escape(attributes[key]) .. '"'
  end
  local content = table.concat({ ... })
  local is_void = name == "img" or name == "br" or name == "meta"
  out[#out + 1] = is_void and "/>" or ">" .. content .. "</" .. name .. ">"
  return table.concat(out)
end

-- A name of users: its writing direction stays its own.
function html.name(value)
  return "<bdi>" .. html.escape(value) .. "</bdi>"
end

function html.paragraph(text, class)
  return html.element("p", class and { class = class }, text)
end

-- Finished text without its elements, for an attribute: what a cell says of its column where a narrow screen has no head.
local function label_of(title)
  return (title:gsub("<small>", " "):gsub("<[^>]*>", ""))
end

local function head_of(columns)
  local out = {}
  for i, column in ipairs(columns) do
    out[i] = html.element("th", { scope = "col", class = column.number and "n" or nil }, column.title)
  end
  return "<thead><tr>" .. table.concat(out) .. "</tr></thead>"
end

local function row_of(cells, columns)
  local out = { '<th scope="row">' .. (cells[1] or "") .. "</th>" }
  for i = 2, #columns do
    out[i] = '<td data-label="' .. label_of(columns[i].title) .. '"' .. (columns[i].number and ' class="n"' or "") .. ">"
      .. (cells[i] or "") .. "</td>"
  end
  return "<tr>" .. table.concat(out) .. "</tr>"
end

-- columns: { { title = finished text, number = right-aligned } }; rows: lists of finished texts, the first names the row. A
-- wide
-- table scrolls in its box; on a narrow screen rows become lists of labels and values.
function html.table(columns, rows)
  local lines = {}
  for i, row in ipairs(rows) do lines[i] = row_of(row, columns) end
  return '<div class="scroll"><table>' .. head_of(columns) .. "\n<tbody>" .. table.concat(lines, "\n")
    .. "</tbody></table></div>"
end

-- Two columns, name and value, both finished text.
function html.facts(pairs_)
  local out = {}
  for i, pair in ipairs(pairs_) do
    out[i] = "<div><dt>" .. pair[1] .. "</dt><dd>" .. pair[2] .. "</dd></div>"
  end
  return '<dl class="facts">' .. table.concat(out) .. "</dl>"
end

-- A part that is folded away until asked for; printers show it only when it is open.
function html.details(title, content)
  return "<details><summary>" .. title .. "</summary>" .. content .. "</details>"
end

function html.figure(title, content, note)
  return '<figure><figcaption><b>' .. title .. "</b>" .. (note and " " .. note or "") .. "</figcaption>" .. content
    .. "</figure>"
end

-- Figures beside each other where there is room, else below each other.
function html.grid(figures)
  return '<div class="grid">' .. table.concat(figures, "\n") .. "</div>"
end

-- Every series has dashes and a mark of its own besides its colour, so grey print and colour-blind eyes lose nothing.
local style = [[
:root { --ink: #1b1b1a; --soft: #5c5c58; --line: #d4d3cd; --faint: #f1f0eb; --paper: #fff; --link: #1f4e79; --s1: #1f4e79;
  --s2: #b5471b; --s3: #00745a; --s4: #8a3f80; --s5: #7a5c00; --s6: #3a3a3a; --s7: #2b83ba; --s8: #a3123a }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e9e8e3; --soft: #a9a8a1; --line: #43433f; --faint: #262624;
  --paper: #191918; --link: #9cc4ec; --s1: #8dbdf0; --s2: #f0976a; --s3: #58c9a9; --s4: #d79acd; --s5: #d9b84a; --s6: #d0d0d0;
  --s7: #6fc3ee; --s8: #f38aa6 } }
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 76rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.75rem; line-height: 1.2; margin: .2rem 0 .8rem }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .5rem; border-top: 2px solid var(--ink) }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem }
p, ul, ol { max-width: 46rem; margin: .5rem 0 }
ul, ol { padding-left: 1.3rem }
li { margin: .2rem 0 }
.kicker, .note, figcaption { color: var(--soft); font-size: .875rem }
.kicker { margin: 0 }
.verdict { font-size: 1.12rem; max-width: 52rem }
.verdict li { margin: .35rem 0 }
.warnings { border: 1px solid var(--line); border-left: 6px solid var(--ink); background: var(--faint); padding: .5rem 1rem;
  margin: 1rem 0; max-width: 54rem }
.warnings h3 { margin: .2rem 0 }
nav { font-size: .9rem; margin: 1rem 0 }
nav a { color: var(--link); margin-right: 1rem; display: inline-block }
.scroll { overflow-x: auto; margin: .8rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; line-height: 1.35 }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word; max-width: 24rem; font-weight: 400 }
thead th { font-weight: 600; border-bottom: 2px solid var(--ink); vertical-align: bottom; min-width: 3.2rem; max-width: 9rem }
tbody th { min-width: 5.5rem; max-width: 18rem; overflow-wrap: anywhere }
.n { text-align: right }
td.n { white-space: nowrap }
td small, th small { display: block; color: var(--soft); font-size: .8rem; font-weight: 400 }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1.4rem 1.6rem;
  align-items: start; margin: .8rem 0 }
.beside { display: grid; grid-template-columns: minmax(0, 24rem) minmax(0, 1fr); gap: 1.4rem 2rem; align-items: start }
figure { margin: .8rem 0; min-width: 0; break-inside: avoid }
.grid figure { margin: 0 }
figcaption { margin-bottom: .3rem }
figcaption b { color: var(--ink) }
svg { display: block; width: 100%; height: auto; max-width: 30rem }
svg text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; fill: var(--ink);
  font-variant-numeric: tabular-nums; paint-order: stroke; stroke: var(--paper); stroke-width: 3px; stroke-linejoin: round }
svg .cell { stroke: none }
svg .soft { fill: var(--soft) }
svg .strong { font-weight: 700 }
svg .grid-line, svg .row-line { stroke: var(--line); stroke-width: 1; fill: none }
svg .axis { stroke: var(--soft); stroke-width: 1; fill: none }
svg .zero { stroke: var(--ink); stroke-width: 1.5 }
svg .series { fill: none; stroke-width: 1.75; stroke-linejoin: round }
svg .band { stroke: none; fill-opacity: .16 }
svg .hollow { fill: var(--paper) }
svg .bar { fill: var(--soft) }
svg .bar.first { fill: var(--ink) }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0; margin: .3rem 0 .6rem; max-width: none;
  font-size: .875rem }
.key li { margin: 0; display: flex; gap: .4rem; align-items: center; min-width: 0 }
.key svg { width: 44px; height: 14px; flex: none }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 10.5rem), 1fr)); gap: 1rem; list-style: none;
  padding: 0; margin: .8rem 0; max-width: none }
.sheet > li { margin: 0; break-inside: avoid; font-size: .82rem; line-height: 1.3; border-top: 1px solid var(--line);
  padding-top: .5rem; min-width: 0 }
.sheet img, .sheet svg { display: block; max-width: 100%; width: auto; height: auto; max-height: 128px; margin-bottom: .3rem }
.sheet ul { list-style: none; padding: 0; margin: .2rem 0 }
.sheet .where { color: var(--soft); font-size: .75rem }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: .4rem 1.6rem;
  margin: .8rem 0 }
.facts div { border-top: 1px solid var(--line); padding: .25rem 0; min-width: 0 }
dt { color: var(--soft); font-size: .8rem }
dd { margin: 0 }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; font-size: .9em }
summary { cursor: pointer; color: var(--link) }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; border-top: 1px solid var(--line); padding-top: .6rem }
@media screen and (max-width: 54rem) { .beside { grid-template-columns: minmax(0, 1fr) } }
@media screen and (max-width: 34rem) {
  body { font-size: 15px }
  h1 { font-size: 1.4rem }
  .sheet { grid-template-columns: repeat(2, minmax(0, 1fr)) }
  table, tbody, tr, tbody th, td, td.n { display: block; width: 100%; max-width: none; white-space: normal }
  thead { display: none }
  tr { border-bottom: 1px solid var(--line); padding: .4rem 0 }
  th, td { border: 0; padding: .1rem 0; overflow-wrap: anywhere }
  tbody th { font-weight: 600 }
  td, td.n { display: flex; justify-content: space-between; gap: 0 1rem; flex-wrap: wrap; text-align: right }
  td::before { content: attr(data-label); color: var(--soft); text-align: left }
  td small { flex-basis: 100% }
  td:empty { display: none }
}
@media print {
  :root { --ink: #000; --soft: #444; --line: #bbb; --faint: #f4f4f4; --paper: #fff; --link: #000 }
  html { font-size: 10pt }
  body { font-size: 1rem; max-width: none; padding: 0 }
  nav { display: none }
  h2, h3 { break-after: avoid }
  tr, li { break-inside: avoid }
  .scroll { overflow: visible }
  .grid, .beside { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr) }
  @page { margin: 16mm }
}
]]

local head = [[
<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
]]

-- The whole page. title: text of users; body: finished text.
function html.page(title, body)
  return head .. "<title>" .. html.escape(title) .. "</title>\n<style>\n" .. style .. "</style></head>\n<body>\n" .. body
    .. "\n</body></html>\n"
end

return html
