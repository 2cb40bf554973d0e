"""Usage reports imported before: rows are sums of a period and have no ids, so the books are asked what is there.

A row is named by its content. One that an earlier version of Farthing read otherwise has another name and would count
twice; so would the sum of a day that was not over when it was first imported.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from farthing.core.types import LedgerEntry


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """What the books have already of a report, under other names."""

    same: frozenset[str] = frozenset()
    """Ids of rows that are there with the same counts."""
    grown: tuple[LedgerEntry, ...] = ()
    """Rows that are there with other counts."""


def again(booked: Iterable[LedgerEntry], mine: Sequence[LedgerEntry], *, source: str) -> Again:
    """Compares a report's entries with those that this source was imported to before."""
    ids = {one.id for one in mine}
    there: set[str] = set()
    others: Counter[tuple[object, ...]] = Counter()
    for one in booked:
        if one.id in ids:
            there.add(one.id)
        elif _source(one) == source:
            others[_place(one), _counts(one)] += 1
    new = [one for one in mine if one.id not in there]
    same = set()
    for one in new:
        key = _place(one), _counts(one)
        if others[key] > 0:
            others[key] -= 1
            same.add(one.id)
    left = {place for (place, _), count in others.items() if count > 0}
    return Again(same=frozenset(same), grown=tuple(one for one in new if one.id not in same and _place(one) in left))


def _source(entry: LedgerEntry) -> str:
    said = (pair for one in entry.decisions if one.stage == "import" for pair in one.evidence)
    return next((value for name, value in said if name == "source"), "")


def _place(entry: LedgerEntry) -> tuple[object, ...]:
    usage = entry.usage
    return entry.received_at_ms, entry.provider, entry.model, entry.scope, usage.service_tier, usage.facets


def _counts(entry: LedgerEntry) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(line for part in entry.usage.parts for line in part.lines))
