"""Spend over time, split by the largest groups: the table behind every chart over time."""

from typing import Final

from farthing.core.types import LedgerQuery, Totals
from farthing.insight.table import Column, Row, Table

GROUPS_MAX: Final = 8
MANY: Final = 200
"""With more groups than that, the largest are asked for one by one, and all others only together."""
OTHER: Final = "(other)"
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
    """A row for each slot of time, a column for each of the largest groups; ``slots`` without rows are zero.

    ``others``: where ``rows`` have the largest groups only, everything by time alone, and how many groups there are.
    """
    sums: dict[str, int] = {}
    cells: dict[tuple[str, str], int] = {}
    names: dict[tuple[str, ...], str] = {}
    for row in rows:
        time, *values = row.group
        group = tuple(values)
        name = names.get(group) or names.setdefault(group, _name(group) or "cost")
        sums[name] = sums.get(name, 0) + row.amount
        cells[time, name] = cells.get((time, name), 0) + row.amount
    ranked = sorted(sums, key=lambda name: (-sums[name], name))
    head, rest = ranked[:GROUPS_MAX], ranked[GROUPS_MAX:]
    count = len(rest)
    if others is not None:
        whole = {row.group[0]: row.amount for row in others[0]}
        for time, amount in whole.items():
            cells[time, _REST] = amount - sum(cells.get((time, name), 0) for name in head)
        sums[_REST] = sum(whole.values()) - sum(sums[name] for name in head)
        rest, count, rows = [_REST], others[1] - len(head), (*rows, *others[0])
    times = sorted({row.group[0] for row in rows} | set(slots))
    lines: list[Row] = []
    for time in times:
        other = [sum([cells.get((time, name), 0) for name in rest])] if rest else []
        lines.append((time, *[cells.get((time, name), 0) for name in head], *other))
    columns = [Column(name=name, title=name, kind="usd") for name in head]
    if rest:
        columns.append(Column(name=OTHER, title=f"other ({count})", kind="usd"))
    total: Row = ("total", *(sums[name] for name in head), *([sum(sums[name] for name in rest)] if rest else []))
    return Table(
        title=f"Spend by {grain}" + (f" and {', '.join(by)}" if by else ""),
        columns=(Column(name=grain, title=f"{grain} (UTC)"), *columns),
        rows=tuple(lines),
        total=total if lines else None,
    )


def _name(group: tuple[str, ...]) -> str:
    return " · ".join(value or "(none)" for value in group)
