"""Questions that would take long are cut to the newest hours that can be read at once; the page says so."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec

from farthing.core.types import LedgerQuery, Totals
from farthing.server.pages.ask import Ask
from farthing.server.pages.blocks import Link, Note
from farthing.server.pages.state import DAY_MS

HOUR_MS: Final = 3_600_000
READ_MAX: Final = 80_000
"""Entries that a page reads: about a second of SQLite's time."""
SUMMED_MAX: Final = 1_000_000
"""Entries behind the sums that a page reads where there may be a sum for every few of them."""
QUICK_ENTRIES: Final = 12_000
"""Entries that a page reads which is there at once: about 80 ms of SQLite's time for all it asks."""
QUICK_CELLS: Final = 60_000
"""Sums that such a page adds up."""
HOUR_CELLS: Final = 2
"""A sum of an hour takes as long as so many of days: there are more, and disks have them less often in memory."""
GROUP_CELLS: Final = 7
"""A sum that is a group of its own takes as long as so many that are added to others."""
WHOLE: Final = "whole"
"""In an address: read everything, however long it takes."""

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
    return msgspec.structs.replace(query, since_ms=_hour_ms(first)), (Note(text=text, tone="warn"),)


def at_once(
    ask: Ask, query: LedgerQuery, *, times: int = 1, chart: LedgerQuery | None = None
) -> tuple[LedgerQuery, tuple[Note, ...]]:
    """The query with its period cut where the page would not be there at once, and the note that says so.

    Files and answers for programs are whole, and so is a page whose address says so. ``times``: so many periods of
    this length are asked about. ``chart``: what else is asked about the period.
    """
    if ask.form != "html" or WHOLE in ask.state.rest or query.since_ms is None or query.until_ms is None:
        return query, ()
    length_ms = (query.until_ms - query.since_ms) * times
    together = msgspec.structs.replace(query, since_ms=max(0, query.until_ms - length_ms))
    cells = ask.ledger.cells(together)
    if cells is None:
        since_ms, what = _newest_entries(ask, together, QUICK_ENTRIES), "entries"
    else:
        each = GROUP_CELLS if {"day", "hour"} & set(query.group_by) else 1
        since_ms, what = _newest_days(ask, together, cells, each), "sums"
        if chart is not None and "hour" in chart.group_by:
            since_ms = max(since_ms, _newest_days(ask, chart, ask.ledger.cells(chart) or 0, HOUR_CELLS))
    if not since_ms:
        if not ask.ledger.answers(query):
            _gather(ask, query, query.since_ms, times)
        return query, ()
    since_ms = query.until_ms - (query.until_ms - since_ms) // times
    since_ms = max(query.since_ms, since_ms if cells is None else since_ms - since_ms % HOUR_MS)
    if cells is None:
        _gather(ask, query, since_ms, times)
    at = datetime.fromtimestamp(since_ms / 1000, UTC)
    text = (
        f"These groups together are many {what}, or are asked for the first time: shown is since {at:%Y-%m-%d %H:%M}"
        " UTC only. What is asked for is summed in the background and there in some minutes; or read everything now,"
        " which takes a while. The twins for programs (.json, .csv) are always whole."
    )
    everything = Link(text="The whole period", href=ask.state.href(**{WHOLE: 1}))
    return msgspec.structs.replace(query, since_ms=since_ms), (Note(text=text, tone="warn", links=(everything,)),)


def _gather(ask: Ask, query: LedgerQuery, since_ms: int, times: int) -> None:
    """Reads once what the page asks about: the period from there on and, for ``times`` 2, the one before it."""
    assert query.until_ms is not None, "cut periods end"
    begins_ms = max(0, query.until_ms - (query.until_ms - since_ms) * times)
    ask.ledger.gather(msgspec.structs.replace(query, since_ms=begins_ms))


def is_nothing(ask: Ask, query: LedgerQuery) -> bool:
    """True where sums that are quickly added up say that no entry matches."""
    whole = msgspec.structs.replace(query, group_by=())
    cells = ask.ledger.cells(whole)
    return cells is not None and 0 < cells <= QUICK_CELLS and not ask.ledger.amounts(whole)


def _newest_entries(ask: Ask, query: LedgerQuery, most: int) -> int:
    """Since when there are about so many entries; 0 where all of the period are fewer."""
    since_ms, until_ms = query.since_ms or 0, query.until_ms or ask.now_ms
    for start_ms in dict.fromkeys((max(since_ms, until_ms - DAY_MS), since_ms)):
        whole_ms = start_ms - start_ms % HOUR_MS  # a part of an hour would be read entry by entry
        by_hour = ask.ledger.amounts(LedgerQuery(group_by=("hour",), since_ms=whole_ms, until_ms=query.until_ms))
        left = most
        for (hour,), (_, entries) in sorted(by_hour.items(), reverse=True):
            if entries > left:
                begins_ms = max(start_ms, _hour_ms(hour))
                ends_ms = min(begins_ms + HOUR_MS, until_ms)
                return ends_ms - max(1, (ends_ms - begins_ms) * left // entries)
            left -= entries
    return 0


def _newest_days(ask: Ask, query: LedgerQuery, cells: int, each: int) -> int:
    """Since when there are about as many sums as are quick, one day at least; 0 where all of the period are fewer.
    ``each``: what one of them counts."""
    since_ms, until_ms = query.since_ms or 0, query.until_ms or ask.now_ms
    while cells * each > QUICK_CELLS and until_ms - since_ms > DAY_MS:  # a period may be longer than the ledger
        kept_ms = (until_ms - since_ms) * QUICK_CELLS // (cells * each)
        since_ms = until_ms - max(DAY_MS, min(kept_ms, (until_ms - since_ms) * 9 // 10))
        cells = ask.ledger.cells(msgspec.structs.replace(query, since_ms=since_ms)) or 0
    return 0 if since_ms == query.since_ms else since_ms


def _is_narrow(query: LedgerQuery) -> bool:
    """Few values whatever the period: none of the dimensions is one of single conversations or people."""
    return not any(name in MANY or name.startswith("tag:") for name in query.group_by)


def _hour_ms(hour: str) -> int:
    return int(datetime.fromisoformat(f"{hour}:00:00").replace(tzinfo=UTC).timestamp()) * 1000


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
