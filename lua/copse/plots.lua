-- Charts: data in, SVG text out; nil where there is nothing to draw. Texts never lie on each other: labels are measured, cut
-- with
-- "…" in the middle, and moved apart. Built of svg.lua.
local svg = require "copse.svg"

local plots = {}

local line_height, bold = 13, 1.15 -- how much wider bold text is

-- How numbers of an axis are written: "share" as per cent, "points" as differences of such, else as they are.
local function unit_of(kind)
  if kind == "share" then return 100, " %" end
  if kind == "points" then return 100, "" end
  return 1, ""
end

-- A number for people: three significant digits, or whole.
function plots.number(value, kind)
  if not svg.is_number(value) then return "not known" end
  if kind == "share" then
    local share = string.format("%.1f %%", value * 100)
    return share == "-0.0 %" and "0.0 %" or (share:gsub("^%-", "−"))
  end
  local size = math.abs(value)
  local text = size >= 1e7 and string.format("%.3g", value) or size >= 1000 and string.format("%.0f", value)
    or size >= 100 and string.format("%.1f", value) or size >= 1e-3 and string.format("%.3g", value)
    or size == 0 and "0" or string.format("%.2g", value)
  return (text:gsub("^%-", "−"))
end

-- ---- axes -----------------------------------------------------------------------------------------------------------------

-- Ticks of low .. high with their texts: { low, high, { value, text } ... }. kind "share" stays within 0 .. 1.
local function axis(low, high, most, kind)
  local factor, unit = unit_of(kind)
  local first, last, step = svg.ticks(low * factor, high * factor, most)
  local ticks = { low = first / factor, high = last / factor }
  for i = 0, math.floor((last - first) / step + 0.5) do
    local value = first + i * step
    ticks[#ticks + 1] = { value / factor, svg.tick_text(value, step) .. unit }
  end
  return ticks
end

local function widest(texts)
  local width = 0
  for _, text in ipairs(texts) do width = math.max(width, svg.measure(text)) end
  return width
end

local function tick_width(ticks)
  local texts = {}
  for i, tick in ipairs(ticks) do texts[i] = tick[2] end
  return widest(texts)
end

-- As many ticks as find room side by side between `left` and `right`.
local function axis_across(low, high, left, right, kind)
  for most = 6, 2, -1 do
    local ticks = axis(low, high, most, kind)
    if (tick_width(ticks) + 8) * (#ticks - 1) <= right - left then return ticks end
  end
  return axis(low, high, 1, kind)
end

-- Lines down at the ticks, in the bands { top, bottom } that hold no other texts.
local function draw_ticks_across(canvas, ticks, place, bands)
  for _, band in ipairs(bands) do
    for _, tick in ipairs(ticks) do canvas:line(place(tick[1]), band[1], place(tick[1]), band[2], "grid-line") end
  end
end

-- The texts of the ticks, within the drawing.
local function draw_axis_across(canvas, ticks, place, bottom)
  for _, tick in ipairs(ticks) do
    local x, half = place(tick[1]), svg.measure(tick[2]) / 2
    canvas:text(math.max(half, math.min(svg.width - half, x)), bottom + 13, tick[2], { anchor = "middle", class = "soft" })
  end
end

-- ---- curves ---------------------------------------------------------------------------------------------------------------

-- Moves label places apart so that each has `gap`, none below `last`; sorted by place before and after.
local function spread(labels, gap, first, last)
  table.sort(labels, function(a, b)
    if a.y ~= b.y then return a.y < b.y end
    return a.index < b.index
  end)
  local least = first
  for _, label in ipairs(labels) do
    label.at = math.max(label.y, least)
    least = label.at + gap
  end
  local most = last
  for i = #labels, 1, -1 do
    labels[i].at = math.min(labels[i].at, most)
    most = labels[i].at - gap
  end
end

-- Runs of points with finite values.
local function runs_of(points)
  local runs, current = {}, nil
  for _, point in ipairs(points) do
    if svg.is_number(point.x) and svg.is_number(point.y) then
      if not current then
        current = {}
        runs[#runs + 1] = current
      end
      current[#current + 1] = point
    else
      current = nil
    end
  end
  return runs
end

local function draw_band(canvas, run, to_x, to_y, index)
  local outline = {}
  for _, point in ipairs(run) do
    if svg.is_number(point.high) then outline[#outline + 1] = { to_x(point.x), to_y(point.high) } end
  end
  for i = #run, 1, -1 do
    if svg.is_number(run[i].low) then outline[#outline + 1] = { to_x(run[i].x), to_y(run[i].low) } end
  end
  if #outline > 3 then canvas:path(outline, "band", "fill:" .. svg.colour(index), true) end
end

-- Line and marks: a mark at every point where they are few, else about five.
local function draw_curve(canvas, run, to_x, to_y, index)
  local line = {}
  for i, point in ipairs(run) do line[i] = { to_x(point.x), to_y(point.y) } end
  if #line > 1 then canvas:path(line, "series", svg.stroke(index)) end
  local every = #line <= 8 and 1 or math.ceil(#line / 5)
  for i = #line, 1, -every do canvas:mark(line[i][1], line[i][2], index) end
end

local function values_of(series, reference)
  local xs, ys = {}, {}
  for _, one in ipairs(series) do
    for _, point in ipairs(one.points) do
      if svg.is_number(point.x) and svg.is_number(point.y) then
        xs[#xs + 1] = point.x
        for _, y in ipairs { point.y, point.low or point.y, point.high or point.y } do ys[#ys + 1] = y end
      end
    end
  end
  if #ys > 0 and reference then ys[#ys + 1] = reference.y end
  return xs, ys
end

local function draw_labels(canvas, series, frame, to_y)
  local labels = {}
  for i, one in ipairs(series) do
    local runs = runs_of(one.points)
    local last = runs[#runs] and runs[#runs][#runs[#runs]]
    if last then labels[#labels + 1] = { y = to_y(last.y), index = i, name = one.name, x = frame.to_x(last.x) } end
  end
  spread(labels, line_height, frame.top + 2, frame.bottom - 2)
  for _, label in ipairs(labels) do
    canvas:line(label.x + 6, label.y, frame.right + 11, label.at, "grid-line")
    canvas:mark(frame.right + 16, label.at, label.index)
    canvas:text(frame.right + 24, label.at + 4, label.name, { width = svg.width - frame.right - 25 })
  end
end

-- Room for the axes and for the names of the curves at the right.
local function curve_frame(series, ticks)
  local names = {}
  for i, one in ipairs(series) do names[i] = one.name or "" end
  local room = #series > 1 and math.min(widest(names) + 27, 126) or 10
  local frame = { left = tick_width(ticks) + 8, right = svg.width - room, top = 10 }
  frame.bottom = math.max(190, frame.top + #series * line_height)
  return frame
end

-- Curves over x. chart: series { { name, points = { { x, y, low, high } } } }, x_title, kind of y ("share" or nil), whole (x
-- are
-- whole numbers), reference { y, name }: a level to compare with, label: what the drawing shows.
function plots.curves(chart)
  local xs, ys = values_of(chart.series, chart.reference)
  local x_low, x_high = svg.range(xs)
  local y_low, y_high = svg.range(ys)
  if not x_low or not y_low then return nil end
  local ticks = axis(y_low, y_high, 5, chart.kind)
  local frame = curve_frame(chart.series, ticks)
  local canvas = svg.canvas(frame.bottom + 32, chart.label)
  local to_y = svg.scale(ticks.low, ticks.high, frame.bottom, frame.top)
  frame.to_x = svg.scale(x_low, x_high, frame.left + 4, frame.right - 4)
  for _, tick in ipairs(ticks) do
    canvas:line(frame.left, to_y(tick[1]), frame.right, to_y(tick[1]), "grid-line")
    canvas:text(frame.left - 5, to_y(tick[1]) + 4, tick[2], { anchor = "end", class = "soft" })
  end
  plots.draw_x(canvas, frame, x_low, x_high, chart.x_title)
  if chart.reference then
    local y = to_y(chart.reference.y)
    canvas:line(frame.left, y, frame.right, y, "axis", "stroke-dasharray:1 4")
  end
  for i, one in ipairs(chart.series) do
    for _, run in ipairs(runs_of(one.points)) do
      draw_band(canvas, run, frame.to_x, to_y, i)
      draw_curve(canvas, run, frame.to_x, to_y, i)
    end
  end
  if #chart.series > 1 then draw_labels(canvas, chart.series, frame, to_y) end
  return canvas:finish()
end

-- The x axis of curves and points: ticks inside the range of the data, the title between them where it fits, else below.
function plots.draw_x(canvas, frame, low, high, title)
  canvas:line(frame.left, frame.bottom, frame.right, frame.bottom, "axis")
  local most = math.max(2, math.floor((frame.right - frame.left) / 55))
  local first, last, step = svg.ticks(low, high, most)
  local free = -math.huge
  for i = 0, math.floor((last - first) / step + 0.5) do
    local value = first + i * step
    local text = svg.tick_text(value, step)
    local half = svg.measure(text) / 2
    local x = value >= low - step * 1e-6 and value <= high + step * 1e-6 and frame.to_x(value)
    if x then canvas:line(x, frame.bottom, x, frame.bottom + 3, "axis") end
    local at = x and math.min(x, svg.width - half)
    if at and at - half > free + 6 then
      canvas:text(at, frame.bottom + 14, text, { anchor = "middle", class = "soft" })
      free = at + half
    end
  end
  canvas:text((frame.left + frame.right) / 2, frame.bottom + 28, title, { anchor = "middle", class = "soft",
    width = frame.right - frame.left })
end

-- ---- rows: forest plots, dots, bars -----------------------------------------------------------------------------------------

-- Line between low and high, cut at the ends of the axis; an arrow head says that it goes on.
local function draw_interval(canvas, low, high, y, place, ticks, index)
  if not svg.is_number(low) or not svg.is_number(high) then return end
  local from, to = place(math.max(low, ticks.low)), place(math.min(high, ticks.high))
  local style = "stroke:" .. svg.colour(index)
  canvas:line(from, y, to, y, "series", style)
  for _, edge in ipairs { { from, low < ticks.low, -1 }, { to, high > ticks.high, 1 } } do
    local x, goes_on, way = edge[1], edge[2], edge[3]
    if goes_on then
      canvas:path({ { x - 5 * way, y - 3.5 }, { x, y }, { x - 5 * way, y + 3.5 } }, "series", style)
    else
      canvas:line(x, y - 3, x, y + 3, "series", style)
    end
  end
end

local function forest_ticks(rows, kind)
  local values = { 0 }
  for _, row in ipairs(rows) do
    for _, value in ipairs { row.estimate or 0, row.low or 0, row.high or 0 } do values[#values + 1] = value end
  end
  local low, high = svg.range(values)
  return axis_across(low, high, 12, svg.width - 12, kind)
end

-- Differences with their intervals about a line at zero. rows: { name, estimate, low, high, text, sure }: `sure` fills the
-- mark.
-- chart: rows, kind, left and right: what the sides of zero mean, label.
function plots.forest(chart)
  local drawn = {}
  for _, row in ipairs(chart.rows) do
    if svg.is_number(row.estimate) then drawn[#drawn + 1] = row end
  end
  if #drawn == 0 then return nil end
  local ticks = forest_ticks(drawn, chart.kind)
  local row_height, top = 34, 20
  local bottom = top + #drawn * row_height
  local canvas = svg.canvas(bottom + 20, chart.label)
  local place = svg.scale(ticks.low, ticks.high, 14, svg.width - 14)
  draw_axis_across(canvas, ticks, place, bottom)
  canvas:text(1, 11, "← " .. chart.left, { class = "soft", width = svg.width / 2 - 4 })
  canvas:text(svg.width - 1, 11, chart.right .. " →", { anchor = "end", class = "soft", width = svg.width / 2 - 4 })
  for i, row in ipairs(drawn) do
    local y = top + (i - 1) * row_height
    local room = svg.width - svg.measure(row.text, row.sure and svg.size * bold or svg.size) - 10
    canvas:text(1, y + 13, row.name, { width = room })
    canvas:text(svg.width - 1, y + 13, row.text, { anchor = "end", class = row.sure and "strong" or nil })
    draw_ticks_across(canvas, ticks, place, { { y + 17, y + 31 } })
    canvas:line(place(0), y + 17, place(0), y + 31, "zero")
    draw_interval(canvas, row.low, row.high, y + 24, place, ticks, 1)
    canvas:mark(place(row.estimate), y + 24, 2, not row.sure)
  end
  return canvas:finish()
end

local function dots_axis(chart, left)
  local values = {}
  for _, row in ipairs(chart.rows) do
    for _, dot in pairs(row.dots) do
      for _, value in ipairs { dot.value, dot.low or dot.value, dot.high or dot.value } do values[#values + 1] = value end
    end
  end
  local low, high = svg.range(values)
  if not low then return nil end
  if chart.kind == "share" then low, high = 0, 1 end
  return axis_across(low, high, left, svg.width - 20, chart.kind)
end

local function draw_dots(canvas, row, y, place, ticks, step)
  for index = 1, row.count do
    local dot = row.dots[index]
    if dot and svg.is_number(dot.value) then
      local at = y + (index - 1) * step
      draw_interval(canvas, dot.low, dot.high, at, place, ticks, index)
      canvas:mark(place(dot.value), at, index)
    end
  end
end

-- Where the rows of dots lie: names beside the dots, or above them where they are long.
local function dots_frame(chart)
  local names = {}
  for i, row in ipairs(chart.rows) do names[i] = row.name end
  local width, step, top = widest(names), 9, 6
  local above = width > svg.width * 0.4
  local frame = { above = above, step = step, top = top, left = above and 8 or width + 14, name_width = above
    and svg.width - 2 or width }
  frame.name_height = above and 16 or 0
  frame.dot_height = math.max(17, step * chart.count + 7)
  frame.row_height = frame.name_height + frame.dot_height
  frame.bottom = top + #chart.rows * frame.row_height
  return frame
end

local function draw_row_name(canvas, frame, name, y)
  if frame.above then
    canvas:text(1, y + 13, name, { width = frame.name_width })
  else
    canvas:text(frame.name_width, y + frame.row_height / 2 + 4, name, { anchor = "end", width = frame.name_width })
  end
end

-- A value of each of some series in every row. chart: rows { { name, dots = { [series] = { value, low, high } } } }, count of
-- series, kind, label.
function plots.dots(chart)
  local frame = dots_frame(chart)
  local ticks = dots_axis(chart, frame.left)
  if not ticks then return nil end
  local canvas = svg.canvas(frame.bottom + 20, chart.label)
  local place = svg.scale(ticks.low, ticks.high, frame.left, svg.width - 20)
  for i, row in ipairs(chart.rows) do
    local y = frame.top + (i - 1) * frame.row_height
    local dots = y + frame.name_height
    draw_ticks_across(canvas, ticks, place, { { dots, dots + frame.dot_height } })
    if i > 1 then canvas:line(0, y, svg.width, y, "row-line") end
    draw_row_name(canvas, frame, row.name, y)
    row.count = chart.count
    draw_dots(canvas, row, dots + (frame.dot_height - frame.step * (chart.count - 1)) / 2, place, ticks, frame.step)
  end
  draw_axis_across(canvas, ticks, place, frame.bottom)
  return canvas:finish()
end

-- Bars from zero. rows: { name, value, text, low, high, reference, first }: a least and a most draw a line across the end of
-- the
-- bar, a reference a stroke to compare it with; `first` is darker.
function plots.bars(chart)
  local most = 0
  for _, row in ipairs(chart.rows) do
    if svg.is_number(row.value) then most = math.max(most, row.value, row.high or 0, row.reference or 0) end
  end
  if most <= 0 then return nil end
  local row_height = 30
  local canvas = svg.canvas(#chart.rows * row_height + 4, chart.label)
  local place = svg.scale(0, most, 1, svg.width - 6)
  local ticks = { low = 0, high = most }
  for i, row in ipairs(chart.rows) do
    local y = (i - 1) * row_height
    local room = svg.width - svg.measure(row.text) - 10
    canvas:text(1, y + 13, row.name, { width = room })
    canvas:text(svg.width - 1, y + 13, row.text, { anchor = "end" })
    if svg.is_number(row.value) then
      canvas:rect(1, y + 18, place(row.value) - 1, 7, row.first and "bar first" or "bar")
      draw_interval(canvas, row.low, row.high, y + 21.5, place, ticks, 1)
      if row.reference then canvas:line(place(row.reference), y + 15, place(row.reference), y + 28, "series", svg.stroke(2)) end
    end
  end
  return canvas:finish()
end

-- ---- matrix and points ----------------------------------------------------------------------------------------------------

-- A change for a cell `room` wide: one decimal where it fits, else whole; "" where that does not fit either, or would be
-- nothing.
local function signed(value, room, size)
  local sign, amount = value > 0 and "+" or "−", math.abs(value)
  local exact = sign .. string.format("%.1f", amount):gsub("%.0$", "")
  if svg.measure(exact, size * bold) <= room then return exact end
  local whole = string.format(amount < 1e4 and "%.0f" or "%.0e", amount)
  return whole ~= "0" and svg.measure(sign .. whole, size) <= room + 1 and sign .. whole or ""
end

-- Classes that the largest changes are about, most changed first, and the changes by truth and answer.
local function changed_classes(changes, most)
  local weight, order, cells, name = {}, {}, {}, {}
  for _, change in ipairs(changes) do
    for _, class in ipairs { change.truth, change.answer } do
      if not weight[class] then
        weight[class] = 0
        order[#order + 1] = class
      end
      weight[class] = weight[class] + math.abs(change.change)
    end
    name[change.truth], name[change.answer] = change.truth_name, change.answer_name
    cells[change.truth] = cells[change.truth] or {}
    cells[change.truth][change.answer] = change.change
  end
  table.sort(order, function(a, b)
    if weight[a] ~= weight[b] then return weight[a] > weight[b] end
    return a < b
  end)
  local shown = table.move(order, 1, math.min(most, #order), 1, {})
  table.sort(shown)
  return shown, cells, name
end

-- How often a class was taken for another, against before: rows are the truth, columns the answer, both numbered. chart:
-- changes
-- { { truth, answer (numbers of classes), truth_name, answer_name, change } }, label.
function plots.changes(chart)
  local classes, cells, name = changed_classes(chart.changes, 10)
  if #classes == 0 then return nil end
  local cell = math.min(26, math.floor((svg.width - 130) / #classes))
  local left = svg.width - cell * #classes - 2
  local canvas = svg.canvas(20 + cell * #classes, chart.label)
  local most = 0
  for _, change in ipairs(chart.changes) do most = math.max(most, math.abs(change.change)) end
  for i, class in ipairs(classes) do
    local y = 18 + (i - 1) * cell
    canvas:text(left + (i - 0.5) * cell, 12, tostring(i), { anchor = "middle", class = "soft" })
    canvas:text(left - 6, y + cell / 2 + 4, i .. " " .. name[class], { anchor = "end", width = left - 8 })
    for j, answer in ipairs(classes) do
      local change = cells[class] and cells[class][answer]
      local x = left + (j - 1) * cell
      canvas:rect(x, y, cell, cell, "grid-line")
      if i == j then canvas:line(x, y + cell, x + cell, y, "grid-line") end
      if change and change ~= 0 then
        local index = change > 0 and 2 or 1
        canvas:rect(x + 1, y + 1, cell - 2, cell - 2, nil,
          string.format("fill:%s;fill-opacity:%.2f", svg.colour(index), 0.1 + 0.25 * math.abs(change) / most))
        canvas:text(x + cell / 2, y + cell / 2 + 3.5, signed(change, cell - 1, 9.5), { anchor = "middle", size = 9.5,
          class = change > 0 and "cell strong" or "cell" })
      end
    end
  end
  return canvas:finish()
end

-- Points. chart: points { { x, y } }, log (x by its logarithm), x_title, kind of y, label.
function plots.points(chart)
  local points = {}
  for _, point in ipairs(chart.points) do
    local x = chart.log and svg.is_number(point.x) and point.x > 0 and math.log(point.x, 10) or not chart.log and point.x
    if x and svg.is_number(x) and svg.is_number(point.y) then points[#points + 1] = { x = x, y = point.y } end
  end
  local xs, ys = values_of({ { points = points } })
  local x_low, x_high = svg.range(xs)
  local y_low, y_high = svg.range(ys)
  if not x_low or not y_low then return nil end
  local ticks = axis(y_low, y_high, 4, chart.kind)
  local frame = { left = tick_width(ticks) + 8, right = svg.width - 10, top = 8, bottom = 150 }
  local canvas = svg.canvas(frame.bottom + 32, chart.label)
  local to_y = svg.scale(ticks.low, ticks.high, frame.bottom, frame.top)
  frame.to_x = svg.scale(x_low, x_high, frame.left + 6, frame.right - 6)
  for _, tick in ipairs(ticks) do
    canvas:line(frame.left, to_y(tick[1]), frame.right, to_y(tick[1]), "grid-line")
    canvas:text(frame.left - 5, to_y(tick[1]) + 4, tick[2], { anchor = "end", class = "soft" })
  end
  if chart.log then
    plots.draw_powers(canvas, frame, x_low, x_high, chart.x_title)
  else
    plots.draw_x(canvas, frame, x_low, x_high, chart.x_title)
  end
  for _, point in ipairs(points) do canvas:mark(frame.to_x(point.x), to_y(point.y), 1, true) end
  return canvas:finish()
end

-- An axis of powers of ten: 1, 2 and 5 times each power, as many as find room.
function plots.draw_powers(canvas, frame, low, high, title)
  canvas:line(frame.left, frame.bottom, frame.right, frame.bottom, "axis")
  local free = -math.huge
  for power = math.floor(low), math.ceil(high) do
    for _, factor in ipairs { 1, 2, 5 } do
      local value = power + math.log(factor, 10)
      if value >= low - 1e-9 and value <= high + 1e-9 then
        local x, text = frame.to_x(value), svg.tick_text(factor * 10.0 ^ power, 10.0 ^ power)
        local half = svg.measure(text) / 2
        canvas:line(x, frame.bottom, x, frame.bottom + 3, "axis")
        local at = math.min(x, svg.width - half)
        if at - half > free + 6 then
          canvas:text(at, frame.bottom + 14, text, { anchor = "middle", class = "soft" })
          free = at + half
        end
      end
    end
  end
  canvas:text((frame.left + frame.right) / 2, frame.bottom + 28, title, { anchor = "middle", class = "soft",
    width = frame.right - frame.left })
end

return plots
