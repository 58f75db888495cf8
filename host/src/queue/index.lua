-- Changes a device's place on the ready index.
-- KEYS: ready. ARGV: verb, device, seen, wait (ms).
--   put:   the device is ready after `wait`
--   move:  the same, but only if nobody has touched its place since it was seen
--   drop:  it leaves the index, but only if nobody has touched its place since it was seen
--   cover: it is looked at after `wait` if it has no place at all
--
-- `seen` is the score that ready.lua gave when it hid the device for the caller ('' when it did not). The index lies in
-- another slot than the device, so a claim or finish changes it in a second step, and an enqueue may come in between:
--   claim: "nothing waits" · enqueue: adds a message · enqueue: puts the device · claim: drops the device
-- would leave a message on a device that nobody looks at. But hidden scores carry a fraction and `put` writes whole
-- milliseconds: after a put the score is never the one that was seen, and the drop does nothing. The other orders are
-- harmless: put after drop adds the device, and an enqueue before the claim looked is found by the claim.
-- The rule in every doubt: too early costs one claim in vain, which mends the index; too late or never is an error.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local stands = redis.call('ZSCORE', KEYS[1], ARGV[2])
local untouched = stands and ARGV[3] ~= '' and tonumber(stands) == tonumber(ARGV[3])
local verb = ARGV[1]
if verb == 'drop' then
  if untouched then
    redis.call('ZREM', KEYS[1], ARGV[2])
  end
  return 1
end
local at = now + ARGV[4]
if verb == 'put' and stands and not untouched then
  -- Another put was here, or another caller has hidden it: never later than it stood.
  at = math.min(at, math.floor(tonumber(stands)))
end
if verb == 'put' or (verb == 'move' and untouched) or (verb == 'cover' and not stands) then
  redis.call('ZADD', KEYS[1], string.format('%.0f', at), ARGV[2])
end
return 1
