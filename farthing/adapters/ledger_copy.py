"""A copy of a PostgreSQL ledger beside the gateway, in SQLite, with roll-ups: what pages and reports read at scale.

The gateway follows the ledger record by record, in the order of booking, and books each entry in the copy once, by
its id. The traffic log stays where it is. Until the copy has been complete once, readers are sent to the ledger
itself; from then on they see it as old as the last batch, about a second.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from farthing.adapters.rollup_file import FILE
from farthing.adapters.rollup_ledger import RollupLedger
from farthing.adapters.shipping import BATCH, Shipper
from farthing.adapters.sqlite_import import SqliteImporter
from farthing.adapters.sqlite_reader import SqliteLedger
from farthing.core.errors import NotFound
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery, Totals
from farthing.ports.books import Balance, Ledger

FOLDER: Final = "ledger-copy"
_LEDGER: Final = "ledger.db"
_STATE: Final = "state.json"
_COMPLETE: Final = "complete"


class CopySink:
    """``Sink`` that books in the copy."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _LEDGER
        self._importer: SqliteImporter | None = None

    def prepare(self) -> None:
        self.close()
        self._importer = SqliteImporter(self._path)

    def put_entries(self, entries: Sequence[LedgerEntry]) -> None:
        assert self._importer is not None, "prepared first"
        self._importer.import_batch(entries, ())

    def put_exchanges(self, exchanges: Sequence[Exchange]) -> None:
        """The traffic log is not copied."""

    def clear(self) -> None:
        """Forgets everything. The file stays: others have it open, and see by its contents that it is another's."""
        assert self._importer is not None, "prepared first"
        self._importer.clear()

    def close(self) -> None:
        """Closes the file."""
        if self._importer is not None:
            self._importer.close()
            self._importer = None


class Feed(Ledger, Protocol):
    """A ledger that shows entries in an order into which nothing comes later."""

    def last_settled(self) -> str:
        """The id of the last entry before which none can appear any more; "" when that cannot be said now."""
        ...


class CountingLedger(Ledger, Protocol):
    """A ledger that shows counters."""

    def balances(self, counters: Sequence[tuple[str, str]]) -> tuple[Balance, ...]: ...


class Copier(Shipper):
    """Brings the copy in ``folder`` up to date; of a ledger that has not got what was copied, it begins anew."""

    def __init__(self, ledger: Feed, folder: Path) -> None:
        self._feed = ledger
        self._complete = folder / _COMPLETE
        self._copy = CopySink(folder)
        super().__init__(ledger, self._copy, folder / _STATE, traffic=False)

    def step(self, *, now_ms: int) -> int:
        try:
            sent = super().step(now_ms=now_ms)
        except NotFound:
            self._complete.unlink(missing_ok=True)
            self._copy.clear()
            self._remember(entry="", entries=0)
            return 1
        if self.sends and sent < BATCH and not self._complete.exists() and (sent or self._is_at_the_end()):
            self._complete.touch()
        return sent

    def _is_at_the_end(self) -> bool:
        return self.state.entry == self._feed.last_settled() != ""

    def close(self) -> None:
        self._copy.close()
        super().close()


class CopiedLedger:
    """The copy for what is in it, the ledger itself for the rest: the traffic log, counters, and all before the copy
    was complete."""

    def __init__(self, ledger: CountingLedger, folder: Path) -> None:
        self._ledger = ledger
        self._folder = folder
        copy = copy_of(folder)
        self._copy = RollupLedger(copy, copy.path.parent / FILE)

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]:
        return self._entries_from.totals(query)

    def answers(self, query: LedgerQuery) -> bool:
        """See :class:`farthing.ports.books.RolledUp`."""
        return self._is_complete and self._copy.answers(query)

    def cells(self, query: LedgerQuery) -> int | None:
        """See :class:`farthing.ports.books.Ranked`."""
        return self._copy.cells(query) if self._is_complete else None

    def amounts(self, query: LedgerQuery) -> Mapping[tuple[str, ...], tuple[int, int]]:
        """See :class:`farthing.ports.books.Ranked`."""
        return self._copy.amounts(query)

    def some(self, query: LedgerQuery, groups: Sequence[tuple[str, ...]]) -> tuple[Totals, ...]:
        """See :class:`farthing.ports.books.Ranked`."""
        return self._copy.some(query, groups)

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]:
        return self._entries_from.entries(request_id=request_id, since_ms=since_ms, after=after)

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]:
        return self._ledger.exchanges(since_ms=since_ms, after=after)

    def balances(self, counters: Sequence[tuple[str, str]]) -> tuple[Balance, ...]:
        return self._ledger.balances(counters)

    def close(self) -> None:
        """Closes the ledger."""
        close = getattr(self._ledger, "close", None)
        if close is not None:
            close()

    @property
    def _is_complete(self) -> bool:
        return (self._folder / _COMPLETE).exists()

    @property
    def _entries_from(self) -> Ledger:
        return self._copy if self._is_complete else self._ledger


def copy_of(folder: Path) -> SqliteLedger:
    """The copy itself; there may be none yet."""
    return SqliteLedger(folder / _LEDGER)
