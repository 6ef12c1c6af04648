-- Tables for people and for programs: text fitted to a width, CSV.
local tables = {}

-- Characters of a text as a terminal shows them, one cell each; bytes that are no UTF-8 count one.
function tables.width(text)
  return utf8.len(text) or #text
end

-- The first or last `count` characters.
local function first(text, count)
  if count <= 0 then return "" end
  local ends = utf8.len(text) and utf8.offset(text, count + 1)
  return text:sub(1, ends and ends - 1 or utf8.len(text) and -1 or count)
end
local function last(text, count)
  if count <= 0 then return "" end
  return utf8.len(text) and text:sub(utf8.offset(text, -count) or 1) or text:sub(-count)
end

-- At most `width` characters: the end is cut off, or the middle where `middle` is true (names differ at their ends).
function tables.shorten(text, width, middle)
  if tables.width(text) <= width then return text end
  if width <= 3 then return first(text, width) end
  if not middle then return first(text, width - 3) .. "..." end
  local left = (width - 3 + 1) // 2
  return first(text, left) .. "..." .. last(text, width - 3 - left)
end

-- A text that is safe in a line of a terminal: control characters and bytes that are no UTF-8 become "?".
function tables.printable(text)
  if not utf8.len(text) then text = text:gsub("[\128-\255]", "?") end
  return (text:gsub("[%c\127]", "?"):gsub("\194[\128-\159]", "?"))
end

local function pad(text, width, right)
  local blanks = (" "):rep(width - tables.width(text))
  return right and blanks .. text or text .. blanks
end

local function widths_of(columns, rows)
  local widths = {}
  for c, column in ipairs(columns) do
    widths[c] = tables.width(column.title)
    for _, row in ipairs(rows) do widths[c] = math.max(widths[c], tables.width(tables.printable(row[column.c]))) end
  end
  return widths
end

-- Takes what is too much from the columns that may shrink, the one with the lowest `shrink` first, down to its `least`.
local function shrink(columns, widths, excess)
  local order = {}
  for c, column in ipairs(columns) do
    if column.shrink then order[#order + 1] = c end
  end
  table.sort(order, function(a, b) return columns[a].shrink < columns[b].shrink end)
  for _, c in ipairs(order) do
    local cut = math.max(0, math.min(excess, widths[c] - columns[c].least))
    widths[c], excess = widths[c] - cut, excess - cut
  end
end

-- Columns that have something in a row, with their place.
local function filled_columns(columns, rows)
  local kept = {}
  for c, column in ipairs(columns) do
    local filled = false
    for _, row in ipairs(rows) do filled = filled or row[c] ~= "" end
    if filled then kept[#kept + 1] = setmetatable({ c = c }, { __index = column }) end
  end
  return kept
end

-- Leaves out columns, the one with the lowest `drop` first, while the others would not fit at their least.
local function drop(columns, widths, total, width)
  local least = total
  for c, column in ipairs(columns) do
    if column.shrink then least = least - math.max(0, widths[c] - column.least) end
  end
  while least > width do
    local at
    for c, column in ipairs(columns) do
      if column.drop and (not at or column.drop < columns[at].drop) then at = c end
    end
    if not at then return end
    local column = columns[at]
    least = least - 2 - (column.shrink and math.min(widths[at], column.least) or widths[at])
    table.remove(columns, at)
    table.remove(widths, at)
  end
end

local function total_of(widths)
  local total = math.max(0, 2 * (#widths - 1))
  for _, width in ipairs(widths) do total = total + width end
  return total
end

-- Lines of a table: a header and `rows` (lists of texts, one a column). columns: { title, right = numbers, shrink = order in
-- which columns give way, least = width that one of these keeps, middle = cut in the middle, drop = order in which columns go
-- when that is not enough }. width: of the whole, nil for any. Columns that are empty in all rows are left out.
function tables.lines(columns, rows, width)
  local kept = filled_columns(columns, rows)
  local widths = widths_of(kept, rows)
  if width then
    drop(kept, widths, total_of(widths), width)
    shrink(kept, widths, math.max(0, total_of(widths) - width))
  end
  local shown = { {} }
  for c, column in ipairs(kept) do shown[1][c] = column.title end
  for r, row in ipairs(rows) do
    shown[r + 1] = {}
    for c, column in ipairs(kept) do shown[r + 1][c] = tables.printable(row[column.c]) end
  end
  local lines = {}
  for r, row in ipairs(shown) do
    local cells = {}
    for c, column in ipairs(kept) do
      cells[c] = pad(tables.shorten(row[c], widths[c], column.middle), widths[c], column.right)
    end
    lines[r] = table.concat(cells, "  "):gsub("%s+$", "")
  end
  return lines
end

-- A field of CSV as RFC 4180 wants it; nil is empty.
local function csv_field(value)
  if value == nil then return "" end
  local text = type(value) == "number" and require "copse.text".any_number(value) or tostring(value)
  if text:find('[",\r\n]') or text:find("^%s") or text:find("%s$") then return '"' .. text:gsub('"', '""') .. '"' end
  return text
end

-- A line of CSV without its end. `fields`: a list that may hold nil, `count` of them.
function tables.csv_line(fields, count)
  local cells = {}
  for i = 1, count or #fields do cells[i] = csv_field(fields[i]) end
  return table.concat(cells, ",")
end

return tables
