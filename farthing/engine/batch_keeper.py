"""The task that looks after batches: sends what waits, looks at what runs, and clears up after workers that died."""

import asyncio
import contextlib
from typing import Final

import msgspec

from farthing.engine.background import outlived
from farthing.engine.batch_desk import BatchDesk
from farthing.engine.batch_queue import BatchQueue
from farthing.ports.batches import Manifest

STUCK_MS: Final = 900_000
"""A batch that is on its way to its provider for longer belongs to a worker that died on it."""
KEPT_MS: Final = 30 * 86_400_000
"""As long as providers keep results, about."""
_PRUNE_S: Final = 3_600
_manifest: Final = msgspec.json.Decoder(Manifest)


class BatchKeeper:
    """One per process; ``start`` and ``stop`` with the gateway's."""

    def __init__(self, desk: BatchDesk, queue: BatchQueue | None, *, tick_s: float) -> None:
        self.desk = desk
        self.queue = queue
        self._tick_s = tick_s
        self._task: asyncio.Task[None] | None = None
        self._pruned_s = 0.0

    def start(self) -> None:
        """The loop must be running."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """What is being booked goes on at the next start, or at another worker."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.to_thread(self.desk.shelf.close)

    async def tick(self) -> None:
        """One round of everything."""
        if self.queue is not None:
            await self.queue.gather()
        await self.desk.round()
        await self._clear_up()

    async def _run(self) -> None:
        while True:
            await outlived(self.tick(), "looking after batches", trace=True)
            await asyncio.sleep(self._tick_s)

    async def _clear_up(self) -> None:
        desk, shelf = self.desk, self.desk.shelf
        now_ms = desk.services.clock.now_ms()
        for batch in await asyncio.to_thread(shelf.stuck, before_ms=now_ms - STUCK_MS):
            manifest = _manifest.decode(await asyncio.to_thread(shelf.manifest, batch.id))
            await desk.lose(batch, manifest, "worker_lost")
            if self.queue is not None and batch.kind == "queue":
                await self.queue.lost(batch, manifest)
        now_s = asyncio.get_running_loop().time()
        if now_s - self._pruned_s > _PRUNE_S:
            self._pruned_s = now_s
            await asyncio.to_thread(shelf.prune, now_ms - KEPT_MS)
