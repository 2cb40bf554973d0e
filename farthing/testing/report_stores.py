"""Farthing's stores filled with given records, for the report contract: ``fill(home, entries, exchanges)``."""

from collections.abc import Sequence
from pathlib import Path

from farthing.adapters.clickhouse import ClickHouseLedger, ClickHouseSink, migrate
from farthing.adapters.duckdb_ledger import DuckDBLedger
from farthing.adapters.parquet import ParquetExport
from farthing.adapters.postgres import PostgresImporter, PostgresLedger
from farthing.adapters.rollup_job import Rollups
from farthing.adapters.rollup_ledger import RollupLedger
from farthing.adapters.sqlite_import import SqliteImporter
from farthing.adapters.sqlite_reader import SqliteLedger
from farthing.core.types import Exchange, LedgerEntry
from farthing.ports.books import Ledger
from farthing.testing.clickhouse import InProcessClickHouse
from farthing.testing.servers import postgres_url
from farthing.testing.stores import namespace_of


def sqlite(home: Path, entries: Sequence[LedgerEntry], exchanges: Sequence[Exchange]) -> Ledger:
    """The SQLite ledger."""
    importer = SqliteImporter(home / "farthing.db")
    importer.import_batch(entries, exchanges)
    importer.close()
    return SqliteLedger(home / "farthing.db")


def postgres(home: Path, entries: Sequence[LedgerEntry], exchanges: Sequence[Exchange]) -> Ledger:
    """The ledger in PostgreSQL."""
    url, namespace = postgres_url(), namespace_of(home)
    importer = PostgresImporter(url, namespace)
    importer.import_batch(entries, exchanges)
    importer.close()
    return PostgresLedger(url, namespace)


def parquet(home: Path, entries: Sequence[LedgerEntry], exchanges: Sequence[Exchange]) -> Ledger:
    """An export in two runs, so that the second one finds days and requests that the first one wrote."""
    half = len(entries) // 2
    sqlite(home, entries[:half], exchanges[: len(exchanges) // 2])
    ParquetExport(home / "farthing.db", home / "parquet").run()
    sqlite(home, entries, exchanges)
    ParquetExport(home / "farthing.db", home / "parquet").run()
    return DuckDBLedger(home / "parquet")


def clickhouse(home: Path, entries: Sequence[LedgerEntry], exchanges: Sequence[Exchange]) -> Ledger:
    """ClickHouse's engine in this process; every third batch is delivered twice, once with other borders."""
    server = InProcessClickHouse()
    migrate(server)
    sink = ClickHouseSink(server)
    for number, batch in enumerate(_batches(entries, 5_000)):
        sink.put_entries(batch)
        if number % 3 == 0:
            sink.put_entries(batch)
            sink.put_entries(batch[: len(batch) // 2 + 1])
    sink.put_exchanges(exchanges)
    sink.put_exchanges(exchanges[:7])
    return ClickHouseLedger(server)


def _batches(entries: Sequence[LedgerEntry], size: int) -> list[Sequence[LedgerEntry]]:
    return [entries[start : start + size] for start in range(0, len(entries), size)]


def rolled(home: Path, entries: Sequence[LedgerEntry], exchanges: Sequence[Exchange]) -> Ledger:
    """The SQLite ledger with roll-ups of most of it, made batch by batch while it grew; the rest came later."""
    sqlite(home, entries[: len(entries) // 2], exchanges)
    rollups = Rollups(home / "farthing.db", home / "rollups.db")
    while rollups.step(now_ms=0, batch=997).left:
        pass
    ledger = sqlite(home, entries[: len(entries) * 9 // 10], ())
    while rollups.step(now_ms=0, batch=1_511).left:
        pass
    rollups.close()
    ledger = sqlite(home, entries, ())
    assert isinstance(ledger, SqliteLedger)
    return RollupLedger(ledger, home / "rollups.db")
