"""How pages read the books: within one person's scope, and closed days once for all."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from farthing.core.dimensions import scope_value
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery, Totals
from farthing.ports.books import Ledger, Newest
from farthing.server.pages.state import DAY_MS, Where

CLOSED_S: Final = 300.0
"""How long the answer about closed days is kept: a correction of the past shows after that at the latest."""
LIVE_S: Final = 2.0
ANSWERS_MAX: Final = 512


class ScopedLedger:
    """A ledger of which one person sees a part. The only place where scope is enforced: every page, twin and API
    answer reads through here, and what is not asked of this object cannot be shown."""

    def __init__(self, inner: Ledger, newest: Newest, scope: Where) -> None:
        """``scope``: dimensions with the values that bind all that is read; empty: everything."""
        self._inner = inner
        self._newest = newest
        self.scope = scope

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]:
        return self._inner.totals(msgspec.structs.replace(query, where=(*query.where, *self.scope)))

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]:
        found = self._inner.entries(request_id=request_id, since_ms=since_ms, after=after)
        return (entry for entry in found if self._sees(entry))

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]:
        return (one for one in self._inner.exchanges(since_ms=since_ms, after=after) if self._sees(one))

    def newest_entries(self, query: LedgerQuery, *, before: str, limit: int) -> tuple[tuple[LedgerEntry, ...], str]:
        """See :class:`farthing.ports.books.Newest`."""
        bound = msgspec.structs.replace(query, where=(*query.where, *self.scope))
        return self._newest.newest_entries(bound, before=before, limit=limit)

    def exchange(self, request_id: str) -> Exchange | None:
        """One request of the traffic log; None when it is not there or another's."""
        found = self._newest.exchange(request_id)
        return found if found is not None and self._sees(found) else None

    def _sees(self, one: LedgerEntry | Exchange) -> bool:
        return all(scope_value(one.scope, name) == value for name, value in self.scope)


class RememberedLedger:
    """Answers about closed days are remembered; today is asked anew. Any thread; no question is asked twice at once.

    A query grouped by day or hour is split where today begins: the groups of both parts are disjoint, so that the
    answer is the ledger's own.
    """

    def __init__(self, opener: Callable[[], Ledger], now_ms: Callable[[], int]) -> None:
        self._opener = opener
        self._now_ms = now_ms
        self._answers: OrderedDict[LedgerQuery, tuple[float, tuple[Totals, ...]]] = OrderedDict()
        self._asking: dict[LedgerQuery, threading.Lock] = {}
        self._lock = threading.Lock()

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]:
        now_ms = self._now_ms()
        today_ms = now_ms - now_ms % DAY_MS
        until_ms = query.until_ms
        if until_ms is not None and until_ms <= today_ms:
            return self._ask(query, CLOSED_S)
        days = any(name in ("day", "hour") for name in query.group_by)
        if not days or (query.since_ms or 0) >= today_ms:
            return self._ask(_open(query, now_ms), LIVE_S)
        past = self._ask(msgspec.structs.replace(query, until_ms=today_ms), CLOSED_S)
        live = self._ask(_open(msgspec.structs.replace(query, since_ms=today_ms), now_ms), LIVE_S)
        return tuple(sorted((*past, *live), key=lambda row: row.group))

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]:
        return self._opener().entries(request_id=request_id, since_ms=since_ms, after=after)

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]:
        return self._opener().exchanges(since_ms=since_ms, after=after)

    def _ask(self, query: LedgerQuery, keep_s: float) -> tuple[Totals, ...]:
        with self._lock:
            known = self._answers.get(query)
            asking = self._asking.setdefault(query, threading.Lock())
        if known is not None and known[0] > time.monotonic():
            return known[1]
        with asking:
            with self._lock:
                known = self._answers.get(query)
            if known is not None and known[0] > time.monotonic():
                return known[1]
            ledger = self._opener()
            try:
                rows = ledger.totals(query)
            finally:
                close = getattr(ledger, "close", None)
                if close is not None:
                    close()
        with self._lock:
            self._answers[query] = (time.monotonic() + keep_s, rows)
            self._answers.move_to_end(query)
            while len(self._answers) > ANSWERS_MAX:
                self._asking.pop(self._answers.popitem(last=False)[0], None)
            if query not in self._answers:
                self._asking.pop(query, None)
        return rows


def _open(query: LedgerQuery, now_ms: int) -> LedgerQuery:
    """The query without an end in the present, so that the same page a moment later is the same question."""
    near = query.until_ms is not None and abs(query.until_ms - now_ms) < 60_000
    return msgspec.structs.replace(query, until_ms=None) if near else query
