"""What happens inside Valkey, in Lua: each script is one atomic step, so that the sums are right whatever clients do at the same time.

Keys, all below the prefix, which holds a hash tag, so that they are in one slot: `answer:<key>` is a hash (blob, model, feed_id, compute_s,
created_at, ttl_s, hits); `value`, `created` and `expires` are sorted sets of keys; `sizes` a hash of bytes by key; `bytes` their sum;
`limit` the most bytes there may be; `clock` the value of the last one that made room. Tests: tests/valkey.
"""

from __future__ import annotations

_DROP = """
local p = ARGV[1]
local function drop(key)
  local size = redis.call('HGET', p .. 'sizes', key)
  redis.call('DEL', p .. 'answer:' .. key)
  redis.call('ZREM', p .. 'value', key)
  redis.call('ZREM', p .. 'created', key)
  redis.call('ZREM', p .. 'expires', key)
  if not size then return 0 end
  redis.call('HDEL', p .. 'sizes', key)
  redis.call('DECRBY', p .. 'bytes', size)
  return 1
end
local function make_room(target, most)
  local gone = 0
  while gone < most and tonumber(redis.call('GET', p .. 'bytes') or 0) > target do
    local lowest = redis.call('ZRANGE', p .. 'value', 0, 0, 'WITHSCORES')
    if not lowest[1] then break end
    redis.call('SET', p .. 'clock', lowest[2])
    drop(lowest[1])
    gone = gone + 1
  end
  return gone
end
"""

# prefix, key, blob, size_bytes, compute_s, created_at, expires_at or '', model, feed_id, ttl_s or '', '1': only in place of an older one
PUT = (
    _DROP
    + """
local key, size = ARGV[2], ARGV[4]
local name = p .. 'answer:' .. key
local created_at = redis.call('ZSCORE', p .. 'created', key)
if ARGV[11] == '1' and created_at and tonumber(created_at) >= tonumber(ARGV[6]) then return {0, 0} end
local hits = 0
if redis.call('TYPE', name).ok == 'hash' then hits = tonumber(redis.call('HGET', name, 'hits')) or 0 end
drop(key)
redis.call('HSET', name, 'blob', ARGV[3], 'model', ARGV[8], 'feed_id', ARGV[9], 'compute_s', ARGV[5], 'created_at', ARGV[6],
  'ttl_s', ARGV[10], 'hits', hits)
redis.call('HSET', p .. 'sizes', key, size)
redis.call('INCRBY', p .. 'bytes', size)
local clock = tonumber(redis.call('GET', p .. 'clock') or 0)
redis.call('ZADD', p .. 'value', string.format('%.17g', clock + (hits + 1) * tonumber(ARGV[5]) / tonumber(size)), key)
redis.call('ZADD', p .. 'created', ARGV[6], key)
if ARGV[7] ~= '' then redis.call('ZADD', p .. 'expires', ARGV[7], key) end
local limit = redis.call('GET', p .. 'limit')
return {1, limit and make_room(tonumber(limit), 1000) or 0}
"""
)

# prefix, keys ...
DELETE = (
    _DROP
    + """
local gone = 0
for i = 2, #ARGV do gone = gone + drop(ARGV[i]) end
return gone
"""
)

# prefix, 'created' or 'expires', Unix time, most
DROP_BEFORE = (
    _DROP
    + """
local keys = redis.call('ZRANGEBYSCORE', p .. ARGV[2], '-inf', '(' .. ARGV[3], 'LIMIT', 0, ARGV[4])
for _, key in ipairs(keys) do drop(key) end
return #keys
"""
)

# prefix, target in bytes, most
MAKE_ROOM = _DROP + "return make_room(tonumber(ARGV[2]), tonumber(ARGV[3]))"

# prefix, key, number, key, number, ...
NOTE_HITS = """
local p = ARGV[1]
local clock = tonumber(redis.call('GET', p .. 'clock') or 0)
for i = 2, #ARGV, 2 do
  local key = ARGV[i]
  local size = redis.call('HGET', p .. 'sizes', key)
  if size then
    local hits = redis.call('HINCRBY', p .. 'answer:' .. key, 'hits', ARGV[i + 1])
    local compute_s = tonumber(redis.call('HGET', p .. 'answer:' .. key, 'compute_s') or 0)
    redis.call('ZADD', p .. 'value', 'XX', string.format('%.17g', clock + (hits + 1) * compute_s / tonumber(size)), key)
  end
end
"""
