"""A PostgreSQL ledger's copy beside the gateway, and its newest records: the same figures as the ledger's own."""

import itertools

import msgspec
import psycopg
import pytest

from farthing import config
from farthing.adapters import store_opening
from farthing.adapters.ledger_query import entry_totals
from farthing.adapters.postgres import PostgresImporter, PostgresLedger
from farthing.adapters.postgres_newest import PostgresNewest
from farthing.adapters.rollup_job import Rollups
from farthing.adapters.shipping import BATCH
from farthing.core.errors import BadRequest
from farthing.core.types import LedgerQuery
from farthing.testing.lifelike import START_MS, lifelike_entries
from farthing.testing.newest import ReadNewest
from farthing.testing.records import an_exchange
from farthing.testing.servers import postgres_url, store_toml
from farthing.testing.stores import namespace_of

ENTRIES = tuple(lifelike_entries(BATCH + 900, seed=31))
ASKED = (
    LedgerQuery(),
    LedgerQuery(group_by=("team", "model")),
    LedgerQuery(group_by=("day", "feature"), where=(("tag:env", "prod"),)),
    LedgerQuery(group_by=("session",), since_ms=START_MS + 86_400_017),
)


class Installation:
    """A gateway's folder and its ledger in PostgreSQL."""

    def __init__(self, home):
        self.namespace = namespace_of(home)
        self.env = {"FARTHING_POSTGRES_URL": postgres_url(), "SIM_KEY": "k"}
        text = (
            store_toml("postgres", self.namespace) + '[analytics]\nreports = "copy"\n'
            '[[providers]]\nname = "openai"\nbase_url = "http://127.0.0.1:9/v1"\napi_key_env = "SIM_KEY"\n'
        )
        settings = config.parse(text, env=self.env, source="test")
        self.settings = msgspec.structs.replace(settings, home=str(home))
        self.folder = home / store_opening.COPY_FOLDER
        self.copier = self.opened()

    def opened(self):
        return store_opening.open_copier(self.settings, self.env)

    def book(self, entries, exchanges=()):
        importer = PostgresImporter(postgres_url(), self.namespace)
        importer.import_batch(entries, exchanges)
        importer.close()

    def caught_up(self):
        while self.copier.step(now_ms=1):
            pass

    def rolled_up(self):
        rollups = Rollups(self.folder / "ledger.db", self.folder / "rollups.db")
        while rollups.step(now_ms=1).left:
            pass
        rollups.close()

    @property
    def reports(self):
        return store_opening.open_rolled_up(self.settings, self.env)

    def is_as_booked(self, entries):
        return all(self.reports.totals(query) == entry_totals(entries, query) for query in ASKED)


@pytest.fixture
def site(tmp_path):
    site = Installation(tmp_path)
    yield site
    site.copier.close()


def test_reports_are_the_ledgers_before_during_and_after_the_copy_is_made(site):
    site.book(ENTRIES, [an_exchange("r1")])
    assert site.is_as_booked(ENTRIES)
    assert site.copier.step(now_ms=1) == BATCH
    assert site.is_as_booked(ENTRIES)
    assert not site.reports.answers(ASKED[1])
    site.caught_up()
    site.rolled_up()
    assert site.reports.answers(ASKED[1])
    assert site.is_as_booked(ENTRIES)
    assert list(site.reports.entries()) == list(ENTRIES)
    assert [one.request_id for one in site.reports.exchanges()] == ["r1"]


def test_what_is_booked_later_follows_and_a_crash_after_a_batch_doubles_nothing(site):
    site.book(ENTRIES[:700])
    site.caught_up()
    noted = (site.folder / "state.json").read_bytes()
    site.book(ENTRIES)
    site.caught_up()
    site.copier.close()
    (site.folder / "state.json").write_bytes(noted)  # as a crash would have left it
    site.copier = site.opened()
    site.caught_up()
    assert site.is_as_booked(ENTRIES)


def test_a_ledger_that_was_set_back_is_copied_anew_and_rolled_up_anew(site):
    site.book(ENTRIES)
    site.caught_up()
    site.rolled_up()
    with psycopg.connect(postgres_url(), options=f"-c search_path={site.namespace}") as connection:
        connection.execute("DELETE FROM entries WHERE id <> ALL(%s)", ([one.id for one in ENTRIES[:1_500]],))
    site.caught_up()
    site.rolled_up()
    assert site.reports.answers(ASKED[1])
    assert site.is_as_booked(ENTRIES[:1_500])


def test_an_empty_ledger_has_an_empty_copy_and_a_second_process_waits(site):
    site.book(())
    site.caught_up()
    assert site.reports.totals(LedgerQuery(group_by=("team",))) == ()
    other = site.opened()
    site.book(ENTRIES[:10])
    assert other.step(now_ms=1) == 0
    assert not other.sends
    site.caught_up()
    assert site.is_as_booked(ENTRIES[:10])


@pytest.mark.parametrize("where", [(), (("team", "search"),), (("tag:env", "prod"), ("kind", "charge"))])
@pytest.mark.parametrize("period", [(None, None), (START_MS + 10**8, START_MS + 10**9)])
def test_pages_of_requests_bring_every_entry_of_postgresql_once_newest_first(tmp_path, where, period):
    namespace = namespace_of(tmp_path)
    importer = PostgresImporter(postgres_url(), namespace)
    refused = [
        msgspec.structs.replace(an_exchange(f"r{at}", received_at_ms=START_MS + at * 10**7), outcome="refused")
        for at in range(90)
    ]
    importer.import_batch(ENTRIES, refused)
    importer.close()
    query = LedgerQuery(where=where, since_ms=period[0], until_ms=period[1])
    ledger, newest = PostgresLedger(postgres_url(), namespace), PostgresNewest(postgres_url(), namespace)
    wanted = [one.id for one in ledger.entries() if entry_totals([one], query)[0].entries]
    found, cursor = [], ""
    for _ in itertools.count():
        page, cursor = newest.newest_entries(query, before=cursor, limit=97)
        found += [one.id for one in page]
        if not cursor:
            break
    assert found == wanted[::-1]
    read = ReadNewest(lambda: ledger).newest_unbooked(query, before="", limit=200)[0]
    assert newest.newest_unbooked(query, before="", limit=200)[0] == read
    assert newest.exchange("r7") == next(one for one in ledger.exchanges() if one.request_id == "r7")
    assert newest.exchange("nobody") is None
    with pytest.raises(BadRequest):
        newest.newest_entries(query, before="1; DROP TABLE entries", limit=1)
