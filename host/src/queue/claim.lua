-- Takes a device's lease and its first message.
-- KEYS: queue, processing, device. ARGV: owner, lease (ms).
-- Returns {'empty'} | {'wait', ms} | {'orphans', token, id…} | {'message', token, id, rank, pace, depth}.
-- A claim whose answer was lost has taken the lease: repeated, it says 'wait' until the lease runs out, then 'orphans',
-- so the message is not lost.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local d = redis.call('HMGET', KEYS[3], 'until', 'next_at', 'token', 'pace')
local leased_until = tonumber(d[1] or 0)
if leased_until > now then
  return {'wait', leased_until - now}
end
local sending, queued = redis.call('SCARD', KEYS[2]), redis.call('ZCARD', KEYS[1])
if sending == 0 and queued == 0 then
  return {'empty'}
end
local next_at = tonumber(d[2] or 0)
if next_at > now then
  return {'wait', next_at - now}
end
-- Microseconds of the server's clock: larger than every token from before a loss of the data, below 2^53.
local token = string.format('%.0f', math.max(tonumber(d[3] or 0) + 1, t[1] * 1000000 + t[2]))
redis.call('HSET', KEYS[3], 'owner', ARGV[1], 'token', token, 'until', string.format('%.0f', now + ARGV[2]))
if sending > 0 then
  -- A hundred at most; if there are more, the next claim finds them.
  local answer = redis.call('SRANDMEMBER', KEYS[2], 100)
  table.insert(answer, 1, token)
  table.insert(answer, 1, 'orphans')
  return answer
end
local first = redis.call('ZPOPMIN', KEYS[1])
redis.call('SADD', KEYS[2], first[1])
return {'message', token, first[1], first[2], d[4] or '', queued - 1}
