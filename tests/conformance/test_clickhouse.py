"""ClickHouse over HTTP, and the shipper: what was booked is there once, whatever breaks on the way."""

import itertools

import pytest

from farthing.adapters.clickhouse import ClickHouseLedger, ClickHouseSink
from farthing.adapters.clickhouse_http import ClickHouseHttp
from farthing.adapters.ledger_query import entry_totals
from farthing.adapters.shipping import BATCH, Shipper, read_state
from farthing.adapters.sqlite_import import SqliteImporter
from farthing.adapters.sqlite_reader import SqliteLedger
from farthing.core.errors import StoreUnavailable
from farthing.core.types import LedgerQuery
from farthing.testing.clickhouse import ClickHouseServer, InProcessClickHouse
from farthing.testing.lifelike import ODD, lifelike_entries
from farthing.testing.records import an_exchange

QUERY = LedgerQuery(group_by=("team", "model", "week"))


@pytest.fixture
def engine():
    engine = InProcessClickHouse()
    yield engine
    engine.drop()


@pytest.fixture
def books(tmp_path):
    return Books(tmp_path)


class Books:
    """A SQLite ledger that grows."""

    def __init__(self, home):
        self.home = home
        self.path = home / "farthing.db"
        self.state = home / "clickhouse.json"
        self.source = lifelike_entries(100_000, seed=9)
        self.entries = []
        self.exchanges = []
        self.grow(0)

    def grow(self, count):
        entries = list(itertools.islice(self.source, count))
        exchanges = [an_exchange(f"x{len(self.exchanges) + n:05}") for n in range(count // 4)]
        self.entries += entries
        self.exchanges += exchanges
        importer = SqliteImporter(self.path)
        importer.import_batch(entries, exchanges)
        importer.close()

    def shipper(self, server):
        return Shipper(SqliteLedger(self.path), ClickHouseSink(server), self.state)


def drain(shipper):
    while shipper.step(now_ms=7):
        pass


def assert_same(engine, books):
    ledger = ClickHouseLedger(engine)
    assert ledger.totals(QUERY) == entry_totals(books.entries, QUERY)
    assert ledger.totals(LedgerQuery()) == entry_totals(books.entries, LedgerQuery())
    assert sorted(ledger.exchanges(), key=lambda one: one.request_id) == books.exchanges


def test_values_with_any_character_pass_through_http_unharmed(engine, books):
    books.grow(3_000)
    with ClickHouseServer(engine) as server:
        http = ClickHouseHttp(server.url, user="farthing", password="secret")
        drain(books.shipper(http))
        ledger = ClickHouseLedger(http)
        for value in ODD:
            query = LedgerQuery(group_by=("team",), where=(("tag:run", value),))
            assert ledger.totals(query) == entry_totals(books.entries, query)
            assert ledger.totals(query)
        assert {entry.id: entry for entry in ledger.entries()} == {entry.id: entry for entry in books.entries}
        http.close()


def test_a_wrong_password_and_a_wrong_statement_say_so(engine):
    with ClickHouseServer(engine) as server:
        with pytest.raises(StoreUnavailable, match=r"403.*Authentication failed"):
            ClickHouseHttp(server.url, user="farthing", password="no").run("SELECT 1")
        with pytest.raises(StoreUnavailable, match="400"):
            ClickHouseHttp(server.url, user="farthing", password="secret").run("SELECT nonsense")


def test_the_shipper_goes_on_where_it_stopped(engine, books):
    books.grow(BATCH + 500)
    first = books.shipper(engine)
    drain(first)
    first.close()
    books.grow(700)
    before = engine.inserts
    second = books.shipper(engine)
    drain(second)
    assert_same(engine, books)
    assert read_state(books.state).entries == BATCH + 1_200
    assert engine.inserts - before == 2, "what was sent before is not sent again"


def test_a_crash_between_the_insert_and_its_note_doubles_nothing(engine, books):
    books.grow(BATCH // 2)
    early = books.shipper(engine)
    drain(early)
    noted = books.state.read_bytes()
    books.grow(BATCH)
    drain(early)
    early.close()
    books.state.write_bytes(noted)  # as a crash would have left it
    books.grow(300)
    late = books.shipper(engine)
    drain(late)
    assert_same(engine, books)


def test_an_outage_is_noted_and_made_up_for(engine, books):
    books.grow(2 * BATCH + 10)
    with ClickHouseServer(engine) as server:
        http = ClickHouseHttp(server.url, user="farthing", password="secret")
        shipper = books.shipper(http)
        assert shipper.step(now_ms=1) > 0
        server.refuse_after = 0  # the server takes the batch, its answer is lost
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            shipper.step(now_ms=2)
    with pytest.raises(StoreUnavailable):
        shipper.step(now_ms=3)
    state = read_state(books.state)
    assert (state.failed_since_ms, "cannot be reached" in state.error) == (2, True)
    shipper.close()
    again = books.shipper(engine)
    drain(again)
    assert read_state(books.state).failed_since_ms is None
    assert_same(engine, books)


def test_only_one_process_of_an_installation_sends(engine, books):
    books.grow(10)
    one, other = books.shipper(engine), books.shipper(engine)
    assert one.step(now_ms=1) > 0
    books.grow(10)
    assert other.step(now_ms=2) == 0
    assert not other.sends
    one.close()
    assert other.step(now_ms=3) > 0
    assert_same(engine, books)


def test_pruned_traffic_does_not_stop_the_shipper(engine, books):
    books.grow(100)
    shipper = books.shipper(engine)
    drain(shipper)
    importer = SqliteImporter(books.path)
    importer._connection.execute("DELETE FROM exchanges")
    importer.close()
    books.grow(60)
    drain(shipper)
    assert_same(engine, books)
