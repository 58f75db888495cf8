-- Takes a device's lease and its first messages.
-- KEYS: queue, processing, device. ARGV: owner, lease (ms), burst.
-- Returns {'empty'} | {'wait', ms} | {'orphans', token, id…} | {'messages', token, pace, depth, id, rank, …}: `burst`
-- messages of an eager device (see finish.lua), one of any other.
-- A claim whose answer was lost has taken the lease: repeated, it says 'wait' until the lease runs out, then 'orphans',
-- so no message is lost.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local d = redis.call('HMGET', KEYS[3], 'until', 'next_at', 'token', 'pace', 'eager')
local leased_until = tonumber(d[1] or 0)
if leased_until > now then
  return {'wait', leased_until - now}
end
-- '0' says that the last hold ended with nothing in processing, which saves looking.
local sending = d[1] == '0' and 0 or redis.call('SCARD', KEYS[2])
local next_at = tonumber(d[2] or 0)
if next_at > now then
  if sending == 0 and redis.call('ZCARD', KEYS[1]) == 0 then
    return {'empty'}
  end
  return {'wait', next_at - now}
end
-- Microseconds of the server's clock: larger than every token from before a loss of the data, below 2^53.
local token = string.format('%.0f', math.max(tonumber(d[3] or 0) + 1, t[1] * 1000000 + t[2]))
local lease = string.format('%.0f', now + ARGV[2])
if sending > 0 then
  -- Nobody counted them: finish must look whether any is left.
  redis.call('HSET', KEYS[3], 'owner', ARGV[1], 'token', token, 'until', lease, 'held', '-1')
  -- A hundred at most; if there are more, the next claim finds them.
  local answer = redis.call('SRANDMEMBER', KEYS[2], 100)
  table.insert(answer, 1, token)
  table.insert(answer, 1, 'orphans')
  return answer
end
-- The first write of the script: a server that refuses writes refuses it here, or none of those that follow.
local wanted = d[5] == '1' and tonumber(ARGV[3]) or 1
local first = redis.call('ZPOPMIN', KEYS[1], wanted)
if #first == 0 then
  return {'empty'}
end
local held = #first / 2
local answer, ids = {'messages', token, d[4] or '', 0}, {}
for i = 1, #first, 2 do
  ids[#ids + 1] = first[i]
  answer[#answer + 1], answer[#answer + 2] = first[i], first[i + 1]
end
redis.call('SADD', KEYS[2], unpack(ids))
redis.call('HSET', KEYS[3], 'owner', ARGV[1], 'token', token, 'until', lease, 'held', held)
-- Fewer than wanted were all.
if held == wanted then
  answer[4] = redis.call('ZCARD', KEYS[1])
end
return answer
