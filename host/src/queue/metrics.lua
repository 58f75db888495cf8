-- Adds to a device's metrics.
-- KEYS: metrics. ARGV: sent, failed, retried, latency_ms, then last_sent_at and last_delay_ms if it sent.
for i, name in ipairs({'sent', 'failed', 'retried', 'latency_ms'}) do
  if ARGV[i] ~= '0' then
    redis.call('HINCRBY', KEYS[1], name, ARGV[i])
  end
end
-- Several servers flush: the latest send counts, not the latest flush.
if ARGV[5] and tonumber(ARGV[5]) >= tonumber(redis.call('HGET', KEYS[1], 'last_sent_at') or 0) then
  redis.call('HSET', KEYS[1], 'last_sent_at', ARGV[5], 'last_delay_ms', ARGV[6])
end
return 1
