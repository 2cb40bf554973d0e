"""The traffic log as replay reads it: one record a request, in order of arrival, in bounded memory."""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from farthing.core.types import NO_TEXT, AttemptFact, Exchange, LedgerEntry, Request, Usage

REORDER_MS: Final = 3_600_000
"""How long a call takes at most, unless the log is known to have longer ones."""
_SLACK_MS: Final = 60_000
"""Between the end of a call and its place in the log."""
_DEFER: Final = (b"x-farthing-defer", b"allow")


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it was: what came in, what each try did, how it ended."""

    request: Request
    starts: tuple[int, int]
    """(when, number of the act) of the first thing that was decided about it; 0: the number is not known."""
    attempts: tuple[AttemptFact, ...]
    settled: tuple[int, ...]
    """By try: the number of the act that ended it; 0 when it is not known."""
    acts: tuple[tuple[int, int], ...]
    usages: Mapping[int, Usage]
    """By number of the try: what was metered."""
    usage: Usage | None
    """What the answering try consumed; None for requests that were refused, failed, or answered from a cache."""
    model: str
    """The model that answered, as it was sent upstream."""
    provider: str
    gone_at_ms: int | None
    """When the caller was found to have hung up; None: it stayed."""
    cut: bool
    """The pipeline stopped because the caller had hung up."""
    pauses_ms: tuple[int, ...]
    """Pauses before the second and later tries."""
    outcome: str
    status: int
    error: str
    latency_ms: int
    amount: int | None
    """Nano-USD booked; None when any entry is unpriced."""
    cap: int | None
    """The cap on each answer that it was sent with."""
    answered_by: str
    """The entry whose answer a cache gave again; empty: none."""
    source: Exchange

    @property
    def asks_at(self) -> tuple[int, int]:
        """(when, number of the act) at which it went to a provider, or wanted to."""
        if self.acts:
            return self.request.received_at_ms + self.acts[0][0], self.acts[0][1]
        return (self.attempts[0].started_at_ms, 0) if self.attempts else self.starts


def logged(exchange: Exchange, entries: Iterable[LedgerEntry] = ()) -> Logged:
    """One exchange, with the ledger's entries where they are at hand (they keep the provider's own words)."""
    attempts = exchange.attempts
    usages: dict[int, Usage] = {}
    gone_at_ms = None
    for entry in entries:
        if entry.kind == "charge" and entry.attempt > 0:
            usages[entry.attempt] = entry.usage
            if entry.client_gone:
                gone_at_ms = entry.booked_at_ms
    answering = next((one for one in reversed(attempts) if one.entry_id and 0 < one.status < 400), None)
    usage = None
    if answering is not None:
        usage = usages.get(answering.attempt, exchange.usage)
        if gone_at_ms is None and (answering.error == "client_gone" or exchange.error == "client_gone"):
            gone_at_ms = answering.started_at_ms + answering.latency_ms
    elif exchange.error == "client_gone":  # it waited for another call's answer, and had gone before that came
        gone_at_ms = exchange.received_at_ms
    request = Request(
        id=exchange.request_id,
        received_at_ms=exchange.received_at_ms,
        dialect=exchange.dialect,  # type: ignore[arg-type]
        body=exchange.prompt or NO_TEXT,
        headers=_headers(exchange),
        view=exchange.view,
        scope=exchange.scope,
        readings=exchange.readings,
    )
    return Logged(
        request=request,
        starts=starts(exchange),
        attempts=attempts,
        settled=_settled(exchange),
        acts=exchange.acts,
        usages=usages,
        usage=usage,
        model=answering.model if answering is not None else "",
        provider=answering.provider if answering is not None else "",
        gone_at_ms=gone_at_ms,
        cut=exchange.error == "client_gone",
        pauses_ms=_pauses(exchange) if len(attempts) > 1 else (),
        outcome=exchange.outcome,
        status=exchange.status,
        error=exchange.error,
        latency_ms=exchange.latency_ms,
        amount=exchange.amount,
        cap=_cap(exchange),
        answered_by=_answered_by(exchange) if answering is None else "",
        source=exchange,
    )


def in_order(exchanges: Iterable[Exchange], longest_ms: int = REORDER_MS) -> Iterator[Exchange]:
    """Exchanges by when they were first decided about; they come in the order of their endings.

    ``longest_ms``: none of them took longer. Memory holds what began within so long.
    """
    waiting: list[tuple[tuple[int, int], str, Exchange]] = []
    latest = -(2**62)
    for exchange in exchanges:
        heapq.heappush(waiting, (starts(exchange), exchange.request_id, exchange))
        latest = max(latest, exchange.received_at_ms + exchange.latency_ms)
        while waiting and waiting[0][0][0] < latest - longest_ms - _SLACK_MS:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def _headers(exchange: Exchange) -> tuple[tuple[bytes, bytes], ...]:
    """The caller's headers that decided something."""
    found: tuple[tuple[bytes, bytes], ...] = (_DEFER,) if exchange.error == "deferred" else ()
    said = exchange.readings.get("cache_control")
    return found if said is None else (*found, (b"x-farthing-cache", str(said).encode()))


def _cap(exchange: Exchange) -> int | None:
    cap = exchange.view.output_tokens_max
    for one in exchange.decisions:
        if one.action == "cap":
            for name, value in one.evidence:
                if name == "cap" and value.isdigit():
                    cap = int(value)
    return cap


def _answered_by(exchange: Exchange) -> str:
    for one in exchange.decisions:
        if one.stage == "cache" and one.action == "hit":
            return dict(one.evidence).get("source", "")
    return ""


def starts(exchange: Exchange) -> tuple[int, int]:
    """(when, number of the act) of the first thing that was decided about a request.

    Caches are asked on arrival: who asks first is who is waited for. A hit without waiting was found when it ended.
    """
    for one in exchange.decisions:
        if one.stage == "cache":
            found = one.action == "hit" and ("layer", "flight") not in one.evidence
            return exchange.received_at_ms + (exchange.latency_ms if found else 0), 0
    if exchange.acts:
        at_ms, number = exchange.acts[0]
        return exchange.received_at_ms + at_ms, number
    if exchange.attempts:
        return exchange.attempts[0].started_at_ms, 0
    return exchange.received_at_ms, 0


def _settled(exchange: Exchange) -> tuple[int, ...]:
    """The number of the act that ended each try."""
    found = tuple([-number for _, number in exchange.acts if number < 0])
    return found if len(found) == len(exchange.attempts) else (0,) * len(exchange.attempts)


def _pauses(exchange: Exchange) -> tuple[int, ...]:
    found: list[int] = []
    for decision in exchange.decisions:
        if decision.stage == "retry":
            found.append(int(dict(decision.evidence).get("after_ms", "0")))
        elif decision.stage == "fallback":
            if decision.action == "switch":
                found.append(0)
            elif found:
                found.pop()
    return tuple(found)
