"""Parquet exports and the commands around them."""

import random

import pytest
from click.testing import CliRunner
from pyarrow import parquet

from farthing.adapters.duckdb_ledger import DuckDBLedger
from farthing.adapters.ledger_query import entry_totals
from farthing.adapters.parquet import ParquetExport, export_ledger
from farthing.adapters.parquet_rows import TAGS_MAX, TagColumns
from farthing.adapters.sqlite_import import SqliteImporter
from farthing.adapters.sqlite_reader import SqliteLedger
from farthing.cli import main
from farthing.core.errors import ConfigError, StoreUnavailable
from farthing.core.types import LedgerQuery, Scope
from farthing.testing.lifelike import lifelike_entries
from farthing.testing.records import an_entry, an_exchange

DAY_MS = 86_400_000


def book(path, entries, exchanges=()):
    importer = SqliteImporter(path)
    importer.import_batch(entries, exchanges)
    importer.close()


def test_a_second_run_writes_only_days_that_changed(tmp_path):
    path, out = tmp_path / "farthing.db", tmp_path / "out"
    book(path, [an_entry(f"e{day}", received_at_ms=day * DAY_MS) for day in range(1, 9)])
    assert ParquetExport(path, out).run().days == 8
    assert ParquetExport(path, out).run().days == 0
    book(path, [an_entry("late", request_id="request-e2", received_at_ms=5 * DAY_MS)])
    done = ParquetExport(path, out).run()
    assert (done.days, done.entries) == (2, 3)  # the day of the new entry, and that of its request
    assert DuckDBLedger(out).totals(LedgerQuery())[0].requests == 8


def test_a_run_that_was_broken_off_is_done_again(tmp_path):
    path, out = tmp_path / "farthing.db", tmp_path / "out"
    book(path, [an_entry("a", received_at_ms=DAY_MS)], [an_exchange("r1", received_at_ms=DAY_MS)])
    ParquetExport(path, out).run()
    noted = (out / "farthing-export.json").read_bytes()
    book(path, [an_entry("b", received_at_ms=DAY_MS)], [an_exchange("r2", received_at_ms=DAY_MS)])
    ParquetExport(path, out).run()
    (out / "farthing-export.json").write_bytes(noted)  # as a crash would have left it
    book(path, [an_entry("c", received_at_ms=DAY_MS)], [an_exchange("r3", received_at_ms=DAY_MS)])
    ParquetExport(path, out).run()
    ledger = DuckDBLedger(out)
    assert [entry.id for entry in ledger.entries()] == ["a", "b", "c"]
    assert [one.request_id for one in ledger.exchanges()] == ["r1", "r2", "r3"]


def test_exported_traffic_stays_when_the_ledger_prunes_it(tmp_path):
    path, out = tmp_path / "farthing.db", tmp_path / "out"
    book(path, [], [an_exchange("r1", received_at_ms=DAY_MS)])
    ParquetExport(path, out).run()
    importer = SqliteImporter(path)
    importer._connection.execute("DELETE FROM exchanges")
    importer.close()
    book(path, [], [an_exchange("r2", received_at_ms=DAY_MS)])
    ParquetExport(path, out).run()
    assert {one.request_id for one in DuckDBLedger(out).exchanges()} == {"r1", "r2"}


def test_another_ledgers_folder_is_refused(tmp_path):
    for name in ("one", "two"):
        book(tmp_path / name, [an_entry(name)])
    ParquetExport(tmp_path / "one", tmp_path / "out").run()
    with pytest.raises(ConfigError, match="another ledger"):
        ParquetExport(tmp_path / "two", tmp_path / "out").run()


def test_any_ledger_can_be_exported_and_continued(tmp_path):
    entries = list(lifelike_entries(2_000, seed=4))
    book(tmp_path / "farthing.db", entries[:1_500])
    ledger = SqliteLedger(tmp_path / "farthing.db")
    for count in (1_500, 2_000):
        book(tmp_path / "farthing.db", entries[:count])
        export_ledger(ledger, tmp_path / "out", scratch=tmp_path / "scratch.db")
        query = LedgerQuery(group_by=("day", "user"))
        assert DuckDBLedger(tmp_path / "out").totals(query) == entry_totals(entries[:count], query)


def test_files_are_sorted_and_readable_by_other_tools(tmp_path):
    entries = list(lifelike_entries(500, seed=6))
    book(tmp_path / "farthing.db", entries)
    ParquetExport(tmp_path / "farthing.db", tmp_path / "out").run()
    table = parquet.read_table(tmp_path / "out" / "entries")
    assert table.num_rows == 500
    assert sum(table["amount_nusd"].drop_null().to_pylist()) == sum(e.charge.total or 0 for e in entries)
    first = parquet.read_table(min((tmp_path / "out" / "entries").rglob("*.parquet")), partitioning=None)
    order = list(zip(first["shared"].to_pylist(), first["received_at_ms"].to_pylist(), strict=True))
    assert order == sorted(order)


TAGS = (
    "env",
    "ENV",
    "quote'd",
    'double"d',
    "empty",
    "late",
    "nowhere",
    "tag:env",
    *(f"tag-{at}" for at in range(40)),
)


def tagged_days(path):
    """Three days of entries with tags of any name, more of them than get columns."""
    chance = random.Random(7)
    entries = []
    for at in range(900):
        names = sorted(chance.sample([tag for tag in TAGS if tag != "nowhere" and (tag != "late" or at > 600)], 3))
        tags = tuple((tag, "" if tag == "empty" else chance.choice(("a", "b", "it's"))) for tag in names)
        scope = Scope(team=chance.choice("xy"), tags=tags if at % 4 else ())
        entries.append(an_entry(f"e{at}", at, received_at_ms=at * DAY_MS // 300, scope=scope))
    book(path, entries)
    return entries


def forget_columns(file):
    """As an earlier release wrote the file: tags in the map only."""
    table = parquet.ParquetFile(file).read()
    plain = table.select([name for name in table.schema.names if not name.startswith("tag:")])
    parquet.write_table(plain.replace_schema_metadata(None), file)


@pytest.mark.parametrize("old", [(), (0,), (1, 2), (0, 1, 2)])
def test_tags_are_told_alike_from_columns_from_maps_and_from_files_of_before(tmp_path, old):
    entries = tagged_days(tmp_path / "farthing.db")
    ParquetExport(tmp_path / "farthing.db", tmp_path / "out").run()
    files = sorted((tmp_path / "out" / "entries").rglob("*.parquet"))
    columns = [name for name in parquet.read_schema(files[0]).names if name.startswith("tag:")]
    assert len(columns) == TAGS_MAX
    for at in old:
        forget_columns(files[at])
    ledger = DuckDBLedger(tmp_path / "out")
    asked = [LedgerQuery(group_by=(f"tag:{tag}",)) for tag in TAGS]
    asked += [
        LedgerQuery(group_by=("tag:env", "team", "tag:ENV"), since_ms=DAY_MS // 2),
        LedgerQuery(group_by=("tag:late", "day"), where=(("tag:env", "it's"), ("tag:nowhere", ""))),
        LedgerQuery(where=(("tag:quote'd", "a"),)),
    ]
    for query in asked:
        assert ledger.totals(query) == entry_totals(entries, query), query
    assert list(ledger.entries()) == entries


def test_names_that_differ_in_case_only_share_no_column():
    found = TagColumns.of(["env", "Env", "b"])
    assert (found.columns, found.others) == (("env", "b"), True)
    assert TagColumns.of(["b"]) == TagColumns(columns=("b",))


def test_a_folder_without_an_export_says_how_to_make_one(tmp_path):
    with pytest.raises(StoreUnavailable, match="farthing export parquet"):
        DuckDBLedger(tmp_path)


def run(home, *arguments):
    return CliRunner().invoke(main, ["--home", str(home), *arguments], catch_exceptions=False)


def test_the_report_is_the_same_text_from_ledger_and_parquet(tmp_path):
    book(tmp_path / "farthing.db", lifelike_entries(2_000, seed=8))
    made = run(tmp_path, "export", "parquet")
    assert made.exit_code == 0
    assert "2,000 entries" in made.output
    for by in ("team,model", "week,tag:env", ""):
        texts = {
            run(tmp_path, "report", "--by", by, "--until", "2027-01", "--from", source, "--format", "csv").output
            for source in ("ledger", "parquet", f"parquet:{tmp_path / 'parquet'}")
        }
        assert len(texts) == 1
        assert len(texts.pop().splitlines()) > 1


def test_an_unknown_source_is_refused_with_those_allowed(tmp_path):
    book(tmp_path / "farthing.db", [])
    said = run(tmp_path, "report", "--from", "oracle")
    assert said.exit_code == 2
    assert "parquet:DIR" in said.output
    assert "clickhouse_url is not set" in run(tmp_path, "report", "--from", "clickhouse").output
