-- End a lease. KEYS: pulse, the worker's counters, then counters. ARGV: worker, then per counter: amount, version, ends.
for n = 3, #KEYS do
  local at = 3 * (n - 3) + 2
  set_posted(KEYS[n], ARGV[at], ARGV[at + 1], ARGV[at + 2])
end
for _, key in ipairs(redis.call('SMEMBERS', KEYS[2])) do redis.call('HDEL', key, 'a:' .. ARGV[1], 'k:' .. ARGV[1]) end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
