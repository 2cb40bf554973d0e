"""Spend over time, split by the largest groups: the table behind every chart over time."""

from typing import Final

from farthing.core.types import LedgerQuery, Totals
from farthing.insight.honesty import known
from farthing.insight.table import Column, Row, Table

GROUPS_MAX: Final = 8
MANY: Final = 200
"""With more groups than that, the largest are asked for one by one, and all others only together."""
OTHER: Final = "(other)"
UNPRICED: Final = "unpriced"
_REST: Final = "\0"


def query(
    grain: str,
    by: tuple[str, ...],
    *,
    since_ms: int | None,
    until_ms: int | None,
    where: tuple[tuple[str, str], ...] = (),
) -> LedgerQuery:
    """Time first, then the groups."""
    names = (grain, *(name for name in by if name != grain))
    return LedgerQuery(group_by=names, since_ms=since_ms, until_ms=until_ms, where=where)


def largest(groups: tuple[Totals, ...]) -> tuple[tuple[str, ...], ...]:
    """The groups with a column of their own, of an answer by group over the whole period."""
    return tuple(row.group for row in sorted(groups, key=lambda row: (-row.amount, _name(row.group)))[:GROUPS_MAX])


def build(
    rows: tuple[Totals, ...],
    grain: str,
    by: tuple[str, ...],
    *,
    slots: tuple[str, ...] = (),
    others: tuple[tuple[Totals, ...], int] | None = None,
) -> Table:
    """A row for each slot of time, a column for each of the largest groups; ``slots`` without rows are zero, and what
    has entries without a known price only is unpriced.

    ``others``: where ``rows`` have the largest groups only, everything by time alone, and how many groups there are.
    """
    sums: dict[str, int] = {}
    cells: dict[tuple[str, str], int] = {}
    unpriced: dict[tuple[str, str], int] = {}
    named: dict[tuple[str, ...], str] = {}
    for row in rows:
        time, *values = row.group
        group = tuple(values)
        name = named.get(group) or named.setdefault(group, _name(group) or "cost")
        sums[name] = sums.get(name, 0) + row.amount
        cells[time, name] = cells.get((time, name), 0) + row.amount
        unpriced[time, name] = unpriced.get((time, name), 0) + row.unpriced
    ranked = sorted(sums, key=lambda name: (-sums[name], name))
    head, rest = ranked[:GROUPS_MAX], ranked[GROUPS_MAX:]
    count = len(rest)
    if others is not None:
        whole = {row.group[0]: row.amount for row in others[0]}
        for time, amount in whole.items():
            cells[time, _REST] = amount - sum(cells.get((time, name), 0) for name in head)
        for row in others[0]:
            time = row.group[0]
            unpriced[time, _REST] = row.unpriced - sum(unpriced.get((time, name), 0) for name in head)
        sums[_REST] = sum(whole.values()) - sum(sums[name] for name in head)
        rest, count, rows = [_REST], others[1] - len(head), (*rows, *others[0])
    times = sorted({row.group[0] for row in rows} | set(slots))
    drawn = [*([name] for name in head), *([rest] if rest else [])]
    lines: list[Row] = []
    for time in times:
        lines.append((time, *(_sum([(time, name) for name in names], cells, unpriced) for names in drawn)))
    columns = [Column(name=name, title=name, kind="usd", unknown=UNPRICED) for name in head]
    if rest:
        columns.append(Column(name=OTHER, title=f"other ({count})", kind="usd", unknown=UNPRICED))
    unknown = [sum(unpriced.get((time, name), 0) for time in times for name in names) for names in drawn]
    total: Row = (
        "total",
        *(known(sum(sums[name] for name in names), of) for names, of in zip(drawn, unknown, strict=True)),
    )
    return Table(
        title=f"Spend by {grain}" + (f" and {', '.join(by)}" if by else ""),
        columns=(Column(name=grain, title=f"{grain} (UTC)"), *columns),
        rows=tuple(lines),
        total=total if lines else None,
    )


def _sum(
    places: list[tuple[str, str]], cells: dict[tuple[str, str], int], unpriced: dict[tuple[str, str], int]
) -> int | None:
    return known(sum([cells.get(one, 0) for one in places]), sum([unpriced.get(one, 0) for one in places]))


def _name(group: tuple[str, ...]) -> str:
    return " · ".join(value or "(none)" for value in group)
