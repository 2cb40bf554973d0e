"""``Newest`` over any ledger, by reading the period: the reference for stores that go backwards themselves."""

import heapq
from collections.abc import Callable

from farthing.adapters.ledger_query import is_unbooked, query_value
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery
from farthing.ports.books import Ledger


class ReadNewest:
    """Reads all entries of the period and keeps the newest; the cursor is ``<received_at_ms>.<id>``."""

    def __init__(self, opener: Callable[[], Ledger]) -> None:
        self._opener = opener

    def newest_entries(self, query: LedgerQuery, *, before: str, limit: int) -> tuple[tuple[LedgerEntry, ...], str]:
        moment, _, name = before.partition(".")
        edge = (int(moment), name) if moment.isdigit() else None
        wanted = (
            entry
            for entry in self._opener().entries(since_ms=query.since_ms or 0)
            if (query.until_ms is None or entry.received_at_ms < query.until_ms)
            and (edge is None or (entry.received_at_ms, entry.id) < edge)
            and all(query_value(entry, dimension) == value for dimension, value in query.where)
        )
        found = heapq.nlargest(limit + 1, wanted, key=lambda entry: (entry.received_at_ms, entry.id))
        page = tuple(found[:limit])
        return page, f"{page[-1].received_at_ms}.{page[-1].id}" if len(found) > limit else ""

    def newest_unbooked(self, query: LedgerQuery, *, before: str, limit: int) -> tuple[tuple[Exchange, ...], str]:
        moment, _, name = before.partition(".")
        edge = (int(moment), name) if moment.isdigit() else None
        wanted = (
            one
            for one in self._opener().exchanges(since_ms=query.since_ms or 0)
            if is_unbooked(one, query) and (edge is None or (one.received_at_ms, one.request_id) < edge)
        )
        found = heapq.nlargest(limit + 1, wanted, key=lambda one: (one.received_at_ms, one.request_id))
        page = tuple(found[:limit])
        return page, f"{page[-1].received_at_ms}.{page[-1].request_id}" if len(found) > limit else ""

    def exchange(self, request_id: str) -> Exchange | None:
        first = next(self._opener().entries(request_id=request_id), None)
        since_ms = first.received_at_ms if first is not None else 0
        found = (one for one in self._opener().exchanges(since_ms=since_ms) if one.request_id == request_id)
        return next(found, None)
