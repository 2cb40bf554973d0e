"""Farthing's own stores of answers keep the cache contract."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path

import pytest

from farthing.adapters.cache_layers import LayeredCache
from farthing.adapters.cache_memory import MemoryCache
from farthing.adapters.cache_sqlite import SqliteCache
from farthing.adapters.cache_valkey import ValkeyCache
from farthing.core.errors import StoreUnavailable
from farthing.ports.cache import ExactCache, Selector, SharedCache
from farthing.testing.contracts_cache import MANY, ExactCacheContract, SharedCacheContract, an_answer
from farthing.testing.fakes import VirtualClock
from farthing.testing.records import AT_MS
from farthing.testing.servers import ValkeyServer, valkey_url

_NUMBERS = count()
_FOLDER = Path(tempfile.mkdtemp(prefix="farthing-cache-"))


def sqlite(number: int, **bounds: int) -> SqliteCache:
    return SqliteCache(_FOLDER / f"{number}.db", **bounds)


def valkey(number: int, **bounds: int) -> ValkeyCache:
    return ValkeyCache(valkey_url(), name=f"test-{os.getpid()}-{number}", **bounds)


class TestMemoryCache(ExactCacheContract):
    def fresh(self, *, entries_max: int = MANY, bytes_max: int = MANY * 1000) -> ExactCache:
        return MemoryCache(entries_max=entries_max, bytes_max=bytes_max)


class TestSqliteCache(SharedCacheContract):
    def fresh(self, *, entries_max: int = MANY, bytes_max: int = MANY * 1000) -> ExactCache:
        self.number = next(_NUMBERS)
        return sqlite(self.number, entries_max=entries_max, bytes_max=bytes_max)

    def another(self, cache: ExactCache) -> SharedCache:
        return sqlite(self.number)

    def shrunk(self, cache: SharedCache) -> SharedCache:
        return sqlite(self.number, entries_max=2)


class TestValkeyCache(SharedCacheContract):
    def fresh(self, *, entries_max: int = MANY, bytes_max: int = MANY * 1000) -> ExactCache:
        self.number = next(_NUMBERS)
        return valkey(self.number, entries_max=entries_max, bytes_max=bytes_max)

    def another(self, cache: ExactCache) -> SharedCache:
        return valkey(self.number)

    def shrunk(self, cache: SharedCache) -> SharedCache:
        return valkey(self.number, entries_max=2)


class TestLayeredCache(ExactCacheContract):
    """The memory in front is never smaller here, so that the store's bounds are the cache's."""

    def fresh(self, *, entries_max: int = MANY, bytes_max: int = MANY * 1000) -> ExactCache:
        store = sqlite(next(_NUMBERS), entries_max=entries_max, bytes_max=bytes_max)
        return LayeredCache(MemoryCache(entries_max=1), store, VirtualClock(AT_MS))


async def test_the_memory_in_front_serves_without_the_store_and_learns_what_others_forget(tmp_path: Path) -> None:
    clock = VirtualClock(AT_MS)
    one = LayeredCache(MemoryCache(), SqliteCache(tmp_path / "cache.db"), clock)
    two = LayeredCache(MemoryCache(), SqliteCache(tmp_path / "cache.db"), clock)
    await one.start()
    await two.start()
    await one.put(an_answer(), now_ms=AT_MS)
    assert two.peek("k", now_ms=AT_MS) is None
    assert await two.get("k", now_ms=AT_MS) is not None
    assert two.peek("k", now_ms=AT_MS) is not None, "what was read once is at hand"
    await one.forget(Selector(prefix="k"), now_ms=AT_MS)
    assert one.peek("k", now_ms=AT_MS) is None
    for _ in range(60):
        if two.peek("k", now_ms=AT_MS) is None:
            break
        await asyncio.sleep(0.05)
    assert two.peek("k", now_ms=AT_MS) is None
    await one.close()
    await two.close()


@pytest.mark.parametrize("damage", [b"no database at all, but long enough to be looked at" * 30, b""])
async def test_a_damaged_file_is_put_aside(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "cache.db"
    path.write_bytes(damage)
    cache = SqliteCache(path)
    await cache.start()
    await cache.put(an_answer(), now_ms=AT_MS)
    assert await cache.get("k", now_ms=AT_MS) is not None
    await cache.close()
    assert (tmp_path / "cache.db.damaged").exists() == bool(damage)


async def test_a_file_of_another_release_is_begun_anew(tmp_path: Path) -> None:
    cache = SqliteCache(tmp_path / "cache.db")
    await cache.start()
    await cache.put(an_answer(), now_ms=AT_MS)
    await cache.close()
    import sqlite3

    with sqlite3.connect(tmp_path / "cache.db") as db:
        db.execute("PRAGMA user_version = 99")
    cache = SqliteCache(tmp_path / "cache.db")
    await cache.start()
    assert await cache.get("k", now_ms=AT_MS) is None
    await cache.close()


async def test_a_store_that_is_away_fails_and_comes_back() -> None:
    server = ValkeyServer().start()
    cache = ValkeyCache(server.url)
    try:
        await cache.start()
        server.kill()
        with pytest.raises(StoreUnavailable):
            await cache.get("k", now_ms=AT_MS)
        server.start()
        await cache.put(an_answer(), now_ms=AT_MS)
        assert await cache.get("k", now_ms=AT_MS) is not None
    finally:
        await cache.close()
        server.kill()


_WRITER = """
import asyncio, sys
from pathlib import Path
from farthing.adapters.cache_sqlite import SqliteCache
from farthing.testing.contracts_cache import an_answer
from farthing.testing.records import AT_MS

async def main():
    cache = SqliteCache(Path(sys.argv[1]), entries_max=500)
    await cache.start()
    number = 0
    while True:
        await cache.put(an_answer(f"k{number}", b"x" * 3000), now_ms=AT_MS)
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


async def test_a_killed_writer_leaves_a_readable_store(tmp_path: Path) -> None:
    """Every answer whose ``put`` returned is there, whole, and the totals agree with what is there."""
    path = tmp_path / "cache.db"
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        last = 0
        for line in process.stdout:
            last = int(line)
            if last >= 120:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        cache = SqliteCache(path)
        await cache.start()
        for number in range(last + 1):
            found = await cache.get(f"k{number}", now_ms=AT_MS)
            assert found is not None
            assert found.body == b"x" * 3000
        kept = await cache.answers(Selector(), limit=10_000, now_ms=AT_MS)
        state = await cache.state()
        assert (state.entries, state.bytes) == (len(kept), sum(answer.size for answer in kept))
        await cache.close()
