-- Exact whole numbers beyond 2^53: a pair {high, low} = high * 10^9 + low, 0 <= low < 10^9.
local BASE = 1000000000
local function num(text)
  local negative = string.sub(text, 1, 1) == '-'
  local digits = negative and string.sub(text, 2) or text
  local cut = #digits - 9
  local high = cut > 0 and tonumber(string.sub(digits, 1, cut)) or 0
  local low = tonumber(string.sub(digits, math.max(1, cut + 1)))
  if not negative then return {high, low} end
  if low == 0 then return {-high, 0} end
  return {-high - 1, BASE - low}
end
local function text(n)
  local high, low = n[1], n[2]
  local sign = ''
  if high < 0 then
    sign = '-'
    if low == 0 then high = -high else high, low = -high - 1, BASE - low end
  end
  if high == 0 then
    if low == 0 then return '0' end
    return sign .. string.format('%d', low)
  end
  return sign .. string.format('%.0f', high) .. string.format('%09d', low)
end
local function norm(high, low)
  local carry = math.floor(low / BASE)
  return {high + carry, low - carry * BASE}
end
local function add(a, b) return norm(a[1] + b[1], a[2] + b[2]) end
local function sub(a, b) return norm(a[1] - b[1], a[2] - b[2]) end
local function less(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end
local function eighth(a)
  local high = math.floor(a[1] / 8)
  return {high, math.floor(((a[1] - high * 8) * BASE + a[2]) / 8)}
end

-- Many whole numbers travel as one argument: a JSON array of arrays. They are read as text, since doubles are not exact.
local function lists(text)
  local found, n = {}, 0
  for list in string.gmatch(text, '%[([%d,%-]+)%]') do
    local words, w = {}, 0
    for word in string.gmatch(list, '[^,]+') do
      w = w + 1
      words[w] = word
    end
    n = n + 1
    found[n] = words
  end
  return found
end

-- Was this message overtaken by a newer one of its worker? It must not undo what that one said.
-- A worker numbers its messages; its pulse holds the number of the last that was acted upon.
local function late(pulse, number)
  return pulse and tonumber(pulse) > tonumber(number)
end

-- May this worker work here? KEYS[1]: epoch, KEYS[2]: its pulse, ARGV[1]: the epoch it knows, ARGV[2]: the message's number.
local function state()
  local epoch = redis.call('GET', KEYS[1])
  if not epoch or string.sub(epoch, 1, 1) == '?' then return 'rebuilding' end
  local pulse = redis.call('GET', KEYS[2])
  if epoch ~= ARGV[1] or not pulse then return 'lost' end
  if late(pulse, ARGV[2]) then return 'late' end
  return nil
end

-- The ledger's figure for a counter, unless a newer one is here already.
local function set_posted(key, amount, version, ends)
  local known = redis.call('HGET', key, 'v')
  if not known or tonumber(known) < tonumber(version) then
    redis.call('HSET', key, 'p', amount, 'v', version)
    if ends ~= '0' then redis.call('PEXPIREAT', key, ends) end
  end
end
