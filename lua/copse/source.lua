-- Reads the text of job files as tokens: on which line a key stands, and the source text of a function. Best effort: what it
-- cannot find it answers with the line of the constructor's call, or with nil.
local source = {}

local token_lists = {} -- file number -> tokens

-- End of a long bracket that opens at `at`, or nil if none does.
local function long_bracket(text, at)
  local level = text:match("^%[(=*)%[", at)
  if not level then return nil end
  local _, last = text:find("]" .. level .. "]", at, true)
  return last or #text
end

local function quoted(text, at)
  local quote = text:sub(at, at)
  local i = at + 1
  while i <= #text do
    local c = text:sub(i, i)
    if c == "\\" then i = i + 1 elseif c == quote then return i end
    i = i + 1
  end
  return #text
end

-- Position after white space and comments.
local function skip_blank(text, at)
  while true do
    local first = text:find("%S", at)
    if not first then return #text + 1 end
    if text:sub(first, first + 1) ~= "--" then return first end
    at = (long_bracket(text, first + 2) or (text:find("\n", first, true) or #text + 1) - 1) + 1
  end
end

-- Kind and last position of the token that starts at `at`.
local function scan(text, at)
  local c = text:sub(at, at)
  if c:find("[%a_]") then
    local _, last = text:find("^[%w_]+", at)
    return "name", last
  end
  if c == '"' or c == "'" then return "string", quoted(text, at) end
  if c == "[" then
    local last = long_bracket(text, at)
    if last then return "string", last end
  end
  if c:find("%d") or text:find("^%.%d", at) then
    local last = at
    while text:find("^[%w.]", last + 1) or (text:find("^[eEpP][+-]", last) and text:find("^%w", last + 2)) do
      last = last + 1
    end
    return "number", last
  end
  local two = text:sub(at, at + 1)
  if two == "==" or two == "~=" or two == "<=" or two == ">=" or two == ".." or two == "//" or two == "::" then
    return "sign", at + 1
  end
  return "sign", at
end

local function read_tokens(text)
  local list = {}
  local at, line, counted = 1, 1, 1
  while true do
    at = skip_blank(text, at)
    if at > #text then return list end
    for _ in text:sub(counted, at - 1):gmatch("\n") do line = line + 1 end
    counted = at
    local kind, last = scan(text, at)
    list[#list + 1] = { kind = kind, text = text:sub(at, last), line = line, first = at, last = last }
    at = last + 1
  end
end

local function tokens_of(file)
  if not token_lists[file] then
    local _, text = host.file(file)
    token_lists[file] = read_tokens(text)
  end
  return token_lists[file]
end

local opening = { ["("] = true, ["{"] = true, ["["] = true }
local closing = { [")"] = true, ["}"] = true, ["]"] = true }
local block_start = { ["function"] = true, ["do"] = true, ["if"] = true, ["repeat"] = true }

-- Index of the `end` of the function whose keyword is tokens[at].
local function end_of_function(tokens, at)
  local depth = 0
  for i = at, #tokens do
    local token = tokens[i]
    if token.kind == "name" then
      if block_start[token.text] then depth = depth + 1 end
      if token.text == "end" or token.text == "until" then depth = depth - 1 end
      if depth == 0 then return i end
    end
  end
  return #tokens
end

-- Index of the bracket that closes tokens[at].
local function end_of_bracket(tokens, at)
  local depth = 0
  for i = at, #tokens do
    local text = tokens[i].kind == "sign" and tokens[i].text
    if opening[text] then depth = depth + 1 end
    if closing[text] then depth = depth - 1 end
    if depth == 0 then return i end
  end
  return #tokens
end

-- Index of the "{" of the table that a call at `origin` is given. Several calls of one name on one line are told apart by their
-- order.
local function table_of_call(tokens, origin)
  local found = {}
  for i, token in ipairs(tokens) do
    if token.line == origin.line and token.kind == "name" and token.text == origin.token then
      local next_at = i + 1
      if origin.token == "load" and tokens[next_at] and tokens[next_at].text == "(" then
        next_at = end_of_bracket(tokens, next_at) + 1
      end
      if tokens[next_at] and tokens[next_at].text == "(" then next_at = next_at + 1 end
      if tokens[next_at] and tokens[next_at].text == "{" then found[#found + 1] = next_at end
    end
  end
  if #found == 0 then return nil end
  return found[(origin.ordinal - 1) % #found + 1]
end

-- Index of the first token of the value of `key` in the table that opens at tokens[at], and that of the key itself.
local function find_value(tokens, at, key)
  local i, position = at + 1, 1
  local at_start = true
  while i <= #tokens do
    local token = tokens[i]
    if token.kind == "sign" and token.text == "}" then return nil end
    if at_start then
      local named = token.kind == "name" and tokens[i + 1] and tokens[i + 1].text == "="
      local bracketed = token.text == "[" and tokens[i + 2] and tokens[i + 2].text == "]"
      if named then
        if token.text == key then return i + 2, i end
        i = i + 2
      elseif bracketed then
        if tokens[i + 1].text:sub(2, -2) == key then return i + 4, i end
        i = i + 4
      else
        if position == key then return i, i end
        position = position + 1
      end
      token = tokens[i]
      at_start = false
    end
    if not token then return nil end
    if token.kind == "name" and token.text == "function" then
      i = end_of_function(tokens, i)
    elseif token.kind == "sign" and opening[token.text] then
      i = end_of_bracket(tokens, i)
    elseif token.text == "," or token.text == ";" then
      at_start = true
    end
    i = i + 1
  end
  return nil
end

-- Value and key token of a chain of keys below the call at `origin`.
local function follow(origin, keys)
  local tokens = tokens_of(origin.file)
  local at = table_of_call(tokens, origin)
  local key_at
  for _, key in ipairs(keys) do
    if not at or not tokens[at] or tokens[at].text ~= "{" then return nil end
    at, key_at = find_value(tokens, at, key)
    if not at then return nil end
  end
  return at, key_at
end

-- Line of the last of `keys` (names or places) below the constructor's call, or the nearest line that is known.
-- origin = { file, line, token, ordinal }
function source.line(origin, keys)
  if origin.file == 0 then return 0 end
  local chain = table.move(keys, 1, #keys, 1, {})
  while #chain > 0 do
    local _, key_at = follow(origin, chain)
    if key_at then return tokens_of(origin.file)[key_at].line end
    chain[#chain] = nil
  end
  return origin.line
end

local function text_of(file, tokens, at)
  local _, text = host.file(file)
  local from = at + 1 -- a name may stand between `function` and its parameters
  while tokens[from] and tokens[from].text ~= "(" do from = from + 1 end
  local last = end_of_function(tokens, at)
  return "function" .. text:sub(tokens[from].first, tokens[last].last)
end

local function parameter_count(tokens, at)
  local count = 0
  local i = at + 1
  while tokens[i] and tokens[i].text ~= "(" do i = i + 1 end
  for k = i + 1, end_of_bracket(tokens, i) - 1 do
    if tokens[k].kind == "name" then count = count + 1 end
  end
  return count
end

-- Source text of a function, without its name, or nil where two could be meant. `origin` and `keys` say of which key it is the
-- value.
function source.function_text(info, origin, keys)
  local tokens = tokens_of(info.file)
  local at = origin.file == info.file and follow(origin, keys)
  if at and tokens[at] and tokens[at].text == "function" and tokens[at].line == info.first then
    return text_of(info.file, tokens, at)
  end
  local found, until_index
  for i, token in ipairs(tokens) do
    if token.line == info.first and token.kind == "name" and token.text == "function" then
      local last = end_of_function(tokens, i)
      if tokens[last].line == info.last and parameter_count(tokens, i) == info.parameters
        and not (found and i < until_index) then
        if found then return nil end
        found, until_index = i, last
      end
    end
  end
  return found and text_of(info.file, tokens, found)
end

return source
