"""Everything that a proof of savings needs from the books, in one pass over entries and one over the traffic log."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol

import msgspec

from farthing.core.dimensions import scope_value
from farthing.core.experiment import Experiment
from farthing.core.savings import benjamini_hochberg
from farthing.core.types import Exchange, LedgerEntry
from farthing.insight.arms import ArmReader, worth_of
from farthing.insight.proof import Measured, measured
from farthing.insight.ways import Way, Ways, Whole
from farthing.ports.outcomes import Outcome
from farthing.ports.prices import Prices

Where = tuple[tuple[str, str], ...]

FALSE_RATE: Final = 0.05
"""Share of results that may be false where several are read at once."""


class Records(Protocol):
    """The part of a ledger that is read."""

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]: ...

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]: ...


class Gathered(msgspec.Struct, frozen=True, kw_only=True):
    """A period's savings: measured, exact and modelled apart."""

    since_ms: int
    until_ms: int
    where: Where
    measured: tuple[Measured, ...]
    """The last begun first."""
    exact: tuple[Way, ...]
    modelled: tuple[Way, ...]
    own_cost: tuple[Way, ...]
    """What saving itself cost; all savings that are measured are net of it."""
    whole: Whole


def gather(
    records: Records,
    prices: Prices,
    experiments: Sequence[Experiment],
    outcomes: Callable[[int, int], Iterable[Outcome]],
    *,
    since_ms: int,
    until_ms: int,
    where: Where = (),
) -> Gathered:
    """Reads a period. ``experiments``: those to measure; ``outcomes`` gives what was reported in a period; ``where``:
    only calls with these scope values."""
    ways = Ways(prices, since_ms=since_ms, until_ms=until_ms)
    worth = worth_of(prices)
    readers = [ArmReader(one, since_ms=since_ms, until_ms=until_ms, worth=worth) for one in experiments]
    feeds = [ways.entry, *(reader.entry for reader in readers)]
    for entry in records.entries(since_ms=min([since_ms, *(reader.reads_from_ms for reader in readers)])):
        if all(scope_value(entry.scope, name) == value for name, value in where):
            for feed in feeds:
                feed(entry)
    if readers:
        for exchange in records.exchanges(since_ms=min(reader.since_ms for reader in readers)):
            if all(scope_value(exchange.scope, name) == value for name, value in where):
                for reader in readers:
                    reader.exchange(exchange)
        for outcome in outcomes(min(reader.since_ms for reader in readers), until_ms):
            for reader in readers:
                reader.outcome(outcome)
    return Gathered(
        since_ms=since_ms,
        until_ms=until_ms,
        where=where,
        measured=together(tuple(measured(reader, until_ms=until_ms) for reader in readers)),
        exact=ways.exact,
        modelled=ways.modelled,
        own_cost=ways.own_cost,
        whole=ways.whole,
    )


def overlapping(experiments: Iterable[Experiment], since_ms: int, until_ms: int) -> tuple[Experiment, ...]:
    """Those that ran in a period, the last begun first."""
    found = [
        one
        for one in experiments
        if one.starts_ms < until_ms and (one.over_ms is None or one.over_ms > max(since_ms, one.starts_ms))
    ]
    return tuple(sorted(found, key=lambda one: (-one.starts_ms, one.name)))


def together(found: tuple[Measured, ...]) -> tuple[Measured, ...]:
    """Results that are read beside others must stand among them (Benjamini–Hochberg)."""
    judged = [one for one in found if one.planned is not None]
    if len(judged) < 2:
        return found
    stands = benjamini_hochberg([one.planned.p_value for one in judged if one.planned is not None], FALSE_RATE)
    why = f"among {len(judged)} experiments read at once, this difference may be chance (Benjamini–Hochberg)"
    weak = {one.experiment.name for one, good in zip(judged, stands, strict=True) if not good}
    return tuple(
        msgspec.structs.replace(one, objections=(*one.objections, why)) if one.experiment.name in weak else one
        for one in found
    )
