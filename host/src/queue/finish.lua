-- Ends a hold on a device, and with it on the messages that were claimed, or on orphans.
-- KEYS: queue, processing, device, and with one server ready (elsewhere it lies in another slot; see index.lua).
-- ARGV: device, token, next_in (ms; '' leaves the device's time as it is), pace ('' leaves it as it is), number of
-- messages that go back, rank and id of each of these, then the ids of the others.
-- Returns {done, depth, wait}: done 0 when the lease is another's (nothing was changed); wait (ms) until the device may
-- be claimed, -1 when nothing waits on it.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local d = redis.call('HMGET', KEYS[3], 'token', 'until', 'next_at', 'held')
if d[1] ~= ARGV[2] then
  return {0, 0, 0}
end
local next_at = tonumber(d[3] or 0)
-- 'until' when this token's lease was released: 0, or -1 with something left in processing. Then this call is a repeat,
-- and changes nothing more.
local released = d[2] or '0'
if tonumber(released) > 0 then
  local others = 6 + 2 * ARGV[5]
  local ids = {unpack(ARGV, others)}
  if others > 6 then
    redis.call('ZADD', KEYS[1], 'NX', unpack(ARGV, 6, others - 1))
    for i = 7, others - 1, 2 do
      ids[#ids + 1] = ARGV[i]
    end
  end
  local removed = #ids > 0 and redis.call('SREM', KEYS[2], unpack(ids)) or 0
  -- All that the claim had put there: nothing is left, which saves looking.
  released = (tostring(removed) == d[4] or redis.call('SCARD', KEYS[2]) == 0) and '0' or '-1'
  local eager = '0'
  if ARGV[3] ~= '' then
    -- A hold that came while the messages were being sent is not shortened.
    next_at = math.max(next_at, now + ARGV[3])
    -- Ready again at once: the next claim may take several messages.
    eager = next_at == now and '1' or '0'
  end
  local at = string.format('%.0f', next_at)
  if ARGV[4] ~= '' then
    redis.call('HSET', KEYS[3], 'until', released, 'next_at', at, 'eager', eager, 'pace', ARGV[4])
  else
    redis.call('HSET', KEYS[3], 'until', released, 'next_at', at, 'eager', eager)
  end
end
local depth = redis.call('ZCARD', KEYS[1])
if depth == 0 and released == '0' then
  if KEYS[4] then
    redis.call('ZREM', KEYS[4], ARGV[1])
  end
  return {1, 0, -1}
end
-- In the same step as the lease's end, so nothing can have come in between: the place is what it should be, whatever it
-- was. An enqueue from before that puts the device on the index later finds it there, and brings it forward at most.
if KEYS[4] then
  redis.call('ZADD', KEYS[4], string.format('%.0f', math.max(next_at, now)), ARGV[1])
end
return {1, depth, math.max(0, next_at - now)}
