"""Calls of a plain course in a replay: which ones they are, their state on the way, and what is said at their end."""

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from farthing.core.budget import Places
from farthing.core.caching import Controls
from farthing.core.types import Bounds, Charge, Decision, Exchange, Request, Target, Usage
from farthing.engine.attempt import Attempt, baseline_of, entry_of, stub_of
from farthing.engine.caching_books import avoided_cost, hit_entry
from farthing.engine.caching_flights import Flight as Leading
from farthing.engine.call import FREE_ENDPOINTS, Call
from farthing.engine.ceiling import ceiling_of
from farthing.engine.plan import Plan
from farthing.engine.record import Ending, Recorder
from farthing.engine.services import Services, Upstream
from farthing.engine.translating import Prepared
from farthing.lab.replay_log import Logged, logged
from farthing.lab.replay_outcome import Outcome, Sink, Sums, differs, fidelity_of
from farthing.lab.replay_provider import Flight
from farthing.ports.cache import Ask, StoredAnswer

_METERED: Final = ("reported", "estimated")
_UNPLACED: Final = Places((), (), 0, 0)
_UNBOUND: Final = Bounds(input_tokens=0, output_tokens=0)


@dataclass(frozen=True, slots=True)
class Shape:
    """What is asked of whom: the same for all calls of a kind, because their bodies have no text."""

    plan: Plan
    target: Target
    upstream: Upstream
    ask: Prepared
    body: bytes
    cap: int | None
    """The cap on output that the body states."""


class Asked(NamedTuple):
    """A call that its cache has missed."""

    ask: Ask
    controls: Controls
    flight: Leading | None
    """Others may wait for its answer."""


class Fly:
    """One call on the short way."""

    __slots__ = (
        "amounts", "asked", "bounds", "decisions", "exchange", "flight", "one", "places", "request", "shape",
        "started_ms", "tight", "ttft_ms", "usage", "was_cut",
    )  # fmt: skip

    shape: Shape

    def __init__(self, exchange: Exchange, request: Request, one: Logged | None, now_ms: int) -> None:
        self.exchange = exchange
        self.request = request
        self.one = one
        """The call with its ledger entries, where they are at hand."""
        self.started_ms = now_ms
        self.decisions: tuple[Decision, ...] = ()
        self.bounds = _UNBOUND
        self.places = _UNPLACED
        self.amounts: list[int] = []
        """Held on each of ``places``."""
        self.tight = False
        """The counted prompt has been tried."""
        self.usage = Usage()
        self.ttft_ms: int | None = None
        self.was_cut = False
        """A lower cap than the log's ends the answer."""
        self.asked: Asked | None = None
        self.flight: Flight | None = None
        """Set when the log has no such answer: how it was estimated."""

    @property
    def logged(self) -> Logged:
        """All that the log says of it."""
        return self.one or logged(self.exchange)


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
        and bool(fact.entry_id)
        and usage is not None
        and usage.source in _METERED
    )


class Ends:
    """Tells a replay's sink of calls that have ended: in numbers where it only adds up, with entries otherwise."""

    def __init__(self, services: Services, recorder: Recorder, sink: Sink) -> None:
        self._services = services
        self._recorder = recorder
        self._sink = sink
        self._sums = sink if isinstance(sink, Sums) else None

    def answered(self, fly: Fly, usage: Usage, charge: Charge, ended_ms: int) -> None:
        """Its one try was answered and billed."""
        exchange = fly.exchange
        latency_ms = max(0, ended_ms - exchange.received_at_ms)
        if self._sums is None or fly.flight is not None:
            self._sink(self._outcome(fly, usage, charge, ended_ms, latency_ms))
            return
        sure = not fly.was_cut and usage.source == "reported"
        total = charge.total
        self._sums.answered(
            exchange,
            usage.model or fly.shape.target.model,
            total,
            "estimated" if not sure else "repriced" if differs(exchange, total) else "exact",
            latency_ms,
            False,
        )

    def recalled(self, fly: Fly, answer: StoredAnswer, now_ms: int) -> None:
        """A cache answered it from memory."""
        if self._sums is not None:
            latency_ms = max(0, now_ms - fly.exchange.received_at_ms)
            model = answer.usage.model or answer.target.model
            self._sums.answered(fly.exchange, model, 0, "exact", latency_ms, True)
            return
        call = Call(self._services, self._recorder, fly.request)
        call.plan = fly.shape.plan
        call.decisions.extend(call.plan.decisions)
        saves = avoided_cost(call, answer)
        entry = hit_entry(call, answer, saves, action="exact", layer="memory", evidence=())
        self._sink(
            Outcome(
                logged=fly.logged,
                entries=(entry,),
                decisions=tuple(call.decisions),
                outcome="answered",
                status=200,
                error="",
                latency_ms=entry.latency_ms,
                fidelity=fidelity_of(fly.exchange, (entry,), estimated=False),
                guesses={},
            )
        )

    def unanswered(self, fly: Fly, ending: Ending) -> None:
        """It was refused."""
        if self._sums is not None:
            self._sums.unanswered(fly.exchange, ending.outcome, ending.error, ending.latency_ms)
            return
        self._sink(
            Outcome(
                logged=fly.logged,
                entries=(),
                decisions=fly.decisions,
                outcome=ending.outcome,
                status=ending.status,
                error=ending.error,
                latency_ms=ending.latency_ms,
                fidelity="exact",
                guesses={},
            )
        )

    def _outcome(self, fly: Fly, usage: Usage, charge: Charge, ended_ms: int, latency_ms: int) -> Outcome:
        services, shape, request, flight = self._services, fly.shape, fly.request, fly.flight
        fact = fly.exchange.attempts[0] if flight is None else None
        status = fact.status if fact is not None else 200
        attempt = Attempt(
            id=f"{request.id}-1",
            number=1,
            target=shape.target,
            upstream=shape.upstream,
            body=shape.body,
            ask=replace(shape.ask, request=request),
            bounds=fly.bounds,
            ceiling=ceiling_of(services, request, shape.target, fly.bounds),
            started_ms=fly.started_ms,
            ended_ms=ended_ms,
            ttft_ms=fly.ttft_ms,
        )
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
            fidelity=fidelity_of(fly.exchange, (entry,), estimated=estimated),
            guesses={} if flight is None else flight.guesses,
        )
