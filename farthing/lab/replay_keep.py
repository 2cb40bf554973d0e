"""Writing down where a replay stands from time to time, and going on from there."""

from typing import Protocol, runtime_checkable

from farthing.core.types import Exchange
from farthing.lab.compare import Told
from farthing.lab.replay_books import ReplayBooks
from farthing.lab.replay_kernel import Kernel
from farthing.lab.replay_log import InOrder
from farthing.lab.replay_outcome import Outcome
from farthing.lab.replay_provider import Provider
from farthing.lab.replay_state import Stand
from farthing.lab.replay_time import VirtualLoop


@runtime_checkable
class Restored(Protocol):
    """A sink that can say where it stands, and go on from there."""

    def __call__(self, outcome: Outcome) -> None: ...

    def told(self) -> Told: ...

    def restore(self, told: Told) -> None: ...


class Keep(Protocol):
    """Where a replay is told how it stands."""

    @property
    def key(self) -> str:
        """Names the replay: policy, prices, period, log."""
        ...

    @property
    def stand(self) -> Stand | None:
        """Where it was interrupted; None: it begins."""
        ...

    def due(self, begun: int) -> bool:
        """It is time, after so many calls have begun."""
        ...

    def save(self, stand: Stand) -> None:
        """Keeps it in place of the one before."""
        ...


class Keeping:
    """One replay that is written down."""

    def __init__(
        self,
        keep: Keep,
        *,
        loop: VirtualLoop,
        order: InOrder,
        books: ReplayBooks,
        provider: Provider,
        kernel: Kernel,
        sink: Restored,
    ) -> None:
        self._keep = keep
        self._loop = loop
        self._order = order
        self._books = books
        self._provider = provider
        self._kernel = kernel
        self._sink = sink
        self._due = False

    def look(self, begun: int) -> None:
        """Asks whether it is time."""
        self._due = self._due or self._keep.due(begun)

    def tell(self, coming: Exchange, begun: int) -> None:
        """Writes it down before a call begins, when it is time and no call is on its way through the pipeline."""
        if not self._due or self._loop.tasks:
            return
        flying = self._kernel.flying()
        if flying is None:
            return
        self._due = False
        self._keep.save(
            Stand(
                key=self._keep.key,
                read=self._order.read,
                last=self._order.last,
                waiting=(coming, *self._order.waiting()),
                begun=begun,
                plain=self._kernel.served,
                start_ms=self._loop.start_ms,
                now=self._loop.time(),
                counters=self._books.counters(),
                levels=self._books.levels(),
                flying=flying,
                remembered=self._provider.remembered(),
                warmth=self._provider.warmth.state(),
                cached=self._kernel.cached(),
                turnstiles=self._kernel.turnstiles(),
                told=self._sink.told(),
            )
        )

    def go_on(self, stand: Stand) -> None:
        """Puts everything back as it stood; the loop runs, and nothing has happened on it."""
        self._loop.jump(stand.now)
        self._books.restore(stand.counters)
        self._books.restore_levels(stand.levels)
        for one in stand.remembered:
            self._provider.remember_answer(*one)
        self._provider.warmth.restore(stand.warmth)
        self._kernel.restore(stand.cached, stand.turnstiles, stand.plain)
        self._kernel.fly_on(stand.flying)
        self._sink.restore(stand.told)
