-- Ends a hold on a device.
-- KEYS: queue, processing, device. ARGV: token, message id, rank to put it back with or '', next_in (ms), then the pace
-- if it is to be kept.
-- Returns {done, depth, wait}: done 0 when the lease is another's (nothing was changed); wait (ms) until the device may
-- be claimed, -1 when nothing waits on it.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local d = redis.call('HMGET', KEYS[3], 'token', 'until', 'next_at')
if d[1] ~= ARGV[1] then
  return {0, 0, 0}
end
local next_at = tonumber(d[3] or 0)
-- 'until' is 0 when this token's lease was released: then this call is a repeat, and changes nothing more.
if d[2] ~= '0' then
  if redis.call('SREM', KEYS[2], ARGV[2]) == 1 and ARGV[3] ~= '' then
    redis.call('ZADD', KEYS[1], 'NX', ARGV[3], ARGV[2])
  end
  -- A hold that came while the message was being sent is not shortened.
  next_at = math.max(next_at, now + ARGV[4])
  if ARGV[5] then
    redis.call('HSET', KEYS[3], 'until', '0', 'next_at', string.format('%.0f', next_at), 'pace', ARGV[5])
  else
    redis.call('HSET', KEYS[3], 'until', '0', 'next_at', string.format('%.0f', next_at))
  end
end
local depth = redis.call('ZCARD', KEYS[1])
if depth == 0 and redis.call('SCARD', KEYS[2]) == 0 then
  return {1, 0, -1}
end
return {1, depth, math.max(0, next_at - now)}
