-- Take authority: all wants in one act.
-- KEYS: epoch, pulse, recalls, number, my counters, then per want: its counter, the counters of its other windows.
-- ARGV: epoch, the message's number, worker, now_ms, wants: lists, one a want: number of other windows, limit, used, ask,
-- slice, recall (0 or 1), when the counter may be forgotten (0: never).
-- Answer: {'ok', lists, one a want: authority, room, answered, recall}.
local bad = state()
if bad then return {bad} end
redis.call('SET', KEYS[2], ARGV[2], 'KEEPTTL')
local me, at = ARGV[3], 6
local wants = lists(ARGV[5])
for n, word in ipairs(wants) do
  local want = {keys = {}, recall = word[6] == '1', ends = word[7]}
  want.limit, want.used, want.ask, want.slice = num(word[2]), num(word[3]), num(word[4]), num(word[5])
  for i = 1, 1 + tonumber(word[1]) do want.keys[i], at = at, at + 1 end
  wants[n] = want
end
local scarce = redis.call('EXISTS', KEYS[3]) == 1
local answers, most = {}, {}
for n, want in ipairs(wants) do
  local room, answered, has, acked = want.limit, -1, {}, false
  for _, key in ipairs(want.keys) do
    local fields = redis.call('HGETALL', KEYS[key])
    local acks = {}
    for i = 1, #fields, 2 do
      local kind, who = string.sub(fields[i], 1, 2), string.sub(fields[i], 3)
      if fields[i] == 'p' then room = sub(room, num(fields[i + 1]))
      elseif kind == 'k:' then
        acks[who] = tonumber(fields[i + 1])
        acked = acked or who == me
      elseif kind == 'a:' and who ~= me then
        room = sub(room, num(fields[i + 1]))
        table.insert(has, who)
      end
    end
    for _, who in ipairs(has) do
      local ack = acks[who] or 0
      if answered == -1 or ack < answered then answered = ack end
    end
    has = {}
  end
  local recalled = false
  for _, key in ipairs(want.keys) do
    recalled = recalled or (scarce and redis.call('HEXISTS', KEYS[3], KEYS[key]) == 1)
  end
  local number = 0
  if want.recall then
    number = redis.call('INCR', KEYS[4])
    local now = redis.call('TIME')[1]
    for _, key in ipairs(want.keys) do
      redis.call('HSET', KEYS[3], KEYS[key], string.format('%.0f', number) .. ' ' .. ARGV[4] .. ' ' .. now)
    end
    recalled, scarce = true, true
  end
  local total = add(want.used, want.ask)
  local authority = total
  if less(room, total) then
    authority = less(room, want.used) and want.used or room
  elseif not recalled then
    local extra = eighth(sub(room, total))
    if less(want.slice, extra) then extra = want.slice end
    authority = add(total, extra)
  end
  local own = KEYS[want.keys[1]]
  -- Several limits on one counter: each hold is checked against its own; authority is what the widest allows.
  if not most[own] or less(most[own], authority) then most[own] = authority end
  if redis.call('HSET', own, 'a:' .. me, text(most[own])) == 1 then redis.call('SADD', KEYS[5], own) end
  if acked then redis.call('HDEL', own, 'k:' .. me) end
  if want.ends ~= '0' then redis.call('PEXPIREAT', own, want.ends) end
  answers[n] = '[' .. text(authority) .. ',' .. text(room) .. ',' .. answered .. ',' .. string.format('%.0f', number) .. ']'
end
return {'ok', '[' .. table.concat(answers, ',') .. ']'}
