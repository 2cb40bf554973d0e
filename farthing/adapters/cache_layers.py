"""A memory in front of a shared store: popular answers are served without leaving the process.

Once a second the layer tells the store what was served and learns what others forgot.
"""

import asyncio
import contextlib
import logging

from farthing.adapters.cache_memory import MemoryCache
from farthing.core.errors import StoreFailed
from farthing.ports.cache import SYNC_MS, CacheState, Selector, SharedCache, StoredAnswer
from farthing.ports.clock import Clock

_LOG = logging.getLogger("farthing.cache")


class LayeredCache:
    """``ExactCache`` of two layers; answers from the store are copied into the memory when they are read."""

    def __init__(self, memory: MemoryCache, store: SharedCache, clock: Clock) -> None:
        self._memory = memory
        self._store = store
        self._clock = clock
        self._number = 0
        self._syncing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Opens the store; what was forgotten before is not in this memory yet, so it need not be read.

        A store that is away is no reason not to serve: it is asked again with every request.
        """
        try:
            await self._store.start()
            self._number, _ = await self._store.forgotten(0)
        except StoreFailed as error:
            _LOG.warning("the cache's store does not answer, every request is a miss: %s", error)
        if self._syncing is None:
            self._syncing = asyncio.get_running_loop().create_task(self._sync_always())

    def peek(self, key: str, *, now_ms: int) -> StoredAnswer | None:
        return self._memory.peek(key, now_ms=now_ms)

    async def get(self, key: str, *, now_ms: int) -> StoredAnswer | None:
        number = self._number
        answer = await self._store.get(key, now_ms=now_ms)
        if answer is not None and number == self._number:  # forgotten meanwhile: do not bring it back
            self._memory.add(answer, now_ms=now_ms)
        return answer

    async def put(self, answer: StoredAnswer, *, now_ms: int) -> None:
        self._memory.add(answer, now_ms=now_ms)
        await self._store.put(answer, now_ms=now_ms)

    async def claim(self, key: str, *, owner: str, ttl_ms: int, now_ms: int) -> bool:
        return await self._store.claim(key, owner=owner, ttl_ms=ttl_ms, now_ms=now_ms)

    async def release(self, key: str, *, owner: str) -> None:
        await self._store.release(key, owner=owner)

    async def forget(self, selector: Selector, *, now_ms: int) -> int:
        count = await self._store.forget(selector, now_ms=now_ms)
        self._memory.drop(selector)
        return count

    async def answers(self, selector: Selector, *, limit: int, now_ms: int) -> tuple[StoredAnswer, ...]:
        return await self._store.answers(selector, limit=limit, now_ms=now_ms)

    async def state(self) -> CacheState:
        return await self._store.state()

    async def sync(self) -> None:
        """Tells the store what was served here and drops what was forgotten elsewhere. Raises ``StoreFailed``."""
        self._number, selectors = await self._store.forgotten(self._number)
        for selector in (Selector(),) if selectors is None else selectors:
            self._memory.drop(selector)
        await self._store.touch(self._memory.take_uses(), now_ms=self._clock.now_ms())

    async def close(self) -> None:
        if self._syncing is not None:
            self._syncing.cancel()
            await asyncio.gather(self._syncing, return_exceptions=True)
            self._syncing = None
            with contextlib.suppress(StoreFailed):
                await self.sync()
        await self._store.close()

    async def _sync_always(self) -> None:
        """A store that was away for longer than it remembers is caught up with by forgetting everything here."""
        failing = False
        while True:
            await asyncio.sleep(SYNC_MS / 1000 / 2)
            try:
                await self.sync()
                failing = False
            except StoreFailed as error:
                if not failing:
                    _LOG.warning("the cache's store does not answer: %s", error)
                failing = True
                self._memory.drop(Selector())  # what others forget cannot be learned now
