"""Replay: the pipeline that serves live traffic, run over logged traffic under any policy.

Nothing here decides anything: ``engine.pipeline.handle`` does, with a clock that jumps, books in memory and a
provider that answers as logged. Replaying traffic under the policy that served it gives the ledger that it gave.
"""

import asyncio
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Literal

import msgspec

from farthing.core.errors import FarthingError
from farthing.core.types import AttemptFact, Decision, Exchange, LedgerEntry, Request
from farthing.engine.background import Background
from farthing.engine.pipeline import handle
from farthing.engine.record import Ending, Prints
from farthing.engine.services import Services
from farthing.lab.replay_log import Logged, in_order, logged
from farthing.lab.replay_provider import Estimate, Flight, Provider
from farthing.lab.replay_time import VirtualLoop
from farthing.ports.reply import Headers

Fidelity = Literal["exact", "repriced", "estimated", "unknown"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one request ended in a replay."""

    logged: Logged
    entries: tuple[LedgerEntry, ...]
    decisions: tuple[Decision, ...]
    outcome: str
    status: int
    error: str
    latency_ms: int
    fidelity: Fidelity

    @property
    def amount(self) -> int | None:
        """Nano-USD; None when any entry is unpriced."""
        totals = [entry.charge.total for entry in self.entries]
        known = [total for total in totals if total is not None]
        return sum(known) if len(known) == len(totals) else None


Sink = Callable[[Outcome], None]
MakeServices = Callable[[VirtualLoop, Provider, "Log"], Services]
"""Builds the pipeline's services around the replay's own clock, provider and telemetry."""


_NO_PRINTS: Prints = ("", (), ())


class Log:
    """The replay's telemetry: it hands every ended request to a sink."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.flights: dict[str, Flight] = {}
        self.store_failures = 0

    def exchange(self, exchange: Exchange, entries: tuple[LedgerEntry, ...]) -> None:
        flight = self.flights[exchange.request_id]
        self._sink(
            Outcome(
                logged=flight.logged,
                entries=entries,
                decisions=exchange.decisions,
                outcome=exchange.outcome,
                status=exchange.status,
                error=exchange.error,
                latency_ms=exchange.latency_ms,
                fidelity=_fidelity(flight, entries),
            )
        )

    def spent(self, entry: LedgerEntry) -> None:
        """What a lever cost stands in the books."""

    def attempt_failed(self, provider: str, code: str) -> None:
        """Counted by the entries."""

    def store_failed(self, code: str) -> None:
        self.store_failures += 1


class Unlogged(Background):
    """The background of a replay: what waits for the store is booked at once, exchanges are not kept."""

    def log(self, exchange: Exchange) -> None:
        """The sink has had it."""


class Brief:
    """A recorder that keeps what comparisons need and hashes nothing."""

    keeps_text = False

    def prints(self, body: bytes) -> Prints:
        """Nothing is hashed."""
        return _NO_PRINTS

    def exchange(
        self,
        request: Request,
        ending: Ending,
        *,
        sent_body: bytes | None,
        attempts: tuple[AttemptFact, ...],
        entries: tuple[LedgerEntry, ...],
        decisions: tuple[Decision, ...],
        prints: Prints | None = None,
    ) -> Exchange:
        """The exchange without digests and text."""
        return Exchange(
            request_id=request.id,
            received_at_ms=request.received_at_ms,
            scope=request.scope,
            dialect=request.dialect,
            view=request.view,
            outcome=ending.outcome,
            status=ending.status,
            error=ending.error,
            attempts=attempts,
            decisions=decisions,
            latency_ms=ending.latency_ms,
            ttft_ms=ending.ttft_ms,
        )


class NoReply:
    """A caller that takes everything and says nothing."""

    def __init__(self, gone: bool) -> None:
        self.gone = gone

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Taken."""

    async def start(self, status: int, headers: Headers) -> None:
        """Taken."""

    async def write(self, data: bytes) -> None:
        """Taken."""

    async def end(self, data: bytes) -> None:
        """Taken."""

    async def wait_gone(self) -> None:
        if not self.gone:
            await asyncio.get_running_loop().create_future()


def replay(
    exchanges: Iterable[Exchange],
    make: MakeServices,
    sink: Sink,
    *,
    estimate: Estimate,
    entries_of: Callable[[str], Iterable[LedgerEntry]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Serves logged requests again, in order of arrival; the number served. ``sink`` has every outcome.

    ``entries_of`` gives a request's ledger entries; with them, usage keeps the provider's own words. Memory holds the
    requests in flight and what the policy itself remembers, never the log.
    """
    ordered = iter(in_order(exchanges))
    first = next(ordered, None)
    if first is None:
        return 0
    loop = VirtualLoop(first.received_at_ms)
    try:
        asyncio.set_event_loop(loop)
        run = _Run(loop, make, sink, estimate, entries_of, progress)
        return loop.run_until_complete(run.all(first, ordered))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class _Run:
    def __init__(
        self,
        loop: VirtualLoop,
        make: MakeServices,
        sink: Sink,
        estimate: Estimate,
        entries_of: Callable[[str], Iterable[LedgerEntry]] | None,
        progress: Callable[[int], None] | None,
    ) -> None:
        self._loop = loop
        self._provider = Provider(loop, estimate)
        self._log = Log(sink)
        self._log.flights = self._provider.flights
        self._services = make(loop, self._provider, self._log)
        self._recorder = Brief()
        self._entries_of = entries_of
        self._progress = progress
        self._running: set[asyncio.Task[None]] = set()
        self._defect: BaseException | None = None
        """A defect of the pipeline ends the replay; what a caller would have been told does not."""

    async def all(self, first: Exchange, rest: Iterable[Exchange]) -> int:
        loop, entries_of = self._loop, self._entries_of
        running = self._running
        count = 0
        for exchange in chain((first,), rest):
            one = logged(exchange, entries_of(exchange.request_id) if entries_of is not None else ())
            await loop.until(one.starts_at_ms)
            task = loop.create_task(self._one(one))
            running.add(task)
            task.add_done_callback(self._ended)
            count += 1
            if self._defect is not None:
                raise self._defect
            if self._progress is not None and count % 1_000 == 0:
                self._progress(count)
        while running:
            await asyncio.wait(running)
        if self._defect is not None:
            raise self._defect
        return count

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled():
            self._defect = self._defect or task.exception()

    async def _one(self, one: Logged) -> None:
        flights = self._provider.flights
        flights[one.request.id] = Flight(logged=one)
        try:
            await handle(self._services, self._recorder, one.request, NoReply(one.gone))  # type: ignore[arg-type]
        except (FarthingError, asyncio.CancelledError):
            pass  # the sink has the outcome
        finally:
            del flights[one.request.id]


def _fidelity(flight: Flight, entries: tuple[LedgerEntry, ...]) -> Fidelity:
    if flight.estimated:
        return "estimated"
    if any(entry.fidelity in ("estimated", "unknown") for entry in entries):
        return "estimated" if any(entry.fidelity == "estimated" for entry in entries) else "unknown"
    return "exact"
