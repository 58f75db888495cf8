-- Adds messages to one device's queue.
-- KEYS: queue, processing, device, and with one server ready (elsewhere it lies in another slot; see index.lua).
-- ARGV: device, next_in (ms), pace, then rank and id of each message.
-- Returns {depth, wait}: wait is how long (ms) until the device may be claimed, -1 when it needs no place on the
-- ready index: somebody holds it (finish will put it back), or nothing waits on it.
-- Safe to repeat: a message that is in the queue or in processing stays as it is.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local d = redis.call('HMGET', KEYS[3], 'pace', 'next_at', 'until')
local next_at = tonumber(d[2] or 0)
if not d[1] then
  -- A hold may have made the hash before: its wait counts, too.
  next_at = math.max(next_at, now + ARGV[2])
  redis.call('HSET', KEYS[3], 'pace', ARGV[3], 'next_at', string.format('%.0f', next_at))
end
-- '0' says that the last hold ended with nothing in processing, which saves looking.
local sending = d[3] == '0' and 0 or redis.call('SCARD', KEYS[2])
local add = {}
for i = 4, #ARGV, 2 do
  if sending == 0 or redis.call('SISMEMBER', KEYS[2], ARGV[i + 1]) == 0 then
    add[#add + 1] = ARGV[i]
    add[#add + 1] = ARGV[i + 1]
  end
  -- In portions, because the number of arguments that unpack can give is limited.
  if #add >= 200 or (i + 2 > #ARGV and #add > 0) then
    redis.call('ZADD', KEYS[1], 'NX', unpack(add))
    add = {}
  end
end
local depth = redis.call('ZCARD', KEYS[1])
if tonumber(d[3] or 0) > now or depth + sending == 0 then
  return {depth, -1}
end
if KEYS[4] then
  -- As `put` of index.lua does: never later than it stands, and in whole milliseconds.
  local stands = redis.call('ZSCORE', KEYS[4], ARGV[1])
  local at = math.max(next_at, now)
  if stands then
    at = math.min(at, math.floor(tonumber(stands)))
  end
  redis.call('ZADD', KEYS[4], string.format('%.0f', at), ARGV[1])
end
return {depth, math.max(0, next_at - now)}
