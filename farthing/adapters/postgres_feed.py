"""Following the PostgreSQL ledger record by record without missing one."""

from collections.abc import Iterator
from typing import Final, Literal

import psycopg

from farthing.adapters.postgres import PostgresLedger
from farthing.core.types import Exchange, LedgerEntry

LOCK_MS: Final = 300
"""How long writers may be kept waiting; they have their journal."""


class PostgresFeed(PostgresLedger):
    """``Ledger`` for readers that remember the last record they saw.

    Numbers are given when a row is inserted, but rows appear when their transaction ends, so one may appear after one
    with a larger number. What is read here ends at a row that was the last when nobody was inserting.
    """

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]:
        last = self._last_settled("entries")
        if last in ("", after):
            return
        for entry in super().entries(request_id=request_id, since_ms=since_ms, after=after):
            yield entry
            if entry.id == last:
                return

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]:
        last = self._last_settled("exchanges")
        if last in ("", after):
            return
        for exchange in super().exchanges(since_ms=since_ms, after=after):
            yield exchange
            if exchange.request_id == last:
                return

    def last_settled(self) -> str:
        """The id of the last entry before which none can appear any more; "" when that cannot be said now."""
        return self._last_settled("entries")

    def _last_settled(self, table: Literal["entries", "exchanges"]) -> str:
        """The id of the last row before which no row can appear any more; empty when that cannot be said now."""
        column = "id" if table == "entries" else "request_id"
        with self._using() as connection:
            try:
                with connection.transaction():
                    connection.execute(f"SET LOCAL lock_timeout = '{LOCK_MS}ms'".encode())
                    connection.execute(f"LOCK TABLE {table} IN SHARE MODE".encode())
                    row = connection.execute(
                        f"SELECT {column} FROM {table} ORDER BY seq DESC LIMIT 1".encode()
                    ).fetchone()
            except psycopg.errors.LockNotAvailable:
                return ""
        return str(row[0]) if row is not None else ""
