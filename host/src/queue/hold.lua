-- Makes a device wait. KEYS: device. ARGV: wait (ms).
local t = redis.call('TIME')
local at = t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[1]
if at > tonumber(redis.call('HGET', KEYS[1], 'next_at') or 0) then
  -- Whoever must wait is not eager any more: after it one message shows how things stand.
  redis.call('HSET', KEYS[1], 'next_at', string.format('%.0f', at), 'eager', '0')
end
return 1
