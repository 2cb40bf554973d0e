-- Take authority: all wants in one act.
-- KEYS: epoch, pulse, recalls, number, my counters, then counters. ARGV: epoch, worker, now_ms, number of wants, then per want:
-- index of its counter in KEYS, number of other windows, their indices, limit, used, ask, slice, recall
-- (0 or 1), when the counter may be forgotten (0: never). Answer: {'ok', {authority, room, answered, recall} per want}.
local bad = state()
if bad then return {bad} end
local me, at = ARGV[2], 5
local wants = {}
for n = 1, tonumber(ARGV[4]) do
  local want = {keys = {tonumber(ARGV[at])}}
  local others = tonumber(ARGV[at + 1])
  for i = 1, others do want.keys[i + 1] = tonumber(ARGV[at + 1 + i]) end
  at = at + 2 + others
  want.limit, want.used, want.ask = num(ARGV[at]), num(ARGV[at + 1]), num(ARGV[at + 2])
  want.slice, want.recall = num(ARGV[at + 3]), ARGV[at + 4] == '1'
  want.ends = ARGV[at + 5]
  at = at + 6
  wants[n] = want
end
local answers, most = {'ok'}, {}
for n, want in ipairs(wants) do
  local room, answered, has = want.limit, -1, {}
  for _, key in ipairs(want.keys) do
    local fields = redis.call('HGETALL', KEYS[key])
    local acks = {}
    for i = 1, #fields, 2 do
      local kind, who = string.sub(fields[i], 1, 2), string.sub(fields[i], 3)
      if fields[i] == 'p' then room = sub(room, num(fields[i + 1]))
      elseif kind == 'k:' then acks[who] = tonumber(fields[i + 1])
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
    recalled = recalled or redis.call('HEXISTS', KEYS[3], KEYS[key]) == 1
  end
  local number = 0
  if want.recall then
    number = redis.call('INCR', KEYS[4])
    local now = redis.call('TIME')[1]
    for _, key in ipairs(want.keys) do
      redis.call('HSET', KEYS[3], KEYS[key], string.format('%.0f', number) .. ' ' .. ARGV[3] .. ' ' .. now)
    end
    recalled = true
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
  redis.call('HSET', own, 'a:' .. me, text(most[own]))
  redis.call('HDEL', own, 'k:' .. me)
  if want.ends ~= '0' then redis.call('PEXPIREAT', own, want.ends) end
  redis.call('SADD', KEYS[5], own)
  answers[n + 1] = {text(authority), text(room), answered, number}
end
return answers
