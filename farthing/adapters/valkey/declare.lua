-- Join: what I use stands, whether there is room for it or not.
-- KEYS: epoch, pulse, my counters, counters. ARGV: worker, lease in ms, the message's number, then per counter: authority.
-- Earlier leases of the same name are replaced. Answer: the epoch, or false when there is none.
local epoch = redis.call('GET', KEYS[1])
if not epoch or late(redis.call('GET', KEYS[2]), ARGV[3]) then return epoch end
for _, key in ipairs(redis.call('SMEMBERS', KEYS[3])) do redis.call('HDEL', key, 'a:' .. ARGV[1], 'k:' .. ARGV[1]) end
redis.call('DEL', KEYS[3])
for n = 4, #KEYS do
  redis.call('HSET', KEYS[n], 'a:' .. ARGV[1], ARGV[n])
  redis.call('SADD', KEYS[3], KEYS[n])
end
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
return epoch
