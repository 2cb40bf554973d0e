"""Questions that no sums answer are cut to the newest hours that can be read at once; the page says so."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec

from farthing.core.types import LedgerQuery, Totals
from farthing.server.pages.ask import Ask
from farthing.server.pages.blocks import Note

READ_MAX: Final = 80_000
"""Entries that a page reads: about a second of SQLite's time."""
SUMMED_MAX: Final = 1_000_000
"""Entries behind the sums that a page reads where there may be a sum for every few of them."""


MANY: Final = ("session", "user", "customer", "hour")
"""Dimensions with so many values that sums of a long period are many, too."""


def bounded(ask: Ask, query: LedgerQuery) -> tuple[LedgerQuery, tuple[Note, ...]]:
    """The query with its period cut where it would take seconds, and the note that says so.

    For questions about very many values (sessions, traces), and for those whose sums are made only after somebody
    asked. An hour is read whole, one at least.
    """
    if query.since_ms is None:
        return query, ()
    most = SUMMED_MAX if ask.ledger.quick(query) else READ_MAX
    if most == SUMMED_MAX and _is_narrow(query):
        return query, ()
    by_hour = LedgerQuery(group_by=("hour",), since_ms=query.since_ms, until_ms=query.until_ms)
    first = newest_hours(ask.ledger.totals(by_hour), most)
    if not first:
        return query, ()
    text = (
        f"Read are at most {most:,} entries: this is since {first.replace('T', ' ')}:00 UTC."
        " Choose another period to go back."
    )
    at = datetime.fromisoformat(f"{first}:00:00").replace(tzinfo=UTC)
    since_ms = int(at.timestamp()) * 1000
    return msgspec.structs.replace(query, since_ms=since_ms), (Note(text=text, tone="warn"),)


def _is_narrow(query: LedgerQuery) -> bool:
    """Few values whatever the period: none of the dimensions is one of single conversations or people."""
    return not any(name in MANY or name.startswith("tag:") for name in query.group_by)


def newest_hours(rows: Iterable[Totals], most: int) -> str:
    """The first of the newest hours that have at most so many entries together, one at least; "" where all fit.
    ``rows`` are grouped by hour."""
    left, first = most, ""
    for row in sorted(rows, key=lambda row: row.group, reverse=True):
        left -= row.entries
        if left < 0 and first:
            return first
        first = row.group[0]
    return ""
