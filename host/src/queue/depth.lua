-- A device's part in the queue. KEYS: queue, processing, device.
-- Returns {queued, processing, wait (ms), leased}.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local d = redis.call('HMGET', KEYS[3], 'until', 'next_at')
return {
  redis.call('ZCARD', KEYS[1]),
  redis.call('SCARD', KEYS[2]),
  math.max(0, tonumber(d[2] or 0) - now),
  tonumber(d[1] or 0) > now and 1 or 0,
}
