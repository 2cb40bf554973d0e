-- I live; this is my authority now, and this is what the ledger has booked.
-- KEYS: epoch, pulse, recalls, my counters, then counters. ARGV: epoch, the message's number, worker, lease in ms, lists,
-- one a counter: authority, answers; and what is booked, where that is news: amount, version, ends.
-- Answer: {'ok', recalls as HGETALL tells them}; recalls older than five seconds are forgotten.
local bad = state()
if bad then return {bad} end
local me = ARGV[3]
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[4])
for n, told in ipairs(lists(ARGV[5])) do
  local key, authority, answers = KEYS[n + 4], told[1], told[2]
  if told[3] then set_posted(key, told[3], told[4], told[5]) end
  if authority == '0' then
    redis.call('HDEL', key, 'a:' .. me, 'k:' .. me)
    redis.call('SREM', KEYS[4], key)
  else
    if redis.call('HSET', key, 'a:' .. me, authority) == 1 then redis.call('SADD', KEYS[4], key) end
    if answers ~= '0' then redis.call('HSET', key, 'k:' .. me, answers) end
  end
end
local recalls, now = redis.call('HGETALL', KEYS[3]), tonumber(redis.call('TIME')[1])
for i = 1, #recalls, 2 do
  if tonumber(string.match(recalls[i + 1], '(%d+)$')) < now - 5 then redis.call('HDEL', KEYS[3], recalls[i]) end
end
return {'ok', recalls}
