"""A store of leases whose acts block, on a thread of its own."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

from farthing.adapters.leases import Grant, Posted, Share, Want
from farthing.adapters.memory import CounterKey

Answer = TypeVar("Answer")


class BlockingLeases(Protocol):
    """What ``LeaseStore`` says, act by act; called by one thread at a time."""

    in_ledger: bool

    def declare(self, shares: Sequence[Share]) -> None: ...

    def renew(self, shares: Sequence[Share]) -> Mapping[CounterKey, tuple[int, int]]: ...

    def grant(self, wants: Sequence[Want], *, now_ms: int) -> Sequence[Grant]: ...

    def leave(self) -> None: ...

    def drop(self, worker: str, posted: Sequence[Posted]) -> None: ...

    def leased(self, worker: str) -> Sequence[CounterKey]: ...

    def silent(self, workers: Sequence[str]) -> Sequence[str]: ...

    def close(self) -> None: ...


class ThreadedLeases:
    """``LeaseStore`` over a blocking one."""

    def __init__(self, store: BlockingLeases) -> None:
        self.in_ledger = store.in_ledger
        self._store = store
        self._thread = ThreadPoolExecutor(1, "farthing-leases")

    async def declare(self, shares: Sequence[Share]) -> None:
        await self._run(partial(self._store.declare, shares))

    async def renew(self, shares: Sequence[Share]) -> Mapping[CounterKey, tuple[int, int]]:
        return await self._run(partial(self._store.renew, shares))

    async def grant(self, wants: Sequence[Want], *, now_ms: int) -> Sequence[Grant]:
        return await self._run(partial(self._store.grant, wants, now_ms=now_ms))

    async def leave(self) -> None:
        await self._run(self._store.leave)

    async def drop(self, worker: str, posted: Sequence[Posted]) -> None:
        await self._run(partial(self._store.drop, worker, posted))

    async def leased(self, worker: str) -> Sequence[CounterKey]:
        return await self._run(partial(self._store.leased, worker))

    async def silent(self, workers: Sequence[str]) -> Sequence[str]:
        return await self._run(partial(self._store.silent, workers))

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        self._store.close()

    async def _run(self, act: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, act)
