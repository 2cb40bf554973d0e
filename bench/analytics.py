"""The same reports from every store, and how long a large month takes from Parquet.

    python bench/analytics.py --entries 1000000 --month 10000000

First part: lifelike entries from a seed are put into every store; the same reports are asked of each and compared
byte for byte, and with sums made entry by entry. Second part: a month of ``--month`` entries in Parquet, grouped by
every pair of dimensions. The last line is one JSON object:

* ``differences``: reports of some store that differ from SQLite's (must be 0);
* ``pairs``, ``over_2s``, ``slowest_s``, ``median_s``: the pairs of the second part, wall-clock, rows made and sorted;
* ``over_2_cpu_s``, ``most_cpu_s``, ``median_cpu_s``: the same in CPU-seconds of all threads, which other programs on
  the machine hardly change: on idle cores the wall-clock is this divided by almost their number;
* ``cores_got``: CPU-seconds a second over all pairs: much less than the machine's cores says that others were busy,
  and that the wall-clock is theirs, too.

``--keep DIR`` leaves the month in a folder; with a month in it, nothing is made and compared, only asked.
"""

import argparse
import itertools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import duckdb
import psycopg
from psycopg import sql
from pyarrow import parquet

from farthing.adapters.clickhouse import ClickHouseLedger, ClickHouseSink, migrate
from farthing.adapters.duckdb_ledger import DuckDBLedger
from farthing.adapters.ledger_query import entry_totals
from farthing.adapters.parquet import GROUP_ROWS, ParquetExport
from farthing.adapters.parquet_rows import MANIFEST, writer
from farthing.adapters.postgres import PostgresImporter, PostgresLedger
from farthing.adapters.sqlite_import import SqliteImporter
from farthing.adapters.sqlite_reader import SqliteLedger
from farthing.adapters.sqlite_rows import ENTRY_COLUMNS, entry_to_row
from farthing.core.dimensions import ENTRY_DIMENSIONS, SCOPE_DIMENSIONS, TIME_DIMENSIONS
from farthing.core.types import LedgerEntry, LedgerQuery
from farthing.insight.render import render
from farthing.insight.reports import spend
from farthing.ports.books import Ledger
from farthing.testing.clickhouse import InProcessClickHouse
from farthing.testing.lifelike import START_MS, lifelike_entries
from farthing.testing.servers import postgres_url

SEED = 20_261_121
BATCH = 20_000
DAY_MS = 86_400_000
REPORTS = (
    LedgerQuery(),
    LedgerQuery(group_by=("team", "model")),
    LedgerQuery(group_by=("day", "provider")),
    LedgerQuery(group_by=("week",)),
    LedgerQuery(group_by=("hour",), since_ms=START_MS + 3 * DAY_MS, until_ms=START_MS + 5 * DAY_MS + 7),
    LedgerQuery(group_by=("user", "feature")),
    LedgerQuery(group_by=("tag:env", "tag:run", "status")),
    LedgerQuery(group_by=("month", "kind", "source", "state")),
    LedgerQuery(group_by=("session",), where=(("team", "search"), ("tag:env", "prod"))),
)
PAIRED = (*SCOPE_DIMENSIONS, *ENTRY_DIMENSIONS, *TIME_DIMENSIONS, "tag:env")


def batches(entries: Iterator[LedgerEntry]) -> Iterator[list[LedgerEntry]]:
    while part := list(itertools.islice(entries, BATCH)):
        yield part


def text(ledger: Ledger, query: LedgerQuery) -> str:
    """A report as its reader gets it."""
    whole = ledger.totals(LedgerQuery(since_ms=query.since_ms, until_ms=query.until_ms, where=query.where))
    return render(spend.build(ledger.totals(query), whole, query.group_by), "csv")


def copied(url: str, namespace: str, entries: Iterator[LedgerEntry]) -> None:
    """The entries into PostgreSQL by COPY, as an operator would move a ledger there."""
    PostgresImporter(url, namespace).close()  # makes the schema
    columns = ", ".join(f'"{name}"' for name in ENTRY_COLUMNS)
    with psycopg.connect(url) as connection:
        connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(namespace)))
        with connection.cursor().copy(f"COPY entries ({columns}) FROM STDIN".encode()) as copy:
            for entry in entries:
                copy.write_row(entry_to_row(entry))
        connection.execute("ANALYZE entries")


def filled(home: Path, count: int, names: Sequence[str]) -> dict[str, Ledger]:
    """Every store with the same entries."""
    ledgers: dict[str, Ledger] = {}

    def step(name: str, fill: Callable[[], Ledger]) -> None:
        began = time.monotonic()
        ledgers[name] = fill()
        print(f"{name}: {count:,} entries in {time.monotonic() - began:.0f} s", flush=True)

    def sqlite() -> Ledger:
        importer = SqliteImporter(home / "farthing.db")
        importer.import_batch(lifelike_entries(count, seed=SEED), ())
        importer.close()
        return SqliteLedger(home / "farthing.db")

    def parquet() -> Ledger:
        ParquetExport(home / "farthing.db", home / "parquet").run()
        return DuckDBLedger(home / "parquet")

    def clickhouse() -> Ledger:
        server = InProcessClickHouse()
        migrate(server)
        sink = ClickHouseSink(server)
        for number, part in enumerate(batches(lifelike_entries(count, seed=SEED))):
            sink.put_entries(part)
            if number % 5 == 0:
                sink.put_entries(part[: BATCH // 2])  # delivered twice
        return ClickHouseLedger(server)

    def postgres() -> Ledger:
        copied(postgres_url(), "bench", lifelike_entries(count, seed=SEED))
        return PostgresLedger(postgres_url(), "bench")

    fills = {"sqlite": sqlite, "postgresql": postgres, "duckdb over parquet": parquet, "clickhouse": clickhouse}
    for name in names:
        step(name, fills[name])
    return ledgers


def compared(ledgers: dict[str, Ledger], count: int) -> int:
    """Reports that differ from SQLite's; SQLite's own sums are compared with those made entry by entry."""
    differences = 0
    for query in REPORTS[:3]:
        entries = lifelike_entries(count, seed=SEED)
        differences += ledgers["sqlite"].totals(query) != entry_totals(entries, query)
    for query in REPORTS:
        wanted = text(ledgers["sqlite"], query)
        for name, ledger in ledgers.items():
            same = text(ledger, query) == wanted and ledger.totals(query) == ledgers["sqlite"].totals(query)
            differences += not same
            if not same:
                print(f"DIFFERENT: {name} by {query}")
    return differences


def enlarge(source: Path, target: Path, times: int) -> None:
    """The month again ``times`` over, with requests of their own, in files as an export writes them."""
    connection = duckdb.connect()
    for file in sorted((source / "entries").rglob("*.parquet")):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        schema = parquet.read_schema(file)
        rows = connection.sql(
            f"""SELECT e.* REPLACE (e.seq * {times} + k AS seq, e.id || '-' || k AS id,
                    e.request_id || '-' || k AS request_id, e.amount_nusd + k AS amount_nusd)
                FROM read_parquet('{file}', hive_partitioning = false) AS e, range({times}) AS copies(k)
                ORDER BY shared, received_at_ms, e.seq"""
        ).to_arrow_reader(GROUP_ROWS)
        with writer(place, schema) as made:
            for batch in rows:
                made.write_batch(batch.cast(schema))
    shutil.copy(source / MANIFEST, target)
    connection.close()


def grouped(ledger: Ledger) -> list[tuple[float, float, int, tuple[str, str]]]:
    """(CPU-seconds of all threads, seconds, rows, dimensions) of every pair, dearest first."""
    found = []
    for pair in itertools.combinations(PAIRED, 2):
        began, cpu = time.monotonic(), time.process_time()
        rows = len(ledger.totals(LedgerQuery(group_by=pair)))
        found.append((round(time.process_time() - cpu, 2), round(time.monotonic() - began, 2), rows, pair))
    return sorted(found, reverse=True)


def asked_of(folder: Path) -> dict[str, object]:
    """Every pair of dimensions of the month in a folder."""
    month = DuckDBLedger(folder)
    (total,) = month.totals(LedgerQuery())
    pairs = grouped(month)
    size = sum(file.stat().st_size for file in folder.rglob("*.parquet"))
    print(f"a month of {total.entries:,} entries ({size / 2**20:,.0f} MiB of Parquet) by two dimensions; slowest:")
    for cpu, seconds, rows, pair in pairs[:8]:
        print(f"  {cpu:6.2f} CPU-s {seconds:6.2f} s  {rows:>9,} rows  {', '.join(pair)}")
    whole_s, whole_cpu = sum(one[1] for one in pairs), sum(one[0] for one in pairs)
    return {
        "month_entries": total.entries,
        "pairs": len(pairs),
        "over_2s": sum(seconds > 2 for _, seconds, _, _ in pairs),
        "slowest_s": max(seconds for _, seconds, _, _ in pairs),
        "median_s": round(statistics.median(seconds for _, seconds, _, _ in pairs), 2),
        "over_2_cpu_s": sum(cpu > 2 for cpu, _, _, _ in pairs),
        "most_cpu_s": pairs[0][0],
        "median_cpu_s": round(statistics.median(cpu for cpu, _, _, _ in pairs), 2),
        "cores_got": round(whole_cpu / whole_s, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--month", type=int, default=10_000_000)
    parser.add_argument(
        "--stores",
        default="sqlite,postgresql,duckdb over parquet,clickhouse",
        help="compare only these (sqlite first; without duckdb there is no second part)",
    )
    parser.add_argument("--keep", type=Path, help="leave the month in this folder; only it is asked when it is there")
    options = parser.parse_args()
    if options.keep is not None and (options.keep / MANIFEST).exists():
        print(json.dumps(asked_of(options.keep)))
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        ledgers = filled(home, options.entries, options.stores.split(","))
        differences = compared(ledgers, options.entries)
        print(f"{len(REPORTS)} reports on {len(ledgers)} stores: {differences} differences", flush=True)
        if "duckdb over parquet" not in ledgers:
            print(json.dumps({"entries": options.entries, "stores": sorted(ledgers), "differences": differences}))
            return
        month = options.keep or home / "month"
        enlarge(home / "parquet", month, max(1, options.month // options.entries))
        told = {"entries": options.entries, "stores": sorted(ledgers), "reports": len(REPORTS)}
        print(json.dumps({**told, "differences": differences, **asked_of(month)}))


if __name__ == "__main__":
    main()
