"""The traffic log as replay reads it: one record a request, in order of arrival, in bounded memory."""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from farthing.core.types import AttemptFact, Exchange, LedgerEntry, Request, Usage

REORDER_MS: Final = 900_000
"""The log is in order of endings; requests that began up to this much earlier are still put in their place."""

_STAND_IN: Final = b'{"model":"","messages":[]}'
"""The body of a request whose text was not kept: what is decided from its text is read from the log instead."""


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it was: what came in, what each try did, how it ended."""

    request: Request
    starts_at_ms: int
    """When its first try began; its arrival where there was none."""
    attempts: tuple[AttemptFact, ...]
    usages: Mapping[int, Usage]
    """By number of the try: what was metered."""
    usage: Usage | None
    """What the answering try consumed; None for requests that were refused, failed, or answered from a cache."""
    model: str
    """The model that answered, as it was sent upstream."""
    provider: str
    gone: bool
    """The caller hung up."""
    pauses_ms: tuple[int, ...]
    """Pauses before the second and later tries."""
    outcome: str
    status: int
    latency_ms: int
    amount: int | None
    """Nano-USD booked; None when any entry is unpriced."""


def logged(exchange: Exchange, entries: Iterable[LedgerEntry] = ()) -> Logged:
    """One exchange, with the ledger's entries where they are at hand (they keep the provider's own words)."""
    by_attempt = {entry.attempt: entry for entry in entries if entry.kind == "charge" and entry.attempt > 0}
    answering = next((one for one in reversed(exchange.attempts) if one.entry_id and 0 < one.status < 400), None)
    usages = {number: entry.usage for number, entry in by_attempt.items()}
    usage = None
    if answering is not None:
        usage = usages.get(answering.attempt, exchange.usage)
    view = exchange.view
    body = exchange.prompt or _STAND_IN
    request = Request(
        id=exchange.request_id,
        received_at_ms=exchange.received_at_ms,
        dialect=exchange.dialect,  # type: ignore[arg-type]
        body=body,
        view=view,
        scope=exchange.scope,
    )
    return Logged(
        request=request,
        starts_at_ms=exchange.attempts[0].started_at_ms if exchange.attempts else exchange.received_at_ms,
        attempts=exchange.attempts,
        usages=usages,
        usage=usage,
        model=answering.model if answering is not None else "",
        provider=answering.provider if answering is not None else "",
        gone=any(entry.client_gone for entry in by_attempt.values()) or exchange.error == "client_gone",
        pauses_ms=_pauses(exchange),
        outcome=exchange.outcome,
        status=exchange.status,
        latency_ms=exchange.latency_ms,
        amount=exchange.amount,
    )


def in_order(exchanges: Iterable[Exchange]) -> Iterator[Exchange]:
    """Exchanges by arrival, then by id; they come in the order of their endings. Memory holds 15 minutes of them."""
    waiting: list[tuple[int, str, Exchange]] = []
    latest = -(2**62)
    for exchange in exchanges:
        heapq.heappush(waiting, (_begins(exchange), exchange.request_id, exchange))
        latest = max(latest, exchange.received_at_ms + exchange.latency_ms)
        while waiting and waiting[0][0] < latest - REORDER_MS:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def _begins(exchange: Exchange) -> int:
    return exchange.attempts[0].started_at_ms if exchange.attempts else exchange.received_at_ms


def _pauses(exchange: Exchange) -> tuple[int, ...]:
    found = []
    for decision in exchange.decisions:
        if decision.stage == "retry":
            found.append(int(dict(decision.evidence).get("after_ms", "0")))
    return tuple(found)
