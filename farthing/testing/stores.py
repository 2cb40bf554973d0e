"""Farthing's own stores behind one signature, for the conformance kit: ``open(home, worker) -> books``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from farthing.adapters.memory import MemoryBooks
from farthing.adapters.sqlite import SqliteBooks
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery, Totals
from farthing.ports.books import Books


class BooksUnderTest(Books, Protocol):
    """What the conformance kit uses of a store: ``Books`` and ``Ledger`` in one object."""

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]: ...

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]: ...

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]: ...

    async def prune(self, before_ms: int) -> int: ...


async def open_memory(home: Path, worker: str) -> BooksUnderTest:
    """The reference; ``home`` and ``worker`` mean nothing to it."""
    return MemoryBooks()


async def open_sqlite(home: Path, worker: str) -> BooksUnderTest:
    """SQLite with strict durability."""
    books = SqliteBooks(home / "books.db", worker=worker)
    await books.start()
    return books


async def open_sqlite_relaxed(home: Path, worker: str) -> BooksUnderTest:
    """SQLite with relaxed durability."""
    books = SqliteBooks(home / "books.db", worker=worker, durability="relaxed")
    await books.start()
    return books
