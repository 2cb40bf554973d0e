"""Opportunities: what the user's own traffic shows could cost less, in dollars a month, dearest first.

Pure over the traffic log and prices. Each watcher looks for one thing while the log goes by; what it finds says how
sure the amount is, what it rests on, and the one change that tries it. Amounts of different findings overlap: two
levers that save the same dollar save it once.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, Protocol

import msgspec

from farthing.config.editing import Toml
from farthing.core.types import Charge, Exchange, Usage
from farthing.core.units import INPUT_UNITS, OUTPUT_UNITS

DAY_MS: Final = 86_400_000
MONTH_DAYS: Final = 30

Sure = Literal["exact", "repriced", "estimated"]
"""``exact``: these very amounts were billed and would not have been. ``repriced``: billed tokens at other prices.
``estimated``: rests on a guess that the evidence names."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A section that is added to ``farthing.toml`` to try it."""

    section: str
    values: dict[str, Toml]


class Opportunity(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that could cost less."""

    kind: str
    """Names it for ``--apply``, with ``of`` where there are several."""
    of: str = ""
    """What it is about: a model, a feature."""
    nusd: int
    """Nano-USD over the time that was looked at."""
    sure: Sure
    requests: int
    evidence: str
    risk: Literal["none", "low", "medium", "high"]
    effort: Literal["low", "medium", "high"]
    try_: str
    """What to do, or the command."""
    change: Change | None = None

    @property
    def name(self) -> str:
        """What ``--apply`` calls it."""
        return f"{self.kind}:{self.of}" if self.of else self.kind


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One request of the log, with what its answer cost by part."""

    exchange: Exchange
    provider: str
    model: str
    """As it was sent; both empty where no upstream was asked."""
    nusd: int
    """All that was booked for it; 0 where a cache answered."""
    input_nusd: int = 0
    output_nusd: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def answered(self) -> bool:
        """An upstream gave the whole answer."""
        return self.exchange.outcome == "answered" and bool(self.model) and self.exchange.usage is not None

    @property
    def feature(self) -> str:
        """What the call was for."""
        return self.exchange.scope.feature


PriceOf = Callable[[Usage, str, str, int], Charge]
"""(usage, provider, model, at) -> what it costs there."""


class Watcher(Protocol):
    """Looks for one kind of opportunity."""

    def see(self, seen: Seen) -> None: ...

    def found(self) -> Iterable[Opportunity]: ...


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """A log, examined."""

    requests: int
    nusd: int
    unpriced: int
    """Requests whose cost is not known; they are in no amount."""
    days: float
    opportunities: tuple[Opportunity, ...]

    def per_month(self, nusd: int) -> int:
        """An amount of the log as that of 30 days like these."""
        return round(nusd * MONTH_DAYS / self.days)


def examine(
    exchanges: Iterable[Exchange], watchers: Sequence[Watcher], price_of: PriceOf, *, now_ms: int, floor: int = 0
) -> Examined:
    """Every opportunity worth more than ``floor`` nano-USD, dearest first. Exchanges come in order of arrival."""
    first: int | None = None
    requests = total = unpriced = 0
    for exchange in exchanges:
        first = exchange.received_at_ms if first is None else min(first, exchange.received_at_ms)
        requests += 1
        if exchange.amount is None:
            unpriced += 1
            continue
        total += exchange.amount
        seen = seen_of(exchange, price_of)
        for watcher in watchers:
            watcher.see(seen)
    found = [one for watcher in watchers for one in watcher.found() if one.nusd > floor]
    days = max(1 / 24, (now_ms - (now_ms if first is None else first)) / DAY_MS)
    ranked = tuple(sorted(found, key=lambda one: (-one.nusd, one.name)))
    return Examined(requests=requests, nusd=total, unpriced=unpriced, days=days, opportunities=ranked)


def seen_of(exchange: Exchange, price_of: PriceOf) -> Seen:
    """A request with its cost by part. Where parts cannot be priced anew they are 0."""
    last = exchange.attempts[-1] if exchange.attempts else None
    amount = exchange.amount or 0
    if last is None or exchange.usage is None:
        return Seen(exchange=exchange, provider="", model="", nusd=amount)
    charge = price_of(exchange.usage, last.provider, last.model, exchange.received_at_ms)
    parts = [0, 0]
    for line in charge.lines:
        parts[0] += (line.amount or 0) if line.unit in INPUT_UNITS else 0
        parts[1] += (line.amount or 0) if line.unit in OUTPUT_UNITS else 0
    tokens = [0, 0]
    for part in exchange.usage.parts:
        for unit, many in part.lines:
            tokens[0] += many if unit in INPUT_UNITS else 0
            tokens[1] += many if unit in OUTPUT_UNITS else 0
    return Seen(
        exchange=exchange,
        provider=last.provider,
        model=last.model,
        nusd=amount,
        input_nusd=parts[0],
        output_nusd=parts[1],
        input_tokens=tokens[0],
        output_tokens=tokens[1],
    )
