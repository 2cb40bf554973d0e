"""An incident opened with the ledger: which inner slice grew most, and which requests show it."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from farthing.core.decomposition import Slice
from farthing.core.dimensions import entry_value
from farthing.core.types import LedgerEntry, LedgerQuery
from farthing.insight import slices
from farthing.insight.anomalies import Incident
from farthing.insight.daily import SLOT_MS
from farthing.insight.render import usd
from farthing.insight.reports.incidents import examples
from farthing.insight.slices import Key, ListPrice
from farthing.ports.books import Ledger

INSIDE: Final = ("team", "feature", "model", "key", "user", "customer")
"""Where the growth is looked for."""
ENTRIES_MAX: Final = 20_000
"""Entries read for example requests."""


def calm_period(incident: Incident, season: int) -> tuple[int, int]:
    """The same slots as many whole seasons earlier as keep clear of the incident."""
    size = SLOT_MS[incident.grain]
    length = incident.until_ms - incident.began_ms
    back = -(-length // (season * size)) * season * size
    return incident.began_ms - back, incident.until_ms - back


def grew_most(ledger: Ledger, incident: Incident, season: int) -> str:
    """``user ada, +$12.30``: the one value of one dimension that explains most of the growth; "" when none grew."""
    best: tuple[int, str] = (0, "")
    before = calm_period(incident, season)
    for dimension in INSIDE:
        if dimension in dict(incident.slice):
            continue
        now, then = (
            {row.group: row.amount for row in ledger.totals(LedgerQuery(
                group_by=(dimension,), since_ms=since, until_ms=until, where=incident.slice))}
            for since, until in ((incident.began_ms, incident.until_ms), before)
        )  # fmt: skip
        for (value,), amount in now.items():
            growth = amount - then.get((value,), 0)
            if value and growth > best[0] * 101 // 100:  # of dimensions that grew alike, the first named one
                best = growth, f"{dimension} {value}, +{usd(growth)}"
    return best[1]


def example_requests(ledger: Ledger, incident: Incident) -> tuple[str, ...]:
    """The dearest of the incident's requests, by id."""
    return examples(list(_entries(ledger, incident)))


def both_periods(
    ledger: Ledger, incident: Incident, season: int, by: tuple[str, ...], price: ListPrice
) -> tuple[Mapping[Key, Slice], Mapping[Key, Slice]]:
    """(before, during) as the decomposition wants them."""
    periods = calm_period(incident, season), (incident.began_ms, incident.until_ms)
    before, during = (read(ledger, by, since, until, incident.slice, price) for since, until in periods)
    return before, during


def read(
    ledger: Ledger, by: tuple[str, ...], since_ms: int, until_ms: int, where: tuple[tuple[str, str], ...],
    price: ListPrice,
) -> dict[Key, Slice]:  # fmt: skip
    """The slices of one period."""
    first, second = slices.queries(by, since_ms=since_ms, until_ms=until_ms, where=where)
    at_ms = (since_ms + until_ms) // 2
    return slices.slices(ledger.totals(first), ledger.totals(second), first.group_by, price, at_ms=at_ms)


def _entries(ledger: Ledger, incident: Incident) -> Iterator[LedgerEntry]:
    for entry in islice(ledger.entries(since_ms=incident.began_ms), ENTRIES_MAX):
        if entry.received_at_ms < incident.until_ms and all(
            entry_value(entry, name) == value for name, value in incident.slice
        ):
            yield entry
