"""Calls of a plain course in a replay: which ones they are, their state on the way, and what is said at their end."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

from msgspec.structs import replace

from farthing.core.caching import Controls
from farthing.core.policy_cache import CacheRoute
from farthing.core.types import Bounds, Charge, Decision, Denied, Exchange, Request, Scope, Target, Usage
from farthing.core.units import is_input
from farthing.engine.attempt import Attempt, baseline_of, entry_of, stub_of
from farthing.engine.caching_books import avoided_cost, hit_entry
from farthing.engine.caching_flights import Flight as Leading
from farthing.engine.call import FREE_ENDPOINTS, Call
from farthing.engine.ceiling import bounds_of, ceiling_of
from farthing.engine.deliver import filled_in
from farthing.engine.plan import Plan
from farthing.engine.record import Ending, Recorder, tokens_of
from farthing.engine.services import Services, Upstream
from farthing.engine.translating import Prepared
from farthing.lab.replay_books import NOTHING, Account, Amounts
from farthing.lab.replay_cache import layer_of
from farthing.lab.replay_lanes import Lane, Switch, Tariff
from farthing.lab.replay_log import Logged, logged, request_of
from farthing.lab.replay_outcome import Fidelity, Outcome, Sink, Sums, differs, fidelity_of, input_nusd
from farthing.lab.replay_provider import Flight
from farthing.ports.cache import StoredAnswer
from farthing.wire.body import answer_text

_METERED: Final = ("reported", "estimated")


class Looks:
    """What a cache makes of the calls of one plan that say nothing about caches themselves."""

    __slots__ = ("answers", "partitions", "refuses", "route", "values")

    def __init__(self, route: CacheRoute | None, refuses: str, values: Callable[[Scope], object]) -> None:
        self.route = route
        self.refuses = refuses
        """Why it does not look at them."""
        self.values = values
        """What callers are told apart by."""
        self.partitions: dict[object, str] = {}
        """By these values."""
        self.answers: dict[tuple[str, int, bool, bytes], tuple[bytes, int] | None] = {}
        """Answers as they would be kept with their sizes, by (finish reason, status, first byte before the last, raw
        usage).
        """


@dataclass(slots=True)
class Shape:
    """What is asked of whom (see ``Shapes``). Nobody changes one."""

    plan: Plan
    target: Target
    upstream: Upstream
    ask: Prepared
    body: bytes
    cap: int | None
    """The cap on output that the body states."""
    decisions: tuple[Decision, ...]
    """Those of the plan, but for a route's choice."""
    edited: Request | None
    """The request as levers left it; None: as it came."""
    lane: Lane | None = None
    """Its ceilings; None: they are asked for call by call."""
    tariff: Tariff | None = None
    """What answers cost; None: it is asked for answer by answer."""
    degraded: "dict[tuple[Target, ...], Shape | None]" = field(default_factory=dict)
    """By the targets that thresholds put in place of its own; where nobody asks for decisions."""
    switches: dict[str, Switch | None] = field(default_factory=dict)
    """By the model that thresholds want instead; None: calls like these stay."""
    seats: dict[object, Account] = field(default_factory=dict)
    """Where calls to this target count, by what budgets look at of their scope."""
    looks: Looks | None = None
    """What the cache makes of them; None: it is asked for each call, or has not been asked."""
    blind: bool | None = None
    """Levers would have to read what the log does not keep; None: it has to be asked for each call."""


class Asked:
    """A call that its cache has missed."""

    __slots__ = ("controls", "flight", "key", "partition", "request", "route", "target")

    def __init__(
        self,
        request: Exchange,
        route: CacheRoute,
        target: Target,
        key: str,
        partition: str,
        controls: Controls,
        flight: Leading | None,
    ) -> None:
        """``request``: who asks what, as it was logged; ``flight``: others may wait for its answer."""
        self.request = request
        self.route = route
        self.target = target
        self.key = key
        self.partition = partition
        self.controls = controls
        self.flight = flight


NO_USAGE: Final = Usage()
"""Of a call that was never sent."""


class Fly:
    """One call on the short way."""

    __slots__ = (
        "_logged", "_request", "account", "acts", "amounts", "asked", "bounds", "decisions", "denied", "exchange",
        "flight", "one", "routed", "shape", "squeezes", "started_ms", "tight", "ttft_ms", "unread", "usage",
        "was_cut",
    )  # fmt: skip
    shape: Shape

    def __init__(self, exchange: Exchange, one: Logged | None, now_ms: int) -> None:
        self.exchange = exchange
        self.one = one
        """The call with its ledger entries, where they are at hand."""
        self.started_ms = now_ms
        self._logged = one
        self._request = None if one is None else one.request
        self.decisions: tuple[Decision, ...] = ()
        self.bounds: Bounds | None = None
        """None: its lane says what is held."""
        self.account: Account | None = None
        """Where it counts."""
        self.amounts: Amounts = NOTHING
        """What is held for it, in each unit."""
        self.routed: tuple[Decision, ...] = ()
        """A route's choice."""
        self.unread = False
        """A route or a lever would have had to read what the log does not keep."""
        self.acts = 0
        """Questions that it has asked of the books."""
        self.tight = False
        """The counted prompt has been tried."""
        self.squeezes = 0
        """How often its answer was cut to what is left."""
        self.denied: Denied | None = None
        """Why it was, the last time."""
        self.usage = NO_USAGE
        self.ttft_ms: int | None = None
        self.was_cut = False
        """A lower cap than the log's ends the answer."""
        self.asked: Asked | None = None
        self.flight: Flight | None = None
        """Set when the log has no such answer: how it was estimated."""

    @property
    def request(self) -> Request:
        """The request as it came in."""
        found = self._request
        if found is None:
            found = self._request = request_of(self.exchange)
        return found

    @property
    def logged(self) -> Logged:
        """All that the log says of it."""
        found = self._logged
        if found is None:
            found = self._logged = logged(self.exchange)
        return found

    @property
    def planned(self) -> tuple[Decision, ...]:
        """The decisions of its plan."""
        return (*self.routed, *self.shape.decisions) if self.routed else self.shape.decisions


def is_plain(exchange: Exchange, one: Logged | None) -> bool:
    """One try that was answered whole, or none at all; nobody hung up, and no text was kept."""
    if exchange.prompt is not None or exchange.error == "client_gone" or exchange.view.endpoint in FREE_ENDPOINTS:
        return False
    if one is not None and one.gone_at_ms is not None:
        return False
    attempts = exchange.attempts
    if not attempts:
        return True
    fact = attempts[0]
    usage = exchange.usage if one is None else one.usage
    return (
        len(attempts) == 1
        and 200 <= fact.status < 300
        and not fact.error
        and not fact.lever
        and bool(fact.entry_id)
        and usage is not None
        and usage.source in _METERED
    )


@runtime_checkable
class Adds(Sums, Protocol):
    """``Sums`` that also takes estimates without records, and says how sure it is that a call was not answered."""

    def estimated(
        self,
        logged: Logged,
        model: str,
        guess: str | None,
        usage: Usage,
        cost: tuple[int | None, int],
        fidelity: Fidelity,
        latency_ms: int,
    ) -> None:
        """One entry of this model whose consumption is not the log's; ``guess``: the model that it was estimated at
        (None: a cache answered the logged call with this consumption); ``cost``: nano-USD, and those of the input.
        """
        ...

    def unanswered(
        self, source: Exchange, outcome: str, error: str, latency_ms: int, *, fidelity: Fidelity = "exact"
    ) -> None:
        """No entry."""
        ...


def bounds_within(services: Services, fly: Fly) -> Bounds:
    """The bounds that a call is held within."""
    if fly.bounds is None:
        shape = fly.shape
        sent = shape.edited or fly.request
        fly.bounds = bounds_of(services, sent, shape.target, shape.upstream, shape.ask.plan)
    return fly.bounds


class Ends:
    """Tells a replay's sink of calls that have ended: in numbers where it only adds up, with entries otherwise."""

    def __init__(self, services: Services, recorder: Recorder, sink: Sink) -> None:
        self._services = services
        self._recorder = recorder
        self._sink = sink
        self._sums = sink if isinstance(sink, Adds) else None
        self.adds = self._sums is not None
        """Only sums are wanted."""

    def answered(self, fly: Fly, usage: Usage, charge: Charge, ended_ms: int) -> None:
        """Its one try was answered and billed."""
        exchange, sums, flight = fly.exchange, self._sums, fly.flight
        latency_ms = max(0, ended_ms - exchange.received_at_ms)
        if sums is None:
            self._sink(self._outcome(fly, usage, charge, ended_ms, latency_ms))
        elif flight is None:
            self.summed(fly, usage, charge.total, ended_ms)
        else:
            self.guessed(fly, flight, usage, charge.total, input_nusd(charge), ended_ms)

    def guessed(
        self, fly: Fly, flight: Flight, usage: Usage, total: int | None, taken_nusd: int, ended_ms: int
    ) -> None:
        """The same where only sums are wanted, of an answer that was estimated; ``taken_nusd``: for its input."""
        assert self._sums is not None
        latency_ms = max(0, ended_ms - fly.exchange.received_at_ms)
        model, guess = usage.model or fly.shape.target.model, flight.guesses.get(1)
        fidelity: Fidelity = "unknown" if fly.unread else "estimated"
        self._sums.estimated(flight.logged, model, guess, usage, (total, taken_nusd), fidelity, latency_ms)

    def summed(self, fly: Fly, usage: Usage, total: int | None, ended_ms: int) -> None:
        """The same where only sums are wanted, of an answer that the log has."""
        exchange, sums = fly.exchange, self._sums
        assert sums is not None
        latency_ms = ended_ms - exchange.received_at_ms
        fidelity: Fidelity = "exact"
        if fly.unread:
            fidelity = "unknown"
        elif fly.was_cut or usage.source != "reported":
            fidelity = "estimated"
        elif total != exchange.amount and differs(exchange, total):
            fidelity = "repriced"
        sums.answered(
            exchange,
            usage.model or fly.shape.target.model,
            total,
            fidelity,
            latency_ms if latency_ms > 0 else 0,
            False,
        )

    def recalled(self, fly: Fly, answer: StoredAnswer, now_ms: int) -> None:
        """A cache answered it from memory."""
        if self._sums is not None:
            latency_ms = max(0, now_ms - fly.exchange.received_at_ms)
            model = answer.usage.model or answer.target.model
            fidelity: Fidelity = "unknown" if fly.unread else "exact"
            self._sums.answered(fly.exchange, model, 0, fidelity, latency_ms, True)
            return
        call = Call(self._services, self._recorder, fly.request)
        call.plan = fly.shape.plan
        call.decisions.extend(fly.planned)
        saves = avoided_cost(call, answer)
        layer = layer_of(fly.exchange, answer) or "memory"
        entry = hit_entry(call, answer, saves, action="exact", layer=layer, evidence=())
        fidelity = fidelity_of(fly.exchange, (entry,), estimated=False)
        self._sink(
            Outcome(
                logged=fly.logged,
                entries=(entry,),
                decisions=tuple(call.decisions),
                outcome="answered",
                status=200,
                error="",
                latency_ms=entry.latency_ms,
                fidelity="unknown" if fly.unread else fidelity,
                guesses={},
            )
        )

    def unanswered(self, fly: Fly, ending: Ending) -> None:
        """It was refused."""
        if self._sums is not None:
            self.uncounted(fly, ending, ending.latency_ms)
            return
        fidelity: Fidelity = "unknown" if fly.unread else "exact"
        self._sink(
            Outcome(
                logged=fly.logged,
                entries=(),
                decisions=fly.decisions,
                outcome=ending.outcome,
                status=ending.status,
                error=ending.error,
                latency_ms=ending.latency_ms,
                fidelity=fidelity,
                guesses={},
            )
        )

    def uncounted(self, fly: Fly, ending: Ending, latency_ms: int) -> None:
        """The same where only sums are wanted; ``ending``: but for how long it took."""
        assert self._sums is not None
        fidelity: Fidelity = "unknown" if fly.unread else "exact"
        self._sums.unanswered(fly.exchange, ending.outcome, ending.error, latency_ms, fidelity=fidelity)

    def filled(self, fly: Fly, usage: Usage, body: bytes) -> Usage:
        """The usage of a whole answer that does not say all of it, as the pipeline fills it in."""
        taken, given = tokens_of(usage)
        if taken and given and usage.source == "estimated":
            part = usage.parts[0]
            if part.tier_basis == sum([quantity for unit, quantity in part.lines if is_input(unit)]):
                return usage  # nothing is missing: filled in, it would be the same
        call = Call(self._services, self._recorder, fly.request)
        call.plan = fly.shape.plan
        return filled_in(call, self._attempt(fly, fly.started_ms), usage, answer_text(body))

    def _attempt(self, fly: Fly, ended_ms: int) -> Attempt:
        shape, request = fly.shape, fly.request
        bounds = bounds_within(self._services, fly)
        return Attempt(
            id=f"{request.id}-1",
            number=1,
            target=shape.target,
            upstream=shape.upstream,
            body=shape.body,
            ask=replace(shape.ask, request=shape.edited or request),
            bounds=bounds,
            ceiling=ceiling_of(self._services, request, shape.target, bounds),
            started_ms=fly.started_ms,
            ended_ms=ended_ms,
            ttft_ms=fly.ttft_ms,
        )

    def _outcome(self, fly: Fly, usage: Usage, charge: Charge, ended_ms: int, latency_ms: int) -> Outcome:
        services, shape, request, flight = self._services, fly.shape, fly.request, fly.flight
        fact = fly.exchange.attempts[0] if flight is None else None
        status = fact.status if fact is not None else 200
        attempt = self._attempt(fly, ended_ms)
        asked = shape.plan.asked or shape.plan.targets[0]
        at_ms = request.received_at_ms
        entry = entry_of(
            attempt,
            stub_of(services, request, attempt, fly.decisions),
            usage,
            charge,
            baseline=baseline_of(services.prices, attempt, usage, charge, asked=asked, at_ms=at_ms),
            decisions=fly.decisions,
            status=status,
        )
        estimated = fly.was_cut or flight is not None
        return Outcome(
            logged=fly.logged if flight is None else flight.logged,
            entries=(entry,),
            decisions=fly.decisions,
            outcome="answered",
            status=status,
            error="",
            latency_ms=latency_ms,
            fidelity="unknown" if fly.unread else fidelity_of(fly.exchange, (entry,), estimated=estimated),
            guesses={} if flight is None else flight.guesses,
        )
