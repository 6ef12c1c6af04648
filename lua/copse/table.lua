-- Tables of text: columns as wide as their widest cell, numbers to the right.
local table_text = {}

local function width(cell)
  return utf8.len(cell) or #cell
end

-- rows: lists of strings, the first is the head; right: { [column] = true }. The lines.
function table_text.lines(rows, right)
  local widths, lines = {}, {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do widths[i] = math.max(widths[i] or 0, width(cell)) end
  end
  for r, row in ipairs(rows) do
    local cells = {}
    for i, cell in ipairs(row) do
      local blanks = (" "):rep(widths[i] - width(cell))
      cells[i] = right and right[i] and blanks .. cell or cell .. blanks
    end
    lines[r] = (table.concat(cells, "  "):gsub("%s+$", ""))
  end
  return lines
end

return table_text
