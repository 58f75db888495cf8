-- Settles orphans and releases the lease.
-- KEYS: queue, processing, device. ARGV: token, then id and rank of each ('' drops the message).
-- Returns {done, wait} as finish does.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local d = redis.call('HMGET', KEYS[3], 'token', 'until', 'next_at')
if d[1] ~= ARGV[1] then
  return {0, 0}
end
-- 'until' is 0 when this token's lease was released: then this call is a repeat, and changes nothing more.
if d[2] ~= '0' then
  for i = 2, #ARGV, 2 do
    if redis.call('SREM', KEYS[2], ARGV[i]) == 1 and ARGV[i + 1] ~= '' then
      redis.call('ZADD', KEYS[1], 'NX', ARGV[i + 1], ARGV[i])
    end
  end
  redis.call('HSET', KEYS[3], 'until', '0')
end
if redis.call('ZCARD', KEYS[1]) + redis.call('SCARD', KEYS[2]) == 0 then
  return {1, -1}
end
return {1, math.max(0, tonumber(d[3] or 0) - now)}
