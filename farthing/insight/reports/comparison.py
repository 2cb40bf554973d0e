"""Spend of a period beside the equal period before it: what changed, and how much of the change each group is."""

import heapq
from collections.abc import Mapping
from typing import Final

from farthing.core.types import LedgerQuery, Totals
from farthing.insight.honesty import cost, cost_notes, per_request
from farthing.insight.table import Column, Row, Table, share

TITLE: Final = "Spend compared with the period before"

_MEASURES: Final = (
    Column(name="requests_before", title="requests before", kind="int"),
    Column(name="requests", title="requests", kind="int"),
    Column(name="cost_before", title="cost before", kind="usd", unknown="unpriced"),
    Column(name="cost", title="cost", kind="usd", unknown="unpriced"),
    Column(name="change", title="change", kind="usd"),
    Column(name="change_share", title="change %", kind="percent", unknown="new"),
    Column(name="cost_per_request_before", title="per request before", kind="usd"),
    Column(name="cost_per_request", title="per request", kind="usd"),
)

_NOTHING: Final = Totals()
_NONE: Final = (0, 0)

Amounts = Mapping[tuple[str, ...], tuple[int, int]]
"""(amount, entries) by group."""


def queries(
    by: tuple[str, ...], *, since_ms: int, until_ms: int, where: tuple[tuple[str, str], ...] = ()
) -> tuple[LedgerQuery, LedgerQuery]:
    """(the period, the period of the same length that ends where it begins)."""
    before = since_ms - (until_ms - since_ms)
    return (
        LedgerQuery(group_by=by, since_ms=since_ms, until_ms=until_ms, where=where),
        LedgerQuery(group_by=by, since_ms=before, until_ms=since_ms, where=where),
    )


def first(now: Amounts, before: Amounts, limit: int) -> tuple[tuple[str, ...], ...]:
    """The groups with the largest changes, in the order of the table."""

    def place(group: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
        return -abs(now.get(group, _NONE)[0] - before.get(group, _NONE)[0]), group

    return tuple(heapq.nsmallest(limit, now.keys() | before.keys(), key=place))


def build(
    now: tuple[Totals, ...],
    before: tuple[Totals, ...],
    by: tuple[str, ...],
    *,
    whole: tuple[tuple[Totals, ...], tuple[Totals, ...]],
    title: str = TITLE,
    limit: int = 0,
    count: int = 0,
) -> Table:
    """Largest change first, whichever its direction. ``whole``: both answers without groups, for the total row.

    ``count`` > 0: so many groups there are, and ``now`` and ``before`` are of the :func:`first` of them only.
    """
    current = {row.group: row for row in now}
    earlier = {row.group: row for row in before}
    groups = sorted(
        current.keys() | earlier.keys(),
        key=lambda group: (
            -abs(current.get(group, _NOTHING).amount - earlier.get(group, _NOTHING).amount),
            group,
        ),
    )
    shown = groups if limit <= 0 else groups[:limit]
    rows = [
        (*(value or "(none)" for value in group), *_line(current.get(group), earlier.get(group))) for group in shown
    ]
    notes = list(cost_notes(whole[0] + whole[1] if count else now + before))
    others = (count or len(groups)) - len(shown)
    if others > 0:
        notes.append(f"{others} smaller changes are in the total but not listed.")
    label = ("total", *([""] * (len(by) - 1))) if by else ()
    total = (*label, *_line(_first(whole[0]), _first(whole[1]))) if by and groups else None
    columns = (*(Column(name=name, title=name) for name in by), *_MEASURES)
    return Table(title=title, columns=columns, rows=tuple(rows), total=total, notes=tuple(notes))


def _first(rows: tuple[Totals, ...]) -> Totals | None:
    return rows[0] if rows else None


def _line(now: Totals | None, before: Totals | None) -> Row:
    current, earlier = now or _NOTHING, before or _NOTHING
    cost_now, cost_before = cost(current), cost(earlier)
    change = None if cost_now is None or cost_before is None else cost_now - cost_before
    return (
        earlier.requests,
        current.requests,
        cost_before,
        cost_now,
        change,
        None if change is None else share(change, earlier.amount),
        per_request(earlier),
        per_request(current),
    )
