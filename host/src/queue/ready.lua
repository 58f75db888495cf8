-- Takes due devices from one shard of the ready index and hides them for the time of a lease.
-- KEYS: ready. ARGV: limit, lease (ms), mark.
-- The mark, a fraction of a millisecond, makes the score of this hiding unlike any other's: see index.lua.
-- Returns {next, hidden, device, late, …}: next is how long (ms) until another device is due, -1 when there is none;
-- hidden the score that the devices now have; late how long (ms) each has been due.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local limit = tonumber(ARGV[1])
-- One more than wanted says whether others are due.
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit + 1)
local next_in = -1
if #due > 2 * limit then
  next_in = 0
else
  local later = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if later[2] then
    next_in = math.ceil(tonumber(later[2]) - now)
  end
end
local hidden = string.format('%.17g', now + ARGV[2] + ARGV[3])
local answer, hide = {next_in, hidden}, {}
for i = 1, math.min(#due, 2 * limit), 2 do
  hide[i], hide[i + 1] = hidden, due[i]
  answer[i + 2], answer[i + 3] = due[i], math.floor(now - tonumber(due[i + 1]))
end
-- In portions, because the number of arguments that unpack can give is limited.
for i = 1, #hide, 400 do
  redis.call('ZADD', KEYS[1], 'XX', unpack(hide, i, math.min(i + 399, #hide)))
end
return answer
