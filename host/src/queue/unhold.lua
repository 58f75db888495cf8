-- Ends a device's wait. KEYS: queue, processing, device.
-- Returns 0 when it is to be ready at once, -1 when somebody holds it or nothing waits on it.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local d = redis.call('HMGET', KEYS[3], 'until', 'next_at')
if d[2] then
  redis.call('HSET', KEYS[3], 'next_at', '0')
end
if tonumber(d[1] or 0) > now or redis.call('ZCARD', KEYS[1]) + redis.call('SCARD', KEYS[2]) == 0 then
  return -1
end
return 0
