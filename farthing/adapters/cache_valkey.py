"""Answers in Valkey (or Redis), for gateways on several machines.

All keys share one hash tag, so that a cluster keeps a cache on one node and its scripts are atomic. Several caches on
one server are told apart by their name.
"""

from collections.abc import Awaitable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from valkey.asyncio import Valkey
from valkey.exceptions import ValkeyError

from farthing.adapters.cache_memory import newest
from farthing.core.errors import StoreUnavailable
from farthing.ports.cache import CacheState, Selector, StoredAnswer

ENTRIES_MAX: Final = 1_000_000
BYTES_MAX: Final = 4 * 1024 * 1024 * 1024
FORGETS_KEPT: Final = 1_000
_PAGE: Final = 256
_Result = TypeVar("_Result")
_record = msgspec.msgpack.Decoder(StoredAnswer)
_selector = msgspec.json.Decoder(Selector)
_COUNTS: Final = ("entries", "bytes", "stores", "evictions", "expired", "forgotten")

# What an answer leaves beside its record: worth and expiry in sorted sets, "cost uses size" in a hash.
_DROP: Final = """
local function drop(key)
  local said = redis.call('HGET', KEYS[4], key)
  if not said then return 0 end
  local size = tonumber(string.match(said, '(%d+)$'))
  redis.call('DEL', KEYS[1] .. key)
  redis.call('ZREM', KEYS[2], key)
  redis.call('ZREM', KEYS[3], key)
  redis.call('HDEL', KEYS[4], key)
  redis.call('HINCRBY', KEYS[5], 'entries', -1)
  redis.call('HINCRBY', KEYS[5], 'bytes', -size)
  return 1
end
"""
_PUT: Final = (
    _DROP
    + """
local key, record, cost, size, expires, now = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 128)) do
  redis.call('HINCRBY', KEYS[5], 'expired', drop(old))
end
drop(key)
local clock = tonumber(redis.call('HGET', KEYS[5], 'clock') or '0')
redis.call('SET', KEYS[1] .. key, record, 'PX', tonumber(expires) - now)
redis.call('ZADD', KEYS[2], clock + math.max(tonumber(cost), 1) / tonumber(size), key)
redis.call('ZADD', KEYS[3], expires, key)
redis.call('HSET', KEYS[4], key, cost .. ' 1 ' .. size)
redis.call('HINCRBY', KEYS[5], 'entries', 1)
redis.call('HINCRBY', KEYS[5], 'bytes', size)
redis.call('HINCRBY', KEYS[5], 'stores', 1)
while true do
  local held = redis.call('HMGET', KEYS[5], 'entries', 'bytes')
  if tonumber(held[1]) <= tonumber(ARGV[7]) and tonumber(held[2]) <= tonumber(ARGV[8]) then break end
  local last = redis.call('ZPOPMIN', KEYS[2])
  if not last[1] then break end
  redis.call('HINCRBY', KEYS[5], 'evictions', drop(last[1]))
  if tonumber(last[2]) > clock then
    clock = tonumber(last[2])
    redis.call('HSET', KEYS[5], 'clock', tostring(clock))
  end
end
return 1
"""
)
_REMOVE: Final = (
    _DROP
    + """
local count = 0
for _, key in ipairs(ARGV) do count = count + drop(key) end
redis.call('HINCRBY', KEYS[5], 'forgotten', count)
return count
"""
)
_TOUCH: Final = """
local clock = tonumber(redis.call('HGET', KEYS[5], 'clock') or '0')
for place = 1, #ARGV, 2 do
  local said = redis.call('HGET', KEYS[4], ARGV[place])
  if said then
    local cost, uses, size = string.match(said, '(%d+) (%d+) (%d+)')
    uses = tonumber(uses) + tonumber(ARGV[place + 1])
    redis.call('HSET', KEYS[4], ARGV[place], cost .. ' ' .. uses .. ' ' .. size)
    redis.call('ZADD', KEYS[2], 'XX', clock + math.max(tonumber(cost), 1) * uses / tonumber(size), ARGV[place])
  end
end
return 1
"""
_NOTE: Final = """
local number = redis.call('INCR', KEYS[2])
redis.call('ZADD', KEYS[1], number, number .. ' ' .. ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[2]))
return number
"""
_CLAIM: Final = """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_RELEASE: Final = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class ValkeyCache:
    """``SharedCache`` on a server at ``url`` (``valkey://``, ``redis://``, ``rediss://``, ``unix://``)."""

    def __init__(
        self, url: str, *, name: str = "cache", entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX
    ) -> None:
        self._url = url
        self._base = f"farthing:{{{name}}}:"
        self._keys = [self._base + part for part in ("a:", "worth", "expiry", "facts", "totals")]
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._client: Any = None

    async def start(self) -> None:
        if self._client is None:
            self._client = Valkey.from_url(self._url, socket_timeout=2.0, socket_connect_timeout=2.0)
            await self._run(self._client.ping())

    def peek(self, key: str, *, now_ms: int) -> StoredAnswer | None:
        return None

    async def get(self, key: str, *, now_ms: int) -> StoredAnswer | None:
        found = await self._run(self._open().get(f"{self._keys[0]}{key}"))
        answer = None if found is None else _read(found)
        return answer if answer is not None and answer.expires_at_ms > now_ms else None

    async def put(self, answer: StoredAnswer, *, now_ms: int) -> None:
        if answer.expires_at_ms <= now_ms or answer.size > self._bytes_max:
            return
        values = (
            answer.key, msgspec.msgpack.encode(answer), answer.charge or 0, answer.size, answer.expires_at_ms, now_ms,
            self._entries_max, self._bytes_max,
        )  # fmt: skip
        await self._run(self._open().eval(_PUT, len(self._keys), *self._keys, *values))

    async def claim(self, key: str, *, owner: str, ttl_ms: int, now_ms: int) -> bool:
        return bool(await self._run(self._open().eval(_CLAIM, 1, f"{self._base}claim:{key}", owner, max(1, ttl_ms))))

    async def release(self, key: str, *, owner: str) -> None:
        await self._run(self._open().eval(_RELEASE, 1, f"{self._base}claim:{key}", owner))

    async def forget(self, selector: Selector, *, now_ms: int) -> int:
        note = (msgspec.json.encode(selector), FORGETS_KEPT)
        await self._run(self._open().eval(_NOTE, 2, self._base + "forgets", self._base + "number", *note))
        count, pending = 0, [answer.key for answer in await self._scan(selector)]
        for start in range(0, len(pending), _PAGE):
            page = pending[start : start + _PAGE]
            count += int(await self._run(self._open().eval(_REMOVE, len(self._keys), *self._keys, *page)))
        return count

    async def answers(self, selector: Selector, *, limit: int, now_ms: int) -> tuple[StoredAnswer, ...]:
        live = (answer for answer in await self._scan(selector) if answer.expires_at_ms > now_ms)
        return tuple(newest(selector, live, limit))

    async def state(self) -> CacheState:
        values = await self._run(self._open().hmget(self._keys[4], *_COUNTS))
        return CacheState(
            kind="valkey", **{name: int(value or 0) for name, value in zip(_COUNTS, values, strict=True)}
        )

    async def touch(self, uses: Mapping[str, int], *, now_ms: int) -> None:
        pairs = list(uses.items())
        for start in range(0, len(pairs), _PAGE):
            flat = [part for pair in pairs[start : start + _PAGE] for part in pair]
            await self._run(self._open().eval(_TOUCH, len(self._keys), *self._keys, *flat))

    async def forgotten(self, after: int) -> tuple[int, tuple[Selector, ...] | None]:
        rows = await self._run(self._open().zrangebyscore(self._base + "forgets", f"({after}", "+inf"))
        if not rows:
            return after, ()
        numbers = [int(row.partition(b" ")[0]) for row in rows]
        if numbers[0] != after + 1:
            return numbers[-1], None
        return numbers[-1], tuple(_selector.decode(row.partition(b" ")[2]) for row in rows)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _scan(self, selector: Selector) -> list[StoredAnswer]:
        """The selected answers; pages through the expiry set, so that a large cache never stops the server."""
        keys = [key.decode() for key in await self._run(self._open().zrange(self._keys[2], 0, -1))]
        keys = [key for key in keys if key.startswith(selector.prefix)]
        found: list[StoredAnswer] = []
        for start in range(0, len(keys), _PAGE):
            page = [self._keys[0] + key for key in keys[start : start + _PAGE]]
            records = await self._run(self._open().mget(page))
            read = (_read(record) for record in records if record is not None)
            found += newest(selector, (answer for answer in read if answer is not None), _PAGE)
        return found

    def _open(self) -> Any:
        if self._client is None:
            raise StoreUnavailable("The cache's Valkey is not open.", hint="Call start() first.")
        return self._client

    async def _run(self, command: Awaitable[_Result]) -> _Result:
        try:
            return await command
        except (ValkeyError, OSError) as error:
            raise StoreUnavailable(
                f"The cache's Valkey cannot be used: {error}.", hint="Check [cache_store] url and the server."
            ) from error


def _read(record: bytes) -> StoredAnswer | None:
    """None for a record of another release: it is as good as absent."""
    try:
        return _record.decode(record)
    except (msgspec.MsgspecError, UnicodeError):
        return None
