"""How pages read the books: within one person's scope, and closed days once for all."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

import msgspec

from farthing.core.dimensions import scope_value
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery, Totals
from farthing.insight.series import add, day_ms
from farthing.ports.books import Ledger, Newest, Ranked, RolledUp, Steady
from farthing.server.pages.remembering import Remembering
from farthing.server.pages.state import DAY_MS, Where

CLOSED_S: Final = 300.0
"""How long the answer about closed days is kept: a correction of the past shows after that at the latest."""
REOPEN_S: Final = 60.0
"""How often an export is opened anew, to see what was added."""
LOOK_BACK_DAYS: Final = 40

Groups = tuple[tuple[str, ...], ...]
Amounts = Mapping[tuple[str, ...], tuple[int, int]]
Opener = Callable[[], Ledger]


class ScopedLedger:
    """A ledger of which one person sees a part. The only place where scope is enforced: every page, twin and API
    answer reads through here, and what is not asked of this object cannot be shown."""

    def __init__(self, inner: Ledger, newest: Newest, scope: Where) -> None:
        """``scope``: dimensions with the values that bind all that is read; empty: everything."""
        self._inner = inner
        self._newest = newest
        self.scope = scope

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]:
        return self._inner.totals(self._bound(query))

    def answers(self, query: LedgerQuery) -> bool:
        """See :class:`farthing.ports.books.RolledUp`."""
        return isinstance(self._inner, RolledUp) and self._inner.answers(self._bound(query))

    def cells(self, query: LedgerQuery) -> int | None:
        """See :class:`farthing.ports.books.Ranked`; 0 where no sums are kept, and where an export is read."""
        found = self._inner.cells(self._bound(query)) if isinstance(self._inner, Ranked) else 0
        return 0 if found is None and self.quick(query) else found

    def amounts(self, query: LedgerQuery) -> Amounts:
        """See :class:`farthing.ports.books.Ranked`."""
        if isinstance(self._inner, Ranked):
            return self._inner.amounts(self._bound(query))
        return {row.group: (row.amount, row.entries) for row in self.totals(query)}

    def some(self, query: LedgerQuery, groups: Sequence[tuple[str, ...]]) -> tuple[Totals, ...]:
        """See :class:`farthing.ports.books.Ranked`."""
        if isinstance(self._inner, Ranked):
            return self._inner.some(self._bound(query), groups)
        wanted = set(groups)
        return tuple(row for row in self.totals(query) if row.group in wanted)

    def gather(self, query: LedgerQuery) -> None:
        """See :class:`farthing.ports.books.Steady`."""
        if isinstance(self._inner, Steady):
            self._inner.gather(self._bound(query))

    def quick(self, query: LedgerQuery) -> bool:
        """True where a long period costs hardly more than a short one: sums are ready, or an export is read."""
        return self.answers(query) or (isinstance(self._inner, RememberedLedger) and self._inner.reads_export)

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]:
        found = self._inner.entries(request_id=request_id, since_ms=since_ms, after=after)
        return (entry for entry in found if self._sees(entry))

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]:
        return (one for one in self._inner.exchanges(since_ms=since_ms, after=after) if self._sees(one))

    def newest_entries(self, query: LedgerQuery, *, before: str, limit: int) -> tuple[tuple[LedgerEntry, ...], str]:
        """See :class:`farthing.ports.books.Newest`."""
        return self._newest.newest_entries(self._bound(query), before=before, limit=limit)

    def newest_unbooked(self, query: LedgerQuery, *, before: str, limit: int) -> tuple[tuple[Exchange, ...], str]:
        """See :class:`farthing.ports.books.Newest`."""
        return self._newest.newest_unbooked(self._bound(query), before=before, limit=limit)

    def exchange(self, request_id: str) -> Exchange | None:
        """One request of the traffic log; None when it is not there or another's."""
        found = self._newest.exchange(request_id)
        return found if found is not None and self._sees(found) else None

    def _bound(self, query: LedgerQuery) -> LedgerQuery:
        return msgspec.structs.replace(query, where=(*query.where, *self.scope))

    def _sees(self, one: LedgerEntry | Exchange) -> bool:
        return all(scope_value(one.scope, name) == value for name, value in self.scope)


class RememberedLedger:
    """Answers about closed days are remembered; what is younger is asked anew. Any thread.

    A question that roll-ups answer is asked as it is. Any other is split where the open part begins, and both answers
    are added up group by group: the ledger's own answer, where all entries of a request bear the moment at which it
    was received.
    """

    def __init__(
        self,
        history: Callable[[], Ledger],
        ledger: Callable[[], Ledger],
        now_ms: Callable[[], int],
        *,
        closed_s: float = CLOSED_S,
    ) -> None:
        """``history``: what closed days are read from, the ledger or an export of it; ``ledger``: what is fresh;
        ``closed_s``: how long answers about closed days are kept."""
        self._history = history
        self._ledger = ledger
        self._now_ms = now_ms
        self._closed_s = closed_s
        self._open: tuple[float, Ledger] | None = None
        self._edge: tuple[float, int] | None = None
        self._answers: Remembering[LedgerQuery, tuple[Totals, ...]] = Remembering()
        self._some: Remembering[tuple[LedgerQuery, Groups], tuple[Totals, ...]] = Remembering()
        self._amounts: Remembering[LedgerQuery, Amounts] = Remembering()
        self._one = threading.Lock()
        self._held = threading.local()

    @contextmanager
    def steady(self) -> Iterator[None]:
        """See :class:`farthing.ports.books.Steady`; threads are beside each other. Opened by the first question."""
        with ExitStack() as stack:
            self._held.stack = stack
            try:
                yield
            finally:
                self._held.stack = self._held.ledger = None

    def gather(self, query: LedgerQuery) -> None:
        """See :class:`farthing.ports.books.Steady`."""
        fresh = self._fresh()
        if isinstance(fresh, Steady) and not self.reads_export:
            fresh.gather(_open(query, self._now_ms()))

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]:
        until_ms = query.until_ms
        if self.answers(query):
            return self._ask_present(_open(query, self._now_ms()))
        edge_ms = self._edge_ms()
        if until_ms is not None and until_ms <= edge_ms:
            return self._ask_past(query)
        live = _open(query, self._now_ms())
        if (query.since_ms or 0) >= edge_ms:
            return self._ask_present(live)
        past = self._ask_past(msgspec.structs.replace(query, until_ms=edge_ms))
        return _added(past, self._ask_present(msgspec.structs.replace(live, since_ms=edge_ms)))

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]:
        return self._ledger().entries(request_id=request_id, since_ms=since_ms, after=after)

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]:
        return self._ledger().exchanges(since_ms=since_ms, after=after)

    def answers(self, query: LedgerQuery) -> bool:
        """See :class:`farthing.ports.books.RolledUp`."""
        fresh = self._fresh()
        return isinstance(fresh, RolledUp) and fresh.answers(query)

    def cells(self, query: LedgerQuery) -> int | None:
        """See :class:`farthing.ports.books.Ranked`; 0 where no sums are kept."""
        fresh = self._fresh()
        return fresh.cells(_open(query, self._now_ms())) if isinstance(fresh, Ranked) else 0

    def amounts(self, query: LedgerQuery) -> Amounts:
        """See :class:`farthing.ports.books.Ranked`."""
        fresh, live = self._fresh(), _open(query, self._now_ms())
        if isinstance(fresh, Ranked):
            return self._amounts.ask(live, lambda: fresh.amounts(live))
        return {row.group: (row.amount, row.entries) for row in self.totals(query)}

    def some(self, query: LedgerQuery, groups: Sequence[tuple[str, ...]]) -> tuple[Totals, ...]:
        """See :class:`farthing.ports.books.Ranked`."""
        fresh, live = self._fresh(), _open(query, self._now_ms())
        if isinstance(fresh, Ranked):
            return self._some.ask((live, tuple(groups)), lambda: fresh.some(live, groups))
        wanted = set(groups)
        return tuple(row for row in self.totals(query) if row.group in wanted)

    @property
    def reads_export(self) -> bool:
        """Closed days are read from a copy that is made for sums."""
        return self._history != self._ledger

    def _fresh(self) -> Ledger:
        held: Ledger | None = getattr(self._held, "ledger", None)
        if held is not None:
            return held
        fresh, stack = self._ledger(), getattr(self._held, "stack", None)
        if stack is not None and isinstance(fresh, Steady):
            stack.enter_context(fresh.steady())
            self._held.ledger = fresh
        return fresh

    def _edge_ms(self) -> int:
        """Where the open part begins: today, or the last day that the export has when that is earlier."""
        now_ms = self._now_ms()
        today_ms = now_ms - now_ms % DAY_MS
        if self._history == self._ledger:
            return today_ms
        known = self._edge
        if known is None or known[0] < time.monotonic():
            days = self._past(LedgerQuery(group_by=("day",), since_ms=today_ms - LOOK_BACK_DAYS * DAY_MS))
            last = max((row.group[0] for row in days), default="")
            at_ms = day_ms(last) if last else today_ms - LOOK_BACK_DAYS * DAY_MS
            known = self._edge = (time.monotonic() + REOPEN_S, at_ms)
        return min(today_ms, known[1])

    def _past(self, query: LedgerQuery) -> tuple[Totals, ...]:
        """From the history, which stays open for a while: opening an export takes longer than asking it."""
        if self._history == self._ledger:
            return self._fresh().totals(query)
        with self._one:
            if self._open is None or self._open[0] < time.monotonic():
                if self._open is not None:
                    _close(self._open[1])
                self._open = (time.monotonic() + REOPEN_S, self._history())
            return self._open[1].totals(query)

    def _ask_past(self, query: LedgerQuery) -> tuple[Totals, ...]:
        return self._answers.ask(query, lambda: self._past(query), keep_s=self._closed_s)

    def _ask_present(self, query: LedgerQuery) -> tuple[Totals, ...]:
        return self._answers.ask(query, lambda: self._fresh().totals(query))


def _added(first: tuple[Totals, ...], second: tuple[Totals, ...]) -> tuple[Totals, ...]:
    groups = {row.group: row for row in first}
    for row in second:
        groups[row.group] = add((groups[row.group], row), row.group) if row.group in groups else row
    return tuple(groups[group] for group in sorted(groups))


def _close(ledger: Ledger) -> None:
    close = getattr(ledger, "close", None)
    if close is not None:
        close()


def _open(query: LedgerQuery, now_ms: int) -> LedgerQuery:
    """The query without an end in the present, so that the same page a moment later is the same question."""
    near = query.until_ms is not None and abs(query.until_ms - now_ms) < 60_000
    return msgspec.structs.replace(query, until_ms=None) if near else query
