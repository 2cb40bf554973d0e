"""Batches through the gateway: their shelf, the providers' batch APIs, and the task that looks after both."""

from collections.abc import Mapping
from dataclasses import dataclass

from farthing.adapters import store_opening
from farthing.adapters.batch_wire import ProviderBatches
from farthing.adapters.codecs import secret_of
from farthing.bootstrap.home import worker_name
from farthing.config import ProviderSettings, Settings, dialect_of
from farthing.engine.batch_desk import BatchDesk
from farthing.engine.batch_keeper import BatchKeeper
from farthing.engine.batch_provider import BatchProvider
from farthing.engine.batch_queue import BatchQueue
from farthing.engine.services import Services
from farthing.ports.batches import BatchWire
from farthing.server.batch_answers import BatchRoom

_TICK_MAX_S = 5.0


@dataclass(slots=True)
class Batching:
    """Started and stopped with the gateway."""

    settings: Settings
    env: Mapping[str, str]
    services: Services
    room: BatchRoom
    keeper: BatchKeeper | None = None

    def start(self) -> None:
        """Opens the shelf; the books are open already and the loop runs."""
        chosen = self.settings.batches
        shelf = store_opening.open_batches(self.settings, self.env)
        provider = BatchProvider(self.services, wires_of(self.settings, self.env))
        desk = BatchDesk(self.services, shelf, provider, holder=worker_name(), poll_ms=chosen.poll_ms)
        queue = BatchQueue(desk, size=chosen.queue_size, age_ms=chosen.queue_age_ms) if chosen.queue else None
        tick_s = min(_TICK_MAX_S, chosen.poll_ms / 1000, chosen.queue_age_ms / 1000 if queue else _TICK_MAX_S)
        self.keeper = BatchKeeper(desk, queue, tick_s=max(0.05, tick_s))
        self.room.open(desk, queue)
        self.keeper.start()

    async def stop(self) -> None:
        """No new batches; those that run are looked after by others, or at the next start."""
        self.room.open(None, None)
        if self.keeper is not None:
            await self.keeper.stop()


def wires_of(settings: Settings, env: Mapping[str, str]) -> dict[str, BatchWire]:
    """The providers whose batch API is known and that have a key of their own."""
    return {
        one.name: ProviderBatches(
            base_url=one.base_url, secret=secret, anthropic=one.kind == "anthropic", headers=one.headers
        )
        for one, secret in ((provider, secret_of(provider, env)) for provider in settings.providers)
        if secret and _has_batches(one)
    }


def _has_batches(provider: ProviderSettings) -> bool:
    return provider.kind in ("openai", "anthropic") and dialect_of(provider) in ("openai", "anthropic")
