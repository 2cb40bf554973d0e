"""Farthing's own stores behind one signature, for the conformance kit: ``open(home, worker) -> books``."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from farthing.adapters.leases_books import LeasedBooks
from farthing.adapters.leases_open import postgres_books, valkey_books
from farthing.adapters.memory import MemoryBooks
from farthing.adapters.sqlite import SqliteBooks
from farthing.adapters.sqlite_runs import Sizes
from farthing.core.types import (
    Denied,
    Exchange,
    Held,
    LedgerEntry,
    LedgerQuery,
    Reservation,
    Totals,
)
from farthing.ports.books import Balance, Books, Settlement
from farthing.testing.servers import postgres_url, valkey_url


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


async def open_sqlite_folding(home: Path, worker: str) -> BooksUnderTest:
    """SQLite that brings what it books into its tables all the time, in many small runs."""
    sizes = Sizes(fold_accounts=5, fold_logged=20, slice=3, part=2, accounts=12, evicted=4, run=2, runs=3, row=2)
    books = SqliteBooks(home / "books.db", worker=worker, sizes=sizes)
    await books.start()
    return books


async def open_postgres(home: Path, worker: str) -> BooksUnderTest:
    """PostgreSQL alone; ``home`` is one installation."""
    return await _opened(postgres_books(home, worker=worker, url=postgres_url(), namespace=namespace_of(home)), home)


async def open_valkey(home: Path, worker: str) -> BooksUnderTest:
    """Valkey in front of PostgreSQL; ``home`` is one installation."""
    books = valkey_books(
        home, worker=worker, url=postgres_url(), valkey_url=valkey_url(), namespace=namespace_of(home)
    )
    return await _opened(books, home)


def namespace_of(home: Path) -> str:
    """A namespace of its own for each installation on a shared server."""
    return "t" + hashlib.sha256(str(home.absolute()).encode()).hexdigest()[:16]


async def _opened(books: LeasedBooks, home: Path) -> BooksUnderTest:
    await books.start()
    return CaughtUp(books, home)


_LIVING: dict[Path, list[LeasedBooks]] = {}


class CaughtUp:
    """Leased books whose readers wait until every worker of this process has shipped what it settled.

    Between workers, figures for reading are some milliseconds old; what may be spent is exact without this.
    """

    def __init__(self, books: LeasedBooks, home: Path) -> None:
        self.books = books
        self._family = _LIVING.setdefault(home, [])
        self._family.append(books)

    async def reserve(
        self, reservation: Reservation, *, now_ms: int, stub: LedgerEntry | None = None
    ) -> Held | Denied:
        return await self.books.reserve(reservation, now_ms=now_ms, stub=stub)

    async def settle(self, settlement: Settlement, *, now_ms: int) -> None:
        await self.books.settle(settlement, now_ms=now_ms)

    async def prune(self, before_ms: int) -> int:
        return await self.books.prune(before_ms)

    def balances(self, counters: Sequence[tuple[str, str]]) -> tuple[Balance, ...]:
        self._catch_up()
        return self.books.balances(counters)

    def open_reservations(self) -> tuple[Reservation, ...]:
        return self.books.open_reservations()

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]:
        self._catch_up()
        return self.books.totals(query)

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]:
        self._catch_up()
        return self.books.entries(request_id=request_id, since_ms=since_ms, after=after)

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]:
        self._catch_up()
        return self.books.exchanges(since_ms=since_ms, after=after)

    async def close(self) -> None:
        if self.books in self._family:
            self._family.remove(self.books)
        await self.books.close()

    def _catch_up(self) -> None:
        for books in self._family:
            books.catch_up()
