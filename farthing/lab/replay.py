"""Replay: the pipeline that serves live traffic, run over logged traffic under any policy.

Nothing here decides anything: ``engine.pipeline.handle`` does, with a clock that jumps, books in memory and a
provider that answers as logged. Replaying traffic under the policy that served it gives the ledger that it gave.
"""

import asyncio
import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Final, cast

import msgspec

from farthing.core.errors import FarthingError
from farthing.core.levers.service_tier import ServiceTier
from farthing.core.types import AttemptFact, Decision, Exchange, LedgerEntry, Request
from farthing.engine.background import Background
from farthing.engine.pipeline import handle
from farthing.engine.record import Ending, Prints, Recorder
from farthing.engine.services import Services
from farthing.lab.replay_books import ReplayBooks
from farthing.lab.replay_keep import Keep, Keeping, Restored
from farthing.lab.replay_kernel import Kernel, unfit
from farthing.lab.replay_levers import spent_aside, with_late
from farthing.lab.replay_log import REORDER_MS, InOrder, Logged, Waiting, logged
from farthing.lab.replay_outcome import Fidelity, Outcome, Sink, fidelity_of
from farthing.lab.replay_plain import Adds, Ends
from farthing.lab.replay_provider import Estimate, Flight, Judged, Provider
from farthing.lab.replay_short import Short, fits
from farthing.lab.replay_state import Stand
from farthing.lab.replay_time import ORDER_STEP, ORDERS, VirtualLoop, Work
from farthing.ports.books import Books
from farthing.ports.clock import Clock
from farthing.ports.reply import Headers

MakeServices = Callable[[VirtualLoop, Provider, "Log"], Services]
"""Builds the pipeline's services around the replay's own clock, provider and telemetry."""


COLLECT_AFTER: Final = 200_000
"""New objects between two looks for garbage."""
_NO_PRINTS: Prints = ("", (), ())


class Log:
    """The replay's telemetry: it hands every ended request to a sink."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.flights: dict[str, Flight] = {}
        self.waiting: dict[str, Outcome] = {}
        """Outcomes of requests for which levers spend after they have ended."""
        self.store_failures = 0

    def exchange(self, exchange: Exchange, entries: tuple[LedgerEntry, ...]) -> None:
        flight = self.flights[exchange.request_id]
        if flight.spent:  # what levers spent; a cascade's calls are among the request's own entries already
            own = {entry.id for entry in entries}
            entries = (*[entry for entry in flight.spent if entry.id not in own], *entries)
        outcome = Outcome(
            logged=flight.logged,
            entries=entries,
            decisions=exchange.decisions,
            outcome=exchange.outcome,
            status=exchange.status,
            error=exchange.error,
            latency_ms=exchange.latency_ms,
            fidelity=self._fidelity(flight, entries),
            guesses=flight.guesses,
            drawn=flight.drawn,
            similar=flight.similar,
        )
        if flight.late:
            self.waiting[exchange.request_id] = outcome
        else:
            self._sink(outcome)

    def _fidelity(self, flight: Flight, entries: tuple[LedgerEntry, ...]) -> Fidelity:
        if flight.unread:
            return "unknown"
        estimated = flight.estimated or flight.similar
        return fidelity_of(flight.logged.source, entries, estimated=estimated)

    def ended(self, view: object, provider: str, ending: object, entries: object) -> None:
        raise AssertionError("a replay looks at every exchange")

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


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay did."""

    requests: int
    plain: int
    """Of them, those that went the short way."""
    why: str
    """Why none could; empty: those of a plain course did."""


def replay(
    exchanges: Iterable[Exchange],
    make: MakeServices,
    sink: Sink,
    *,
    estimate: Estimate,
    entries_of: Callable[[str], Iterable[LedgerEntry]] | None = None,
    progress: Callable[[int], None] | None = None,
    longest_ms: int = REORDER_MS,
    pipeline_only: bool = False,
    keep: Keep | None = None,
    verdicts: Judged | None = None,
) -> Replayed:
    """Serves logged requests again, in order of arrival. ``sink`` has every outcome (see ``Sums``).

    ``entries_of`` gives a request's ledger entries; with them, usage keeps the provider's own words. ``longest_ms``:
    no logged call took longer. ``pipeline_only``: no call goes the short way, which decides alike. ``keep``: where it
    is told from time to time how it stands; with a stand to go on from, ``exchanges`` begin after its last. Memory
    holds the requests in flight, those that began within so long, and what the policy remembers: never the log.
    """
    order = InOrder(exchanges, longest_ms)
    stand = keep.stand if keep is not None else None
    if stand is not None:
        order.put_back(stand.waiting, read=stand.read, last=stand.last)
    seconds = order.seconds()
    first = next(seconds, None)
    if first is None and stand is None:
        return Replayed(requests=0, plain=0, why="")
    start_ms = stand.start_ms if stand is not None else 0
    if stand is None and first is not None:
        start_ms = min(first[-1][0], first[-1][-1].received_at_ms)
    loop = VirtualLoop(start_ms)
    run = _Run(loop, make, sink, estimate, entries_of, progress, pipeline_only=pipeline_only)
    if verdicts is not None:
        run.judge_by(verdicts)
    if keep is not None:
        run.keep(keep, order)
    with _fewer_collections():
        loop.serve_by(run.begin, run.arrivals(seconds if first is None else chain((first,), seconds)))
    return run.done()


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Records of calls hold no cycles: looking for some after every few hundred would cost a tenth of the time."""
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class _Run:
    def __init__(
        self,
        loop: VirtualLoop,
        make: MakeServices,
        sink: Sink,
        estimate: Estimate,
        entries_of: Callable[[str], Iterable[LedgerEntry]] | None,
        progress: Callable[[int], None] | None,
        *,
        pipeline_only: bool,
    ) -> None:
        self._loop = loop
        self._provider = Provider(loop, estimate)
        self._log = Log(sink)
        self._log.flights = self._provider.flights
        self._services = make(loop, self._provider, self._log)
        self._recorder = Brief()
        self._entries_of = entries_of
        self._progress = progress
        self._sink = sink
        self._why = "it was asked for" if pipeline_only else unfit(self._services) or _asks_for_tiers(self._services)
        self._kernel: Kernel | None = None
        self._short: Short | None = None
        if not self._why:
            ends = Ends(self._services, cast("Recorder", self._recorder), sink)
            self._kernel = Kernel(loop, self._services, self._provider, ends)
            recalls = self._kernel.recalls
            quick = entries_of is None and (recalls is None or recalls.quick) and fits(self._services)
            if quick and isinstance(sink, Adds):
                self._short = Short(loop, self._services, self._provider, self._kernel, sink)
        self._waits = self._services.caching is not None
        self._count = 0
        self._keeping: Keeping | None = None
        self._stand: Stand | None = None

    def judge_by(self, verdicts: Judged) -> None:
        """Cascades over calls that none served go by these."""
        self._provider.verdicts = verdicts

    def keep(self, keep: Keep, order: InOrder) -> None:
        """Tells how it stands from time to time, where it can; begins where it stood."""
        sink, kernel = self._sink, self._kernel
        services = self._services
        remember = services.routing is not None or services.levers is not None  # what cannot be written down
        if kernel is None or remember or self._entries_of is not None or not isinstance(sink, Restored):
            if keep.stand is not None:
                raise ValueError("this replay cannot go on from where another one stood")
            return
        self._keeping = Keeping(
            keep,
            loop=self._loop,
            order=order,
            books=cast("ReplayBooks", self._services.books),
            provider=self._provider,
            kernel=kernel,
            sink=sink,
        )
        self._stand = keep.stand

    def arrivals(self, seconds: Iterable[list[Waiting]]) -> Iterator[tuple[float, Exchange]]:
        """The log as the loop takes it in."""
        start_ms, keeping = self._loop.start_ms, self._keeping
        if keeping is not None and self._stand is not None:
            self._count = self._stand.begun
            keeping.go_on(self._stand)
        count = self._count
        for due in seconds:
            while due:
                at_ms, number, _, _, exchange = due.pop()
                if keeping is not None:
                    keeping.tell(exchange, count)
                count += 1
                if count % 100 == 0:
                    self._look(count)
                yield (at_ms - start_ms) / 1_000 + (number % ORDERS) * ORDER_STEP, exchange  # ``at`` of the loop
        self._count = count

    def _look(self, count: int) -> None:
        """So many calls have come."""
        if self._progress is not None and count % 1_000 == 0:
            self._progress(count)
        if self._keeping is not None:
            self._keeping.look(count)

    def done(self) -> Replayed:
        """What has been done."""
        plain = self._kernel.served if self._kernel is not None else 0
        return Replayed(requests=self._count, plain=plain, why=self._why)

    def begin(self, exchange: Exchange) -> Work:
        """What becomes of a call from now on."""
        if self._short is not None and self._short.begin(exchange):
            return None
        one = None
        if self._entries_of is not None:
            one = logged(exchange, self._entries_of(exchange.request_id))
        kernel = self._kernel
        waited = exchange.decisions and self._waits and _waited(exchange)
        if kernel is not None and not waited and kernel.begin(exchange, one):
            return None
        return self._one(one or logged(exchange))

    async def _one(self, one: Logged) -> None:
        flights = self._provider.flights
        recorder = cast("Recorder", self._recorder)
        late: list[LedgerEntry] = []
        if self._entries_of is not None:
            late = spent_aside(self._services, one.source, self._entries_of(one.request.id))
        flights[one.request.id] = Flight(logged=one, late=late)
        try:
            await handle(self._services, recorder, one.request, NoReply(self._loop, one))
        except (FarthingError, asyncio.CancelledError):
            pass  # the sink has the outcome; a defect of the pipeline ends the replay
        finally:
            flight = flights.pop(one.request.id)
            if one.source.blocks:
                self._provider.unsent(flight)
            self._provider.remember(one)
        if late:
            outcome = self._log.waiting.pop(one.request.id)
            self._sink(await with_late(self._services, self._loop, outcome, late))


def _asks_for_tiers(services: Services) -> str:
    """A lever that the short way does not know."""
    asks = any(isinstance(lever, ServiceTier) for lever in services.policy.levers)
    return "levers ask for another service tier" if asks else ""


def _waited(exchange: Exchange) -> bool:
    """It waited for another call's answer: who comes while that is being booked finds it in memory here."""
    return any(one.stage == "cache" and ("layer", "flight") in one.evidence for one in exchange.decisions)
