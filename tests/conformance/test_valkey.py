"""Valkey in front of PostgreSQL keeps the books contract."""

from farthing.testing.contracts import DurableBooksContract


class TestValkeyBooks(DurableBooksContract):
    opener = "farthing.testing.stores:open_valkey"
