"""Replay: the pipeline that serves live traffic, run over logged traffic under any policy.

Nothing here decides anything: ``engine.pipeline.handle`` does, with a clock that jumps, books in memory and a
provider that answers as logged. Replaying traffic under the policy that served it gives the ledger that it gave.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Literal

import msgspec

from farthing.core.errors import FarthingError
from farthing.core.types import AttemptFact, Decision, Exchange, LedgerEntry, Request
from farthing.engine.background import Background
from farthing.engine.caching_books import CACHE_HIT
from farthing.engine.pipeline import handle
from farthing.engine.record import Ending, Prints
from farthing.engine.services import Services
from farthing.lab.replay_log import REORDER_MS, Logged, in_order, logged, starts
from farthing.lab.replay_provider import Estimate, Flight, Provider
from farthing.lab.replay_time import Arrival, VirtualLoop
from farthing.ports.books import Books
from farthing.ports.clock import Clock
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
    guesses: dict[int, str]
    """Tries whose consumption was estimated, with the model that was asked."""

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
                entries=(*flight.spent, *entries) if flight.spent else entries,
                decisions=exchange.decisions,
                outcome=exchange.outcome,
                status=exchange.status,
                error=exchange.error,
                latency_ms=exchange.latency_ms,
                fidelity=_fidelity(flight, entries),
                guesses=flight.guesses,
            )
        )

    def spent(self, entry: LedgerEntry) -> None:
        """What a lever cost is an entry of the request too."""
        flight = self.flights.get(entry.request_id)
        if flight is not None:
            flight.spent.append(entry)

    def attempt_failed(self, provider: str, code: str) -> None:
        """Counted by the entries."""

    def store_failed(self, code: str) -> None:
        self.store_failures += 1


class Unlogged(Background):
    """The background of a replay: what waits for the store is booked at once, exchanges are not kept."""

    def __init__(self, books: Books, clock: Clock, provider: Provider) -> None:
        super().__init__(books, clock)
        self._provider = provider

    def log(self, exchange: Exchange) -> None:
        """The sink has had it."""

    def watch(self, task: "asyncio.Task[object]", timeout_ms: int) -> None:
        """The log says which requests ran past their deadline."""

    def forget(self, task: "asyncio.Task[object]") -> None:
        self._provider.late.discard(task)

    def expired(self, task: "asyncio.Task[object]") -> bool:
        return task in self._provider.late


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
        acts: tuple[tuple[int, int], ...] = (),
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

    def __init__(self, loop: VirtualLoop, logged: Logged) -> None:
        self._loop = loop
        self._gone_at_ms = logged.gone_at_ms
        self._cut = logged.cut

    @property
    def gone(self) -> bool:
        """The caller has hung up."""
        return self._gone_at_ms is not None and self._loop.now_ms() >= self._gone_at_ms

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Taken."""

    async def start(self, status: int, headers: Headers) -> None:
        """Taken."""

    async def write(self, data: bytes) -> None:
        """Taken."""

    async def end(self, data: bytes) -> None:
        """Taken."""

    async def wait_gone(self) -> None:
        if self._gone_at_ms is None or not self._cut:
            await asyncio.get_running_loop().create_future()
        else:
            await self._loop.until(self._loop.at(self._gone_at_ms))


def replay(
    exchanges: Iterable[Exchange],
    make: MakeServices,
    sink: Sink,
    *,
    estimate: Estimate,
    entries_of: Callable[[str], Iterable[LedgerEntry]] | None = None,
    progress: Callable[[int], None] | None = None,
    longest_ms: int = REORDER_MS,
) -> int:
    """Serves logged requests again, in order of arrival; the number served. ``sink`` has every outcome.

    ``entries_of`` gives a request's ledger entries; with them, usage keeps the provider's own words. ``longest_ms``:
    no logged call took longer. Memory holds the requests in flight, those that began within so long, and what the
    policy itself remembers: never the log.
    """
    ordered = iter(in_order(exchanges, longest_ms))
    first = next(ordered, None)
    if first is None:
        return 0
    loop = VirtualLoop(min(starts(first)[0], first.received_at_ms))
    run = _Run(loop, make, sink, estimate, entries_of, progress)
    loop.serve(run.arrivals(chain((first,), ordered)))
    return run.count


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
        self.count = 0

    def arrivals(self, exchanges: Iterable[Exchange]) -> Iterator[Arrival]:
        """The log as the loop takes it in."""
        loop, entries_of = self._loop, self._entries_of
        for exchange in exchanges:
            one = logged(exchange, entries_of(exchange.request_id) if entries_of is not None else ())
            self.count += 1
            if self._progress is not None and self.count % 1_000 == 0:
                self._progress(self.count)
            yield loop.at(*one.starts), partial(self._one, one)

    async def _one(self, one: Logged) -> None:
        flights = self._provider.flights
        flights[one.request.id] = Flight(logged=one)
        try:
            await handle(self._services, self._recorder, one.request, NoReply(self._loop, one))  # type: ignore[arg-type]
        except (FarthingError, asyncio.CancelledError):
            pass  # the sink has the outcome; a defect of the pipeline ends the replay
        finally:
            del flights[one.request.id]
            self._provider.remember(one)


def _fidelity(flight: Flight, entries: tuple[LedgerEntry, ...]) -> Fidelity:
    if flight.estimated:
        return "estimated"
    found: Fidelity = "exact"
    total = 0
    for entry in entries:
        if entry.charge.reason == CACHE_HIT:
            continue  # it costs nothing, for sure; what it saved may be estimated
        if entry.fidelity == "unknown":
            found = "unknown"
        elif entry.fidelity == "estimated":
            return "estimated"
        total += entry.charge.total or 0
    logged = flight.logged.amount
    if found == "exact" and flight.logged.attempts and entries and entries[-1].attempt and total != (logged or 0):
        return "repriced"
    return found
