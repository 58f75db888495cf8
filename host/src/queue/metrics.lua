-- Adds to a device's metrics.
-- KEYS: metrics. ARGV: sent, failed, retried, latency_ms, then last_sent_at and last_delay_ms if it sent.
local names = {'sent', 'failed', 'retried', 'latency_ms'}
local d = redis.call('HMGET', KEYS[1], 'sent', 'failed', 'retried', 'latency_ms', 'last_sent_at')
local set = {}
for i, name in ipairs(names) do
  if ARGV[i] ~= '0' then
    set[#set + 1] = name
    set[#set + 1] = string.format('%.0f', tonumber(d[i] or 0) + ARGV[i])
  end
end
-- Several servers flush: the latest send counts, not the latest flush.
if ARGV[5] and tonumber(ARGV[5]) >= tonumber(d[5] or 0) then
  for i, value in ipairs({'last_sent_at', ARGV[5], 'last_delay_ms', ARGV[6]}) do
    set[#set + 1] = value
  end
end
if #set > 0 then
  redis.call('HSET', KEYS[1], unpack(set))
end
return 1
