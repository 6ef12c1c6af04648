-- Fits of small curves in double: straight lines, an asymptote by scan, and damped Gauss-Newton steps (Levenberg and Marquardt)
-- on Huber's objective. Pure: jobs may use it too. copse.mixing_law is built on it.
local curve_fit = {}

function curve_fit.is_finite(x)
  return type(x) == "number" and x - x == 0
end

-- Solves the symmetric system a s = r of p equations by elimination with pivots; nil where a pivot is not above `least` times
-- the largest element of the diagonal. Changes a and r.
local function solve(a, r, least)
  local p, largest = #r, 0
  for j = 1, p do largest = math.max(largest, math.abs(a[j][j])) end
  for column = 1, p do
    local pivot = column
    for row = column + 1, p do
      if math.abs(a[row][column]) > math.abs(a[pivot][column]) then pivot = row end
    end
    a[column], a[pivot], r[column], r[pivot] = a[pivot], a[column], r[pivot], r[column]
    local head = a[column][column]
    if not (math.abs(head) > least * largest) then return nil end
    for row = column + 1, p do
      local factor = a[row][column] / head
      for j = column, p do a[row][j] = a[row][j] - factor * a[column][j] end
      r[row] = r[row] - factor * r[column]
    end
  end
  for row = p, 1, -1 do
    local sum = r[row]
    for j = row + 1, p do sum = sum - a[row][j] * r[j] end
    r[row] = sum / a[row][row]
  end
  return r
end

-- Least squares: coefficients w of y = sum_j w_j rows[i][j]. nil where the columns do not differ enough to tell.
function curve_fit.regress(rows, y)
  local p = #rows[1]
  local a, r = {}, {}
  for j = 1, p do
    a[j], r[j] = {}, 0
    for l = 1, p do
      a[j][l] = 0
      for i = 1, #rows do a[j][l] = a[j][l] + rows[i][j] * rows[i][l] end
    end
    for i = 1, #rows do r[j] = r[j] + rows[i][j] * y[i] end
  end
  return solve(a, r, 1e-12)
end

-- Slope, intercept and Pearson's correlation of y over x; the correlation is NaN where one of them is constant.
function curve_fit.line(x, y)
  local n, mean_x, mean_y = #x, 0, 0
  for i = 1, n do
    mean_x, mean_y = mean_x + x[i] / n, mean_y + y[i] / n
  end
  local xx, xy, yy = 0, 0, 0
  for i = 1, n do
    local dx, dy = x[i] - mean_x, y[i] - mean_y
    xx, xy, yy = xx + dx * dx, xy + dx * dy, yy + dy * dy
  end
  local slope = xy / xx
  return slope, mean_y - slope * mean_x, xy / math.sqrt(xx * yy)
end

curve_fit.scan_points = 1000
curve_fit.scan_margin = 1e-10 -- the last value of the scan lies this far below the least y

-- The asymptote c for which log(y - c) is most nearly a straight line in x, out of 1000 equally spaced values from 0 to below the
-- least y; of equals the first. Gives { c, place, slope, intercept, correlation } (its magnitude), nil where y is constant.
function curve_fit.scan(x, y)
  local top, best = math.min(table.unpack(y)) - curve_fit.scan_margin, nil
  local logs = {}
  for place = 1, curve_fit.scan_points do
    local last = place == curve_fit.scan_points
    local c = last and top or top * (place - 1) / (curve_fit.scan_points - 1)
    for i = 1, #y do logs[i] = math.log(y[i] - c) end
    local slope, intercept, correlation = curve_fit.line(x, logs)
    local size = math.abs(correlation)
    if size == size and (not best or size > best.correlation) then
      best = { c = c, place = place, slope = slope, intercept = intercept, correlation = size }
    end
  end
  return best
end

-- Huber's objective, its gradient and the weighted Gauss-Newton matrix at `parameters`. See `minimise` for `residual`.
local function evaluate(residual, count, parameters, delta)
  local p = #parameters
  local value, gradient, matrix, slope = 0, {}, {}, {}
  for j = 1, p do
    gradient[j], matrix[j] = 0, {}
    for l = 1, p do matrix[j][l] = 0 end
  end
  for i = 1, count do
    for j = 1, p do slope[j] = 0 end
    local e = residual(i, parameters, slope)
    local size = math.abs(e)
    local weight = size <= delta and 1 or delta / size
    value = value + (size <= delta and 0.5 * e * e or delta * (size - 0.5 * delta))
    for j = 1, p do
      gradient[j] = gradient[j] + weight * e * slope[j]
      for l = 1, j do matrix[j][l] = matrix[j][l] + weight * slope[j] * slope[l] end
    end
  end
  local steepest = 0
  for j = 1, p do
    for l = j + 1, p do matrix[j][l] = matrix[l][j] end
    steepest = math.max(steepest, math.abs(gradient[j]))
  end
  return { value = value, gradient = gradient, matrix = matrix, steepest = steepest, parameters = parameters }
end

-- The step of damped Gauss-Newton from `at`, nil where there is none.
local function proposal(at, damping)
  local a, r = {}, {}
  for j = 1, #at.parameters do
    a[j] = table.move(at.matrix[j], 1, #at.parameters, 1, {})
    a[j][j] = a[j][j] + damping * math.max(a[j][j], 1e-30)
    r[j] = -at.gradient[j]
  end
  local step = solve(a, r, 0)
  if not step then return nil end
  for j = 1, #step do step[j] = at.parameters[j] + step[j] end
  return step
end

-- Near the minimum the objective cannot tell steps apart any more, but the gradient can.
local function is_better(new, old)
  return new.value < old.value or new.value <= old.value * (1 + 1e-13) and new.steepest < old.steepest
end

-- Minimises sum_i huber_delta(e_i) from `start`. residual(i, parameters, slope) gives e_i and writes its derivatives by the
-- parameters into slope (zeros before). Ends at a gradient below 1e-12, or where no step is better. Gives { parameters, value,
-- gradient (its largest element), iterations }.
function curve_fit.minimise(residual, count, start, delta)
  local at, damping, iterations = evaluate(residual, count, start, delta), 1e-3, 0
  while at.steepest >= 1e-12 and damping < 1e20 and iterations < 2000 do
    iterations = iterations + 1
    local parameters = proposal(at, damping)
    local new = parameters and evaluate(residual, count, parameters, delta)
    if new and curve_fit.is_finite(new.value) and curve_fit.is_finite(new.steepest) and is_better(new, at) then
      at, damping = new, math.max(damping * 0.1, 1e-15)
    else
      damping = damping * 10
    end
  end
  return { parameters = at.parameters, value = at.value, gradient = at.steepest, iterations = iterations }
end

-- The best of minimise from each of `starts`; judge(result) in place of the objective where it is given. nil without starts.
function curve_fit.best_of(residual, count, starts, delta, judge)
  local best, best_value
  for _, start in ipairs(starts) do
    local result = curve_fit.minimise(residual, count, start, delta)
    local value = judge and judge(result) or result.value
    if curve_fit.is_finite(value) and (not best or value < best_value) then best, best_value = result, value end
  end
  return best
end

-- Huber's objective of one residual.
function curve_fit.huber(e, delta)
  local size = math.abs(e)
  return size <= delta and 0.5 * e * e or delta * (size - 0.5 * delta)
end

return curve_fit
