-- Drawings as SVG text: a canvas, the width of texts, ticks of axes. Units are those of the viewBox; a drawing is 360 wide, so
-- that it is legible on a telephone, and pages set several beside each other where there is room. No colour stands here:
-- classes
-- and variables of the page's style (html.lua) give them, and marks and dashes tell series apart without.
local html = require "copse.html"

local svg = { width = 360, size = 11 } -- of a drawing; of its texts

-- ---- texts ----------------------------------------------------------------------------------------------------------------

-- Width of characters over the size of the font; those of a wide sans-serif, so that texts seldom come out wider.
local widths = {}
for width, characters in pairs {
  [0.30] = "ijlI|!'.,:; ", [0.40] = "ftr()[]-{}\"/\\`", [0.54] = "cszJ?*^",
    [0.64] = "abdeghknopquvxyE0123456789FLSTPRZ$#_KXYBAVC&",
  [0.80] = "DGHNOQU+=<>~", [0.86] = "wM", [1.00] = "mW%@",
} do
  for character in characters:gmatch "." do widths[character:byte()] = width end
end

local function width_of(code)
  if widths[code] then return widths[code] end
  if code == 0x2212 then return 0.84 end
  if code >= 0x300 and code < 0x370 then return 0 end -- combining marks
  return code < 0x1100 and 0.7 or code >= 0x2000 and code < 0x2E80 and 1 or 1.15
end

-- How wide a text is drawn, about.
function svg.measure(text, size)
  local width = 0
  for _, code in utf8.codes(html.clean(text), true) do width = width + width_of(code) end
  return width * (size or svg.size)
end

local function pieces(text)
  local out = {}
  for _, code in utf8.codes(text, true) do out[#out + 1] = utf8.char(code) end
  return out
end

-- The text, or its start and its end around "…" where it is wider than `width`. The second result says whether it was cut.
function svg.fit(text, width, size)
  text = html.clean(text)
  if svg.measure(text, size) <= width then return text, false end
  local characters = pieces(text)
  local head, tail, room = 0, 0, width - svg.measure("…", size)
  while head + tail < #characters do
    local at_head = head <= 2 * tail -- twice as much of the start: that is where names differ
    local next_one = at_head and characters[head + 1] or characters[#characters - tail]
    room = room - svg.measure(next_one, size)
    if room < 0 then break end
    if at_head then head = head + 1 else tail = tail + 1 end
  end
  return table.concat(characters, "", 1, head) .. "…" .. table.concat(characters, "", #characters - tail + 1), true
end

-- ---- numbers --------------------------------------------------------------------------------------------------------------

function svg.is_number(x)
  return type(x) == "number" and x == x and x ~= math.huge and x ~= -math.huge
end

-- Least and largest of the finite values, moved apart where they are one; nil without any.
function svg.range(values)
  local low, high
  for _, value in ipairs(values) do
    if svg.is_number(value) then low, high = math.min(low or value, value), math.max(high or value, value) end
  end
  if not low then return nil end
  if low == high then
    local room = low == 0 and 1 or math.abs(low) * 0.1
    low, high = low - room, high + room
  end
  return low, high
end

-- Round numbers that cover low .. high in about `most` steps or fewer: first, last, step.
function svg.ticks(low, high, most)
  local rough = (high - low) / most
  local power = 10.0 ^ math.floor(math.log(rough, 10))
  local step = 10 * power
  for _, factor in ipairs { 1, 2, 2.5, 5 } do
    if factor * power >= rough * (1 - 1e-9) then
      step = factor * power
      break
    end
  end
  return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step
end

-- A number of an axis whose ticks are `step` apart.
function svg.tick_text(value, step)
  if math.abs(value) < step * 1e-6 then return "0" end
  local size = math.abs(value)
  if size >= 1e6 or size < 1e-3 then
    local text = string.format("%.3g", value):gsub("e([+-])0*(%d)", function(sign, digit) return "e" .. (sign == "-" and "-"
      or "") .. digit end)
    return (text:gsub("%-", "−"))
  end
  local digits = math.max(0, math.ceil(-math.log(step, 10) - 1e-9))
  if digits < 8 and math.abs(step * 10 ^ digits - math.floor(step * 10 ^ digits + 0.5)) > 1e-6 then digits = digits + 1 end
  return (string.format("%." .. digits .. "f", value):gsub("^%-", "−"))
end

-- A function from numbers of low .. high to places of from .. to.
function svg.scale(low, high, from, to)
  local factor = (to - from) / (high - low)
  return function(value) return from + (value - low) * factor end
end

-- ---- canvas ---------------------------------------------------------------------------------------------------------------

local Canvas = {}
Canvas.__index = Canvas

-- label: what a screen reader says of the drawing.
function svg.canvas(height, label)
  return setmetatable({ height = height, label = label, out = {} }, Canvas)
end

local function coordinate(x)
  return (string.format("%.1f", x):gsub("%.0$", ""))
end

function Canvas:add(text)
  self.out[#self.out + 1] = text
end

local function attribute(name, value)
  return value and " " .. name .. '="' .. html.escape(value) .. '"' or ""
end

function Canvas:line(x1, y1, x2, y2, class, style)
  self:add(string.format('<path d="M%s %sL%s %s"%s%s/>', coordinate(x1), coordinate(y1), coordinate(x2), coordinate(y2),
    attribute("class", class), attribute("style", style)))
end

-- points: { { x, y } }. closed: an area.
function Canvas:path(points, class, style, closed)
  local out = {}
  for i, point in ipairs(points) do
    out[i] = (i == 1 and "M" or "L") .. coordinate(point[1]) .. " " .. coordinate(point[2])
  end
  self:add('<path d="' .. table.concat(out) .. (closed and "Z" or "") .. '"' .. attribute("class", class)
    .. attribute("style", style) .. "/>")
end

function Canvas:rect(x, y, width, height, class, style)
  self:add(string.format('<rect x="%s" y="%s" width="%s" height="%s"%s%s/>', coordinate(x), coordinate(y),
    coordinate(math.max(0, width)), coordinate(math.max(0, height)), attribute("class", class), attribute("style", style)))
end

-- options: anchor "start" "middle" "end"; class; width: cut to it, the whole text is shown by pointing at it; size.
function Canvas:text(x, y, text, options)
  options = options or {}
  local shown, is_cut = text, false
  if options.width then shown, is_cut = svg.fit(text, options.width, options.size) end
  self:add(string.format('<text x="%s" y="%s"%s%s%s>%s%s</text>', coordinate(x), coordinate(y),
    attribute("text-anchor", options.anchor ~= "start" and options.anchor or nil), attribute("class", options.class),
    attribute("style", options.size and "font-size:" .. options.size .. "px" or nil),
    is_cut and "<title>" .. html.escape(text) .. "</title>" or "", html.escape(shown)))
end

function Canvas:finish()
  return string.format('<svg viewBox="0 0 %d %d" role="img" aria-label="%s">%s</svg>', svg.width, math.ceil(self.height),
    html.escape(self.label), table.concat(self.out, "\n"))
end

-- ---- series ---------------------------------------------------------------------------------------------------------------

local dashes = { "", "6 3", "2 2.5", "9 3 2 3", "4 2 1 2 1 2", "12 4", "1 3", "3 6" }
-- Marks around (0, 0), about 7 across; nil is a circle.
local marks = {
  [2] = { { -3.2, -3.2 }, { 3.2, -3.2 }, { 3.2, 3.2 }, { -3.2, 3.2 } },
  [3] = { { 0, -4.2 }, { 3.9, 3 }, { -3.9, 3 } },
  [4] = { { 0, -4.6 }, { 4.6, 0 }, { 0, 4.6 }, { -4.6, 0 } },
  [5] = { { 0, 4.2 }, { 3.9, -3 }, { -3.9, -3 } },
  [6] = { { -4, -1.3 }, { -1.3, -1.3 }, { -1.3, -4 }, { 1.3, -4 }, { 1.3, -1.3 }, { 4, -1.3 }, { 4, 1.3 }, { 1.3, 1.3 },
    { 1.3, 4 },
    { -1.3, 4 }, { -1.3, 1.3 }, { -4, 1.3 } },
  [7] = { { 0, -4.4 }, { 4.2, -1.3 }, { 2.6, 3.6 }, { -2.6, 3.6 }, { -4.2, -1.3 } },
  [8] = { { -4, -4 }, { 4, 4 }, { 4, -4 }, { -4, 4 } },
}

local function place(index)
  return (index - 1) % #dashes + 1
end

function svg.colour(index)
  return "var(--s" .. place(index) .. ")"
end

-- How the line of a series is drawn.
function svg.stroke(index)
  local dash = dashes[place(index)]
  return "stroke:" .. svg.colour(index) .. (dash ~= "" and ";stroke-dasharray:" .. dash or "")
end

-- The mark of a series; the second eight are hollow, and so is any with `hollow`.
function Canvas:mark(x, y, index, hollow)
  hollow = hollow or index > #dashes
  local style = (hollow and "" or "fill:" .. svg.colour(index) .. ";") .. "stroke:" .. svg.colour(index)
  local shape = marks[place(index)]
  if not shape then
    self:add(string.format('<circle cx="%s" cy="%s" r="3.6"%s%s/>', coordinate(x), coordinate(y),
      attribute("class", hollow and "hollow" or nil), attribute("style", style)))
    return
  end
  local points = {}
  for i, point in ipairs(shape) do points[i] = { x + point[1], y + point[2] } end
  self:path(points, hollow and "hollow" or nil, style, true)
end

-- What a list of series looks like, as a list beside plots.
function svg.key(names)
  local out = {}
  for i, name in ipairs(names) do
    local canvas = setmetatable({ out = {} }, Canvas)
    canvas:line(1, 7, 43, 7, "series", svg.stroke(i))
    canvas:mark(22, 7, i)
    out[i] = '<li><svg viewBox="0 0 44 14" aria-hidden="true">' .. table.concat(canvas.out) .. "</svg>" .. html.name(name)
      .. "</li>"
  end
  return '<ul class="key">' .. table.concat(out) .. "</ul>"
end

return svg
