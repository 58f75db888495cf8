-- Extends a lease. KEYS: device. ARGV: token, lease (ms). Returns 1, or 0 when the lease is another's or was released.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local d = redis.call('HMGET', KEYS[1], 'token', 'until')
local leased_until = tonumber(d[2] or 0)
if d[1] ~= ARGV[1] or leased_until <= 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'until', string.format('%.0f', math.max(leased_until, now + ARGV[2])))
return 1
