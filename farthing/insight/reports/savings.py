"""What caches saved: the cost of the calls that were not made, less what not making them cost."""

from typing import Final

import msgspec

from farthing.core.dimensions import TIME_DIMENSIONS
from farthing.core.types import LedgerQuery, Totals
from farthing.insight.honesty import cost_notes, known
from farthing.insight.table import Column, Row, Table, share

TITLE: Final = "Savings"
HIT: Final = "cache_hit"
LEVER: Final = "lever:"

_MEASURES: Final = (
    Column(name="requests", title="requests", kind="int"),
    Column(name="hits", title="answered by a cache", kind="int"),
    Column(name="hit_rate", title="hit rate", kind="percent"),
    Column(name="spend", title="spend", kind="usd", unknown="unpriced"),
    Column(name="avoided", title="avoided", kind="usd"),
    Column(name="lever_cost", title="cost of saving", kind="usd"),
    Column(name="net", title="net saving", kind="usd"),
    Column(name="net_share", title="of the bill without", kind="percent"),
)


class _Sums(msgspec.Struct):
    calls: int = 0
    hits: int = 0
    spend: int = 0
    avoided: int = 0
    lever: int = 0
    unpriced: int = 0

    def add(self, row: Totals, reason: str) -> None:
        if reason == HIT:
            self.hits += row.entries
            self.avoided += row.baseline
        elif reason.startswith(LEVER):
            self.lever += row.amount
        else:
            self.calls += row.requests
            self.spend += row.amount
        self.unpriced += row.unpriced


def query(
    by: tuple[str, ...],
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    where: tuple[tuple[str, str], ...] = (),
) -> LedgerQuery:
    """The question to the ledger: the groups, each split by why its entries cost what they do."""
    return LedgerQuery(group_by=(*by, "reason"), since_ms=since_ms, until_ms=until_ms, where=where)


def build(rows: tuple[Totals, ...], by: tuple[str, ...], *, title: str = TITLE, limit: int = 0) -> Table:
    """The table, largest net saving first, or in order of time when grouped by it first."""
    groups: dict[tuple[str, ...], _Sums] = {}
    whole = _Sums()
    for row in rows:
        groups.setdefault(row.group[:-1], _Sums()).add(row, row.group[-1])
        whole.add(row, row.group[-1])
    ordered = sorted(groups, key=lambda group: (groups[group].lever - groups[group].avoided, group))
    if by and by[0] in TIME_DIMENSIONS:
        ordered = sorted(groups)
    shown = ordered if limit <= 0 else ordered[:limit]
    notes = [
        "Avoided: what the answered calls would have cost, at the prices of their time and the usage of the answer "
        "that was kept.",
        *cost_notes(rows),
    ]
    if len(shown) < len(ordered):
        notes.insert(0, f"{len(ordered) - len(shown):,} more groups are in the total only.")
    blank = ("total", *([""] * (len(by) - 1))) if by else ()
    return Table(
        title=title,
        columns=(*(Column(name=name, title=name) for name in by), *_MEASURES),
        rows=tuple(_line(tuple(value or "(none)" for value in group), groups[group]) for group in shown),
        total=_line(blank, whole) if by and rows else None,
        notes=tuple(notes),
    )


def _line(labels: tuple[str, ...], sums: _Sums) -> Row:
    asked = sums.calls + sums.hits
    net = sums.avoided - sums.lever
    return (
        *labels,
        asked,
        sums.hits,
        share(sums.hits, asked),
        known(sums.spend + sums.lever, sums.unpriced),
        sums.avoided,
        sums.lever,
        net,
        share(net, sums.spend + sums.avoided),
    )
