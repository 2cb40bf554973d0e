"""The provider in a replay: it answers every try as the log says it was answered, at the time it took.

A try that the log does not know (another model, one try more) is answered by an estimator, and what it books is
marked as estimated by its source.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from functools import lru_cache
from typing import Final, cast

import msgspec

from farthing.core.errors import Overloaded, ProviderFailed, RateLimited, Rejected, StreamBroken, TimedOut
from farthing.core.policy_routes import CascadeRules
from farthing.core.types import NO_TEXT, AttemptFact, Bounds, Exchange, LedgerEntry, Request, Target, Usage
from farthing.core.units import OUTPUT_UNITS
from farthing.engine.record import tokens_of
from farthing.lab.replay_consumed import Consumed, Known
from farthing.lab.replay_log import Logged, logged
from farthing.lab.replay_time import VirtualLoop
from farthing.lab.replay_verdicts import Counts
from farthing.lab.replay_warmth import Warmth
from farthing.ports.provider import Codec, HttpReply, HttpRequest, StreamMeter, Timeouts, UsageReader

_JSON: Final = ((b"content-type", b"application/json"),)
_EVENTS: Final = ((b"content-type", b"text/event-stream"),)
_NOTHING: Final = (b"{}", b"data: {}\n\n", b"")
"""An answer without content; the event marks the time of the first byte."""
_FAILURES: Final = {kind.code: kind for kind in (RateLimited, Overloaded, TimedOut, Rejected, StreamBroken)}
_CUT: Final = frozenset({"deadline", "shutdown", "cancelled"})
"""What ended a try from within: its task was cancelled."""
_GIVEN_UP: Final = "cascade_timeout"
"""The cascade did not wait any longer; its own timer says so again."""
_PATIENCE_S: Final = 60.0
_MS_PER_TOKEN: Final = 15
_MS_FIRST: Final = 500
_CAPPED_MAX: Final = 1_000
"""Bytes of a body without text, with a model and a cap set in it."""
BEFORE_MAX: Final = 50_000
"""Answers that are remembered for requests that a cache answered with them; up to twice as many."""

_FIELDS_MAX: Final = 4 * BEFORE_MAX

Estimate = Callable[[Logged, Target], Usage]
"""Usage of a request at a target that did not answer it."""


class Drawn(msgspec.Struct, frozen=True):
    """The verdict of a cascade, where only its chance is known."""

    kind: str
    """Which verdicts it was learned from."""
    chance: float
    """Of an escalation."""
    escalates: bool
    sample: int
    """Verdicts that the chance was learned from."""
    strong_nusd: int
    """What the strong model costs, or likely costs, for this call."""


class Flight(msgspec.Struct, kw_only=True):
    """One replayed request while it is served."""

    logged: Logged
    tries: int = 0
    fact: AttemptFact | None = None
    """The logged try that the current one repeats; None when the log has none like it."""
    place: int = 0
    """Of ``fact`` among the logged tries."""
    act: int = 0
    """How many acts on the books there have been."""
    usage: Usage | None = None
    """What the current try consumes."""
    spent: list[LedgerEntry] = []
    """What levers booked for it."""
    late: list[LedgerEntry] = []
    """What the log says that levers booked, of which the pipeline may not know; see ``replay_levers``."""
    estimated: bool = False
    """Some try of it was not in the log."""
    moved: bool = False
    """Some try of it is in the log, but at another moment."""
    unread: bool = False
    """A route or a lever would have had to read what the log does not keep: its cost is not known."""
    guesses: dict[int, str] = {}
    """Tries whose consumption was estimated, with the model that was asked."""
    used: set[int] = set()
    """Places of logged tries that were repeated."""
    drawn: "Drawn | None" = None
    """A verdict that the log does not have."""
    similar: bool = False
    """Whether a similar question answers it was taken from a log of another policy."""
    ends_at: float | None = None
    """The loop's time at which a try that is not in the log is over."""
    took_ms: int | None = None
    """How long the answer took that a cache gave for it; None: no cache did, or nobody knows."""


Judged = Callable[[str, CascadeRules], Counts]
"""Verdicts in the log on a model's answers, as these rules would give them."""
Answers = Callable[[Flight], tuple[bytes, bytes, bytes]]
"""(the whole answer, the same as a stream, the stream's last event)."""


class Provider:
    """Codec and transport of every upstream in a replay."""

    def __init__(self, loop: VirtualLoop, estimate: Estimate) -> None:
        self.flights: dict[str, Flight] = {}
        self.answers: Answers = lambda flight: _NOTHING
        """What answers look like, for whoever reads them."""
        self.verdicts: Judged = lambda model, rules: Counts()
        self.late: set[asyncio.Task[object]] = set()
        """Tasks that the log says ran past their deadline."""
        self.loop = loop
        self.warmth = Warmth()
        self._estimate = estimate
        self._before, self._older = Consumed(), Consumed()
        """The latest, and the ones before: forgotten when there are as many newer ones."""

    def codec(self, real: Codec) -> "LoggedCodec":
        """Stands in for an upstream's codec, which still says what a call can consume at most."""
        return LoggedCodec(self, real)

    def begin(self, flight: Flight, target: Target, body: bytes) -> None:
        """The next try of a request, at a target; ``body`` states the policy's cap where it sets one."""
        logged = flight.logged
        place = flight.tries
        flight.tries += 1
        place, fact = _numbered(logged.attempts, place)
        if fact is not None and (fact.provider, fact.model) == (target.provider, target.model):
            flight.fact, flight.place = fact, place
            flight.used.add(place)
            flight.usage = logged.usages.get(fact.attempt) or fact.usage or logged.usage
            if flight.usage is not None:
                if logged.source.blocks and _answered(fact):
                    # after the same tries it is sent when it was: what differs is the gateway's own time
                    later = flight.moved or flight.guesses
                    at_ms = self.loop.now_ms() if later else fact.started_at_ms
                    self.reread(flight, fact, target, flight.usage, at_ms)
                flight.usage = at_tier(flight.usage, body, before=logged.request.view.service_tier)
                self._within(flight, flight.usage, stated_cap(body))
            return
        flight.fact, flight.ends_at, flight.took_ms = None, None, None
        if self._elsewhere(flight, target):
            assert flight.usage is not None
            self._within(flight, flight.usage, stated_cap(body))
            return
        flight.estimated = True
        held, cap = None, stated_cap(body)
        if logged.source.blocks:
            held = self.warmth.other(logged.source, target, self.loop.now_ms())
        if held is not None or cap is not None:
            logged = flight.logged = msgspec.structs.replace(logged, held=held, kept=False, stated=cap)
        before = None
        if logged.answered_by:
            before = self._before.get(logged.answered_by) or self._older.get(logged.answered_by)
        if before is not None and before.model == target.model:  # a cache answered what this model had said
            flight.took_ms = before.latency_ms
            flight.usage = msgspec.structs.replace(before.usage, source="estimated", stated_pusd=None)
            if logged.held is not None:
                answered = msgspec.structs.replace(logged, usage=flight.usage, model=target.model, kept=True)
                flight.usage = self._estimate(answered, target)
        else:
            flight.usage = at_tier(self._estimate(logged, target), body)
        flight.guesses[flight.tries] = target.model
        self._within(flight, flight.usage, cap)

    def reread(self, flight: Flight, fact: AttemptFact, target: Target, usage: Usage, at_ms: int) -> bool:
        """A try of the log is sent again, at that time: the provider's cache may hold something else than it did."""
        logged = flight.logged
        held = self.warmth.same(logged.source, fact, usage, at_ms)
        if held is None:
            return False
        flight.logged = msgspec.structs.replace(logged, usage=usage, model=target.model, held=held, kept=True)
        flight.usage = self._estimate(flight.logged, target)
        flight.guesses = {**flight.guesses, flight.tries: target.model}
        return True

    def reread_of(self, exchange: Exchange, fact: AttemptFact, usage: Usage, one: Logged | None) -> Flight | None:
        """The same for the only try of a plain call; None: it finds what it found then."""
        held = self.warmth.same(exchange, fact, usage, fact.started_at_ms)
        if held is None:
            return None
        known = msgspec.structs.replace(one or logged(exchange), usage=usage, held=held, kept=True)
        target = Target(provider=fact.provider, price_as=fact.provider, model=fact.model)
        found = self._estimate(known, target)
        return Flight(logged=known, tries=1, fact=fact, used={0}, usage=found, guesses={1: fact.model})

    def unsent(self, flight: Flight) -> None:
        """What of the log's tries was not made."""
        self.warmth.unsent(flight.logged.source, flight.used)

    def _elsewhere(self, flight: Flight, target: Target) -> bool:
        """The log has this target's answer to this request, given at another moment: it is known all the same."""
        logged = flight.logged
        for place, fact in enumerate(logged.attempts):
            if (fact.provider, fact.model) != (target.provider, target.model) or place in flight.used:
                continue
            usage = logged.usages.get(fact.attempt) or fact.usage or (logged.usage if not fact.lever else None)
            if not fact.error and _answered(fact) and usage is not None:
                flight.used.add(place)
                flight.moved = True
                flight.usage = usage
                if logged.source.blocks:
                    self.reread(flight, fact, target, usage, self.loop.now_ms())
                flight.ends_at = self.loop.time() + fact.latency_ms / 1000
                return True
        return False

    def remember(self, logged: Logged) -> None:
        """Keeps what an answer consumed, for requests that a cache answered with it."""
        if logged.usage is not None:
            last = logged.attempts[-1]
            self.remember_answer(last.entry_id, logged.model, logged.usage, last.latency_ms)

    def remember_answer(self, entry_id: str, model: str, usage: Usage, latency_ms: int) -> None:
        """The same by its parts."""
        fields = self._before.fields
        if len(fields) >= _FIELDS_MAX:
            self._older, self._before = self._before, Consumed()
            fields = self._before.fields
        fields.extend((entry_id, model, usage, latency_ms))

    def remembered(self) -> tuple[Known, ...]:
        """The answers that are remembered, the oldest first."""
        return (*self._older.every(), *self._before.every())

    def _within(self, flight: Flight, usage: Usage, cap: int | None) -> None:
        """Cuts an answer at a cap that the logged call did not have."""
        if cap is None:
            return
        logged = flight.logged
        flight.usage = within(usage, cap, before=logged.cap, choices=logged.request.view.choices)
        if flight.usage is not usage:
            flight.estimated = True

    async def send(self, request: HttpRequest, *, timeouts: Timeouts) -> HttpReply:
        """The answer's head. Raises what the logged try raised, when it did."""
        flight = self.flights[request.url]
        fact = flight.fact
        if fact is None or _answered(fact):
            return LoggedReply(self.loop, flight, self.answers)
        await self.loop.until(ended(self.loop, flight))
        if fact.error == _GIVEN_UP:
            await asyncio.sleep(_PATIENCE_S)
        if fact.error in _CUT:
            task = asyncio.current_task()
            if fact.error == "deadline" and task is not None:
                self.late.add(task)
            raise asyncio.CancelledError
        raise _failure(fact)

    def turn(self, request_id: str, *, settles: bool = False) -> float:
        """The loop's time at which a request came to its next act on the books; 0: nobody knows, or it has passed."""
        flight = self.flights.get(request_id)
        if flight is None or flight.estimated or flight.moved:
            return 0.0
        place, acts = flight.act, flight.logged.acts
        if not settles and place < len(acts) and acts[place][1] < 0:
            return 0.0  # the log has one question less: it is asked at once
        flight.act += 1
        if place >= len(acts):
            return 0.0
        at_ms, number = acts[place]
        return self.loop.at(flight.logged.request.received_at_ms + at_ms, abs(number))

    def rest(self, request_id: str) -> float:
        """The loop's time at which the pipeline went on after the end of a try; 0: at once."""
        flight = self.flights.get(request_id)
        if flight is None or flight.estimated or flight.moved:
            return 0.0
        logged = flight.logged
        following = flight.tries
        if not 0 < following < len(logged.attempts):
            return 0.0
        coming, before = (_numbered(logged.attempts, place)[1] for place in (following, following - 1))
        if coming is None or before is None or (before.lever and before.error and before.model == coming.model):
            return 0.0  # nobody noted how long a lever paused before it tried again
        pause = 0
        if not coming.lever and not before.lever:  # what a lever asks is no try after the one before
            own = sum(not one.lever for one in logged.attempts if one.attempt <= following)
            pause = logged.pauses_ms[own - 1] if own <= len(logged.pauses_ms) else 0
        return self.loop.at(coming.started_at_ms - pause)

    async def close(self) -> None:
        """Nothing to close."""


class LoggedCodec:
    """Names the request instead of encoding it, and reads the log instead of an answer."""

    def __init__(self, provider: Provider, real: Codec) -> None:
        self._provider = provider
        self._real = real

    def encode(self, request: Request, target: Target, body: bytes) -> HttpRequest:
        self._provider.begin(self._provider.flights[request.id], target, body)
        return HttpRequest(method="REPLAY", url=request.id, headers=())

    def reader(self, request: Request) -> UsageReader:
        return cast("UsageReader", LoggedReader(self._provider.flights[request.id]))

    def bounds(self, request: Request, target: Target) -> Bounds:
        return self._real.bounds(request, target)

    def failure(self, status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes) -> ProviderFailed:
        return self._real.failure(status, headers, body)


class LoggedReply:
    """An answer that takes as long as the logged one did."""

    def __init__(self, loop: VirtualLoop, flight: Flight, answers: "Answers") -> None:
        self._loop = loop
        self._answers = answers
        self._flight = flight
        fact = flight.fact
        self.status = fact.status if fact is not None else 200
        self.headers: tuple[tuple[bytes, bytes], ...] = _EVENTS if flight.logged.request.view.stream else _JSON

    async def read(self) -> bytes:
        await self._loop.until(ended(self._loop, self._flight))
        fact = self._flight.fact
        if fact is not None and fact.error and fact.error != "client_gone":
            raise asyncio.CancelledError if fact.error in _CUT else _failure(fact)
        return self._answers(self._flight)[0]

    async def chunks(self) -> AsyncIterator[bytes]:
        fact, loop = self._flight.fact, self._loop
        _, first, last = self._answers(self._flight)
        if fact is not None and fact.ttft_ms is not None:
            await loop.until(loop.at(fact.started_at_ms + fact.ttft_ms))
            yield first
        await loop.until(ended(loop, self._flight))
        if fact is not None and fact.error:
            if fact.error == "client_gone":
                yield b""  # the pipeline looks for its caller when something arrives
                return
            raise asyncio.CancelledError if fact.error in _CUT else _failure(fact)
        yield last

    def close(self) -> None:
        """Nothing to close."""


class LoggedReader:
    """Reads what the log says was consumed."""

    flavour = "log"

    def __init__(self, flight: Flight) -> None:
        self._flight = flight
        self.marks: tuple[bytes, ...] = ()
        self.text_bytes = 0
        self.ended = False

    def from_body(self, body: bytes) -> Usage:
        return self._flight.usage or Usage()

    def from_usage(self, usage: Mapping[str, object], *, context: Mapping[str, str]) -> Usage:
        return self._flight.usage or Usage()

    def meter(self) -> StreamMeter:
        return cast("StreamMeter", self)

    def event(self, data: bytes) -> None:
        """The log has read it already."""

    def usage(self, *, complete: bool) -> Usage:
        return self._flight.usage or Usage()


def ended(loop: VirtualLoop, flight: Flight) -> float:
    """The loop's time at which the current try is over."""
    fact, logged = flight.fact, flight.logged
    if fact is not None:
        return loop.at(fact.started_at_ms + fact.latency_ms, logged.settled[flight.place])
    if flight.ends_at is None:
        took = flight.took_ms
        if took is None:
            took = next((one.latency_ms for one in reversed(logged.attempts) if 0 < one.status < 300), None)
        if took is None:
            given = tokens_of(flight.usage)[1] if flight.usage is not None else 0
            took = _MS_FIRST + _MS_PER_TOKEN * given
        flight.ends_at = loop.time() + took / 1000
    return flight.ends_at


@lru_cache(maxsize=4_096)
def stated_cap(body: bytes) -> int | None:
    """The cap on output that a body without text states."""
    if body is NO_TEXT or len(body) > _CAPPED_MAX:
        return None
    said = msgspec.json.decode(body)
    found = [said.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens")]
    return min((one for one in found if isinstance(one, int)), default=None)


@lru_cache(maxsize=4_096)
def _stated_tier(body: bytes) -> str:
    """The service tier that a body without text states."""
    if body is NO_TEXT or len(body) > _CAPPED_MAX:
        return ""
    said = msgspec.json.decode(body).get("service_tier")
    return said if isinstance(said, str) else ""


def at_tier(usage: Usage, body: bytes, *, before: str = "") -> Usage:
    """The usage as the tier that ``body`` states bills it; the same object where it states none but ``before``."""
    tier = _stated_tier(body)
    if not tier or tier in (before, usage.service_tier):
        return usage
    return msgspec.structs.replace(usage, service_tier=tier, stated_pusd=None, raw=b"")


def within(usage: Usage, cap: int, *, before: int | None, choices: int) -> Usage:
    """The usage of an answer under a cap where it was ``before``; the same object when the cap changes nothing."""
    if before is not None and cap >= before:
        return usage
    most = cap * max(1, choices)
    given = 0
    for part in usage.parts:
        for unit, quantity in part.lines:
            if unit in OUTPUT_UNITS:
                given += quantity
    return _cut(usage, given - most) if given > most else usage


def _cut(usage: Usage, excess: int) -> Usage:
    """The usage with so many output tokens less; visible ones first."""
    parts = []
    for part in usage.parts:
        lines = []
        for unit, quantity in part.lines:
            less = min(quantity, excess) if unit in OUTPUT_UNITS else 0
            excess -= less
            if quantity > less:
                lines.append((unit, quantity - less))
        parts.append(msgspec.structs.replace(part, lines=tuple(lines)))
    return msgspec.structs.replace(usage, parts=tuple(parts), finish_reason="length", raw=b"")


def _numbered(attempts: tuple[AttemptFact, ...], place: int) -> tuple[int, AttemptFact | None]:
    """(place in the log, the try that began as number ``place``, from 0); a cascade's tries end in another order."""
    if place < len(attempts):
        fact = attempts[place]
        if fact.attempt == place + 1:
            return place, fact
        for at, one in enumerate(attempts):
            if one.attempt == place + 1:
                return at, one
    return place, None


def _answered(fact: AttemptFact) -> bool:
    return 0 < fact.status < 300


def _failure(fact: AttemptFact) -> ProviderFailed:
    kind = _FAILURES.get(fact.error, ProviderFailed)
    billable = bool(fact.entry_id)
    failure = kind("The provider failed, as logged.", status=fact.status or None, sent=billable or fact.status > 0)
    if fact.retry_after_ms is not None and isinstance(failure, RateLimited | Overloaded):
        failure.retry_after_ms = fact.retry_after_ms
    return failure
