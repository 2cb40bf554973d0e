"""Cost beside outcomes: sessions with what they cost and what came of them, slice by slice."""

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from farthing.core.dimensions import entry_value
from farthing.core.types import LedgerQuery, Totals
from farthing.core.unit_cost import Cluster, Ratio, ratio
from farthing.insight.honesty import cost as cost_of
from farthing.ports.books import Ledger
from farthing.ports.outcomes import Outcome

Key = tuple[str, ...]
Per = Literal["user", "customer", "session"]
REQUEST: Final = "request:"
"""Begins the name of a cluster that is one request, where calls name no session."""


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """One slice: cost per successful outcome, and what the outcomes were worth."""

    ratio: Ratio
    reported: int
    """Outcomes, successful or not."""
    value: int | None
    """Nano-USD of the successful ones; None where any of them has none."""
    linked_cost: int
    """The part of the cost in sessions that have any outcome."""
    loose_cost: int
    """The part of the cost that belongs to no session."""

    @property
    def margin(self) -> int | None:
        """Value less cost; None while a value is unknown."""
        return None if self.value is None else self.value - self.ratio.cost


def query(by: Key, cluster: str, *, since_ms: int, until_ms: int, where: tuple[tuple[str, str], ...]) -> LedgerQuery:
    """Cost by session (or user, customer) and slice."""
    return LedgerQuery(group_by=(cluster, *by), since_ms=since_ms, until_ms=until_ms, where=where)


def per_head(rows: Iterable[Totals]) -> dict[Key, Ratio]:
    """Cost per user, customer or session that had any: each is one outcome of itself. Nameless cost is left over.

    Who has no call with a known price is not divided by.
    """
    clusters: dict[Key, list[Cluster]] = {}
    loose: dict[Key, int] = {}
    for row in rows:
        name, key = row.group[0], row.group[1:]
        if name and cost_of(row) is not None:
            clusters.setdefault(key, []).append(Cluster(row.amount, 1))
        else:
            loose[key] = loose.get(key, 0) + row.amount
            clusters.setdefault(key, [])
    return {key: ratio(found, extra_cost=loose.get(key, 0)) for key, found in clusters.items()}


def unknown(rows: Iterable[Totals]) -> dict[Key, int]:
    """Entries without a price, by slice."""
    found: dict[Key, int] = {}
    for row in rows:
        if row.unpriced:
            found[row.group[1:]] = found.get(row.group[1:], 0) + row.unpriced
    return found


def per_outcome(
    ledger: Ledger, rows: Sequence[Totals], outcomes: Sequence[Outcome], by: Key
) -> tuple[dict[Key, Unit], int]:
    """(slices, outcomes whose calls the ledger does not know).

    An outcome counts where its session cost most: a session whose calls are of several slices is still one session.
    Calls without a session are found by request id; what is left of them belongs to no session. Sessions without any
    known price are not counted, and neither is what came of them.
    """
    costs: dict[str, dict[Key, int]] = {"": {row.group[1:]: 0 for row in rows}}
    for row in rows:
        if row.group[0] and cost_of(row) is None:
            continue
        cells = costs.setdefault(row.group[0], {})
        cells[row.group[1:]] = cells.get(row.group[1:], 0) + row.amount
    homeless = costs.pop("", {})
    named = _requests(ledger, outcomes, costs, homeless, by)
    lost = 0
    came: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        name = outcome.session or named.get(outcome.request_id, "")
        if name in costs:
            came.setdefault(name, []).append(outcome)
        else:
            lost += 1
    return _units(costs, came, homeless), lost


def _requests(
    ledger: Ledger, outcomes: Sequence[Outcome], costs: dict[str, dict[Key, int]], homeless: dict[Key, int], by: Key
) -> dict[str, str]:
    """The cluster of each request that outcomes name: its session, or itself where it has none."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(one.request_id for one in outcomes if one.request_id and not one.session):
        for entry in ledger.entries(request_id=name):
            key = tuple(entry_value(entry, dimension) for dimension in by)
            if entry.scope.session:
                found[name] = entry.scope.session
            elif key in homeless and (entry.charge.total is not None or REQUEST + name in costs):
                amount = entry.charge.total or 0
                cells = costs.setdefault(REQUEST + name, {})
                cells[key] = cells.get(key, 0) + amount
                homeless[key] -= amount
                found[name] = REQUEST + name
    return found


def _units(
    costs: dict[str, dict[Key, int]], came: dict[str, list[Outcome]], homeless: dict[Key, int]
) -> dict[Key, Unit]:
    clusters: dict[Key, list[Cluster]] = {key: [] for key in homeless}
    values: dict[Key, list[int | None]] = {}
    reported: dict[Key, int] = {}
    linked: dict[Key, int] = {}
    for name, cells in costs.items():
        main = max(cells, key=lambda key: (cells[key], key))
        good = [one for one in came.get(name, ()) if one.success]
        for key, cost in cells.items():
            clusters.setdefault(key, []).append(Cluster(cost, len(good) if key == main else 0))
            if name in came:
                linked[key] = linked.get(key, 0) + cost
        values.setdefault(main, []).extend(one.value_nusd for one in good)
        reported[main] = reported.get(main, 0) + len(came.get(name, ()))
    return {
        key: Unit(
            ratio=ratio(found, extra_cost=homeless.get(key, 0)),
            reported=reported.get(key, 0),
            value=_sum(values.get(key, [])),
            linked_cost=linked.get(key, 0),
            loose_cost=homeless.get(key, 0),
        )
        for key, found in clusters.items()
    }


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
