"""Farthing's own stores keep the books contract."""

from farthing.testing.contracts import BooksContract, DurableBooksContract


class TestMemoryBooks(BooksContract):
    opener = "farthing.testing.stores:open_memory"


class TestSqliteBooks(DurableBooksContract):
    opener = "farthing.testing.stores:open_sqlite"
