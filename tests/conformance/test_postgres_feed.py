"""Who follows the PostgreSQL ledger misses no record, however late its transaction ends."""

import psycopg
import pytest

from farthing.adapters.postgres import PostgresImporter, PostgresLedger
from farthing.adapters.postgres_feed import PostgresFeed
from farthing.testing.records import an_entry, an_exchange
from farthing.testing.servers import postgres_url
from farthing.testing.stores import namespace_of


def book(namespace, *ids):
    importer = PostgresImporter(postgres_url(), namespace)
    importer.import_batch([an_entry(one) for one in ids], [an_exchange(one) for one in ids])
    importer.close()


def ids(ledger, after=""):
    return [one.id for one in ledger.entries(after=after)]


@pytest.fixture
def namespace(tmp_path):
    return namespace_of(tmp_path)


def test_a_row_that_appears_late_is_not_passed_over(namespace):
    book(namespace, "a")
    feed = PostgresFeed(postgres_url(), namespace)
    with psycopg.connect(postgres_url(), options=f"-c search_path={namespace}") as slow:
        # Inserted first, committed last: its number is smaller than that of "c".
        slow.execute("INSERT INTO entries SELECT (json_populate_record(e, '{\"id\": \"b\", \"seq\": 1000}')).*"
                     " FROM entries AS e WHERE id = 'a'".replace("INSERT INTO entries", "INSERT INTO entries"
                     " OVERRIDING SYSTEM VALUE"))  # fmt: skip
        slow_seq = slow.execute("SELECT seq FROM entries WHERE id = 'b'").fetchone()[0]
        with psycopg.connect(postgres_url(), options=f"-c search_path={namespace}", autocommit=True) as quick:
            quick.execute(
                "INSERT INTO entries OVERRIDING SYSTEM VALUE SELECT"
                f' (json_populate_record(e, \'{{"id": "c", "seq": {slow_seq + 1}}}\')).* FROM entries AS e'
                " WHERE id = 'a'"
            )
        assert ids(PostgresLedger(postgres_url(), namespace), "a") == ["c"]
        assert ids(feed, "a") == []
    assert ids(feed, "a") == ["b", "c"]
    assert ids(feed, "c") == []


def test_all_that_is_settled_comes_once_and_goes_on(namespace):
    book(namespace, "a", "b")
    feed = PostgresFeed(postgres_url(), namespace)
    assert ids(feed) == ["a", "b"]
    book(namespace, "c")
    assert ids(feed, "b") == ["c"]
    assert [one.request_id for one in feed.exchanges(after="a")] == ["b", "c"]
    assert list(feed.exchanges(after="c")) == []
