-- Tells the limit on workers that a server is configured with.
-- KEYS: limit, configured (in one slot: see keys.rs). ARGV: configured, the limit where there is none.
-- Returns the limit in force. A limit that an operator set stays while servers come and go with the settings that were
-- there before; other settings replace it, except 0, which only an operator takes away.
local limit = redis.call('GET', KEYS[1])
local before = redis.call('GET', KEYS[2])
if not limit then
  limit = ARGV[2]
  redis.call('SET', KEYS[1], limit)
elseif before and before ~= ARGV[1] and tonumber(limit) ~= 0 then
  limit = ARGV[1]
  redis.call('SET', KEYS[1], limit)
end
if before ~= ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[1])
end
return limit
