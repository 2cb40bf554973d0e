-- I live; this is my authority now, and this is what the ledger has booked.
-- KEYS: epoch, pulse, recalls, my counters, then counters. ARGV: epoch, worker, lease in ms, number of shares, then per
-- share: index in KEYS, authority, answers; then number of posted, then per posted: index, amount, version, ends.
-- Answer: {'ok', recalls as HGETALL tells them}; recalls older than five seconds are forgotten.
local bad = state()
if bad then return {bad} end
local me, at = ARGV[2], 5
redis.call('SET', KEYS[2], '1', 'PX', ARGV[3])
local count = tonumber(ARGV[4])
local after = at + 3 * count
for n = 1, tonumber(ARGV[after]) do
  local i = after + 1 + 4 * (n - 1)
  set_posted(KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
end
for _ = 1, count do
  local key, authority, answers = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2]
  at = at + 3
  if authority == '0' then
    redis.call('HDEL', key, 'a:' .. me, 'k:' .. me)
    redis.call('SREM', KEYS[4], key)
  else
    redis.call('HSET', key, 'a:' .. me, authority)
    redis.call('SADD', KEYS[4], key)
    if answers ~= '0' then redis.call('HSET', key, 'k:' .. me, answers) end
  end
end
local recalls, now = redis.call('HGETALL', KEYS[3]), tonumber(redis.call('TIME')[1])
for i = 1, #recalls, 2 do
  if tonumber(string.match(recalls[i + 1], '(%d+)$')) < now - 5 then redis.call('HDEL', KEYS[3], recalls[i]) end
end
return {'ok', recalls}
