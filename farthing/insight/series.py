"""Answers by day as gapless series, and folded back into groups: what the reports on time share."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from farthing.core.types import Totals

DAY_MS: Final = 86_400_000
_SUMMED: Final = tuple(name for name in Totals.__struct_fields__ if name != "group")


def day_name(at_ms: int) -> str:
    """``2026-11-21`` of an instant, in UTC."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%d")


def day_ms(name: str) -> int:
    """When a day begins."""
    return int(datetime.fromisoformat(name).replace(tzinfo=UTC).timestamp()) * 1000


def month_start(at_ms: int) -> int:
    """When the month (UTC) of an instant begins."""
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    return int(at.replace(day=1, hour=0, minute=0, second=0).timestamp()) * 1000


def month_end(at_ms: int) -> int:
    """When the month (UTC) of an instant ends."""
    return month_start(month_start(at_ms) + 32 * DAY_MS)


def days(since_ms: int, until_ms: int) -> list[str]:
    """The names of the days that begin in a period."""
    first = -(-since_ms // DAY_MS) * DAY_MS
    return [day_name(at) for at in range(first, until_ms, DAY_MS)]


def add(rows: Iterable[Totals], group: tuple[str, ...] = ()) -> Totals:
    """Rows together. Requests are added: right where no request has entries in two of the rows."""
    sums = dict.fromkeys(_SUMMED, 0)
    for row in rows:
        for name in _SUMMED:
            sums[name] += getattr(row, name)
    return Totals(group=group, **sums)


def fold(rows: Iterable[Totals], *, since: str = "", until: str = "~") -> tuple[Totals, ...]:
    """Rows grouped by day first, as groups of the rest, over the days ``since`` to ``until`` (itself left out)."""
    groups: dict[tuple[str, ...], list[Totals]] = {}
    for row in rows:
        if since <= row.group[0] < until:
            groups.setdefault(row.group[1:], []).append(row)
    return tuple(add(groups[group], group) for group in sorted(groups))


def by_day(rows: Iterable[Totals], names: Iterable[str]) -> list[int]:
    """Nano-USD of each named day over all groups; a day without rows is zero."""
    sums: dict[str, int] = {}
    for row in rows:
        sums[row.group[0]] = sums.get(row.group[0], 0) + row.amount
    return [sums.get(name, 0) for name in names]
