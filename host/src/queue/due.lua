-- How many devices stand on one shard of the ready index with their time come.
-- KEYS: ready. Returns the number; those that are hidden, because they are claimed, are not among them.
local t = redis.call('TIME')
return redis.call('ZCOUNT', KEYS[1], '-inf', t[1] * 1000 + math.floor(t[2] / 1000))
