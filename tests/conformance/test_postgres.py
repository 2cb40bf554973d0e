"""PostgreSQL alone keeps the books contract."""

from farthing.testing.contracts import DurableBooksContract


class TestPostgresBooks(DurableBooksContract):
    opener = "farthing.testing.stores:open_postgres"
