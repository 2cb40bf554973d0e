"""What the scaled books do when Valkey or PostgreSQL dies, when workers go silent, and when records are odd."""

import asyncio
import os
from contextlib import asynccontextmanager

import psycopg
import pytest

from farthing.adapters.journal import EntryJournal, Record, line_of, read_entries
from farthing.adapters.leases_open import postgres_books, valkey_books
from farthing.adapters.postgres import PostgresImporter, PostgresKeys, PostgresLedger
from farthing.adapters.postgres_schema import Migration, connect, contract, expand, migrations
from farthing.core.errors import Conflict, OutageAllowanceSpent, StoreUnavailable
from farthing.core.types import Denied, Held, KeyRecord, LedgerQuery, Scope
from farthing.ports.books import Settlement
from farthing.testing.records import AT_MS, a_hold, a_reservation, an_entry, an_exchange
from farthing.testing.servers import PostgresServer, ValkeyServer, postgres_url, valkey_url
from farthing.testing.stores import namespace_of


@asynccontextmanager
async def opened(home, *, worker="w1", kind="valkey", namespace="", **options):
    home.mkdir(parents=True, exist_ok=True)
    name = namespace or namespace_of(home)
    options.setdefault("url", postgres_url())
    if kind == "valkey":
        options.setdefault("valkey_url", valkey_url())
        books = valkey_books(home, worker=worker, namespace=name, **options)
    else:
        books = postgres_books(home, worker=worker, namespace=name, **options)
    await books.start()
    try:
        yield books
    finally:
        await books.close()


def booking(id, amount=25):
    return Settlement(reservation=None, entries=(an_entry(id, amount),), exchange=an_exchange(f"request-{id}"))


async def until(condition, within_s=60.0):
    """Wait for it. Raises ``AssertionError``."""
    for _ in range(int(within_s / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came true")


async def hold(books, id, amount, *, limit=100, counter="team", now_ms=AT_MS):
    return await books.reserve(a_reservation(id, a_hold(counter, amount, limit=limit)), now_ms=now_ms)


@pytest.fixture
def lost_valkey():
    server = ValkeyServer().start()
    yield server
    server.kill()


async def soon(act, kind):
    """The answer once it is of that kind, or the last of five seconds: news between workers takes a moment."""
    for turn in range(100):
        answer = await act(turn)
        if isinstance(answer, kind):
            break
        await asyncio.sleep(0.05)
    return answer


async def test_budgets_hold_when_valkey_has_lost_its_data(tmp_path, lost_valkey):
    options = {"namespace": namespace_of(tmp_path), "valkey_url": lost_valkey.url}
    async with opened(tmp_path / "a", **options) as first, opened(tmp_path / "b", worker="w2", **options) as second:
        reservation = a_reservation("r1", a_hold("team", 40))
        await first.reserve(reservation, now_ms=AT_MS)
        await first.settle(
            Settlement(reservation=reservation, amounts=(30,), entries=(an_entry("r1", 30),)), now_ms=AT_MS
        )
        assert isinstance(await hold(second, "r2", 50), Held)
        first.catch_up()
        lost_valkey.kill()
        with pytest.raises(StoreUnavailable, match="Valkey"):
            await hold(first, "r3", 90)
        lost_valkey.start()
        await until(lambda: first.gauges()["leases_up"] and second.gauges()["leases_up"])
        assert isinstance(await hold(first, "r4", 21), Denied)
        assert isinstance(await soon(lambda turn: hold(second, f"r5.{turn}", 20), Held), Held)
        assert isinstance(await hold(first, "r6", 1), Denied)


async def test_what_is_booked_and_not_told_counts_once_after_a_rebuild(tmp_path, lost_valkey):
    """The rebuilt store knows it from the ledger; to subtract it as in use too would refuse what fits."""
    async with opened(tmp_path, namespace=namespace_of(tmp_path), valkey_url=lost_valkey.url) as books:
        await hold(books, "r0", 1, counter="other")
        books._running._news_due_s = books._running._loop.time() + 3_600  # news has just been told
        reservation = a_reservation("r1", a_hold("team", 40))
        await books.reserve(reservation, now_ms=AT_MS)
        await books.settle(
            Settlement(reservation=reservation, amounts=(40,), entries=(an_entry("r1", 40),)), now_ms=AT_MS
        )
        books.catch_up()
        lost_valkey.kill()
        await until(lambda: not books.gauges()["leases_up"])
        lost_valkey.start()
        await until(lambda: books.gauges()["leases_up"])
        assert isinstance(await hold(books, "r2", 61), Denied)
        assert isinstance(await hold(books, "r3", 60), Held)


async def test_a_ledger_that_is_away_loses_nothing_and_stops_nobody(tmp_path):
    server = PostgresServer().start().quick()
    try:
        async with opened(tmp_path, url=server.url) as books:
            await hold(books, "r0", 1)
            server.kill()
            for number in range(1, 40):
                reservation = a_reservation(f"r{number}", a_hold(f"fresh{number}", 2), a_hold("team", 2))
                assert isinstance(await books.reserve(reservation, now_ms=AT_MS), Held)
                entry = an_entry(f"r{number}", 2)
                await books.settle(
                    Settlement(reservation=reservation, amounts=(2, 2), entries=(entry,)), now_ms=AT_MS
                )
            assert isinstance(await hold(books, "last", 22), Denied)
            await until(lambda: not books.gauges()["ledger_up"])
            assert books.gauges()["journal_records_waiting"] == 39
            server.start()
            await until(lambda: books.gauges()["journal_records_waiting"] == 0)
            assert books.totals(LedgerQuery())[0].amount == 78
            assert (books.balances([("team", "all")])[0].posted, books.gauges()["ledger_up"]) == (78, 1)
    finally:
        server.remove()


async def test_an_outage_lets_through_no_more_than_its_allowance_and_books_it(tmp_path, lost_valkey):
    async with opened(tmp_path, valkey_url=lost_valkey.url, allowance=100) as books:
        books._running._joined = False
        lost_valkey.kill()
        for number in (1, 2):
            assert isinstance(await hold(books, f"r{number}", 50), Held)
        with pytest.raises(OutageAllowanceSpent):
            await hold(books, "r3", 1)
        reservation = a_reservation("r1", a_hold("team", 50))
        await books.settle(
            Settlement(reservation=reservation, amounts=(45,), entries=(an_entry("r1", 45),)), now_ms=AT_MS
        )
        lost_valkey.start()
        await until(lambda: books.gauges()["leases_up"])
        assert await hold(books, "r4", 6) == Denied(id="r4", hold=a_hold("team", 6), left=5)
        assert isinstance(await hold(books, "r5", 5), Held)


@pytest.mark.parametrize("kind", ["valkey", "postgres"])
async def test_amounts_beyond_doubles_are_exact(tmp_path, kind):
    limit = 2**62 + 1
    async with opened(tmp_path, kind=kind) as books, opened(tmp_path, kind=kind, worker="w2") as other:
        assert isinstance(await hold(books, "r1", 2**60 + 1, limit=limit), Held)
        assert isinstance(await hold(other, "r2", 3 * 2**60 - 7, limit=limit), Held)
        assert (await hold(books, "r3", 8, limit=limit)).left == 7
        assert isinstance(await hold(books, "r4", 7, limit=limit), Held)
        assert isinstance(await hold(other, "r5", 1, limit=limit), Denied)
        below = a_reservation("r6", a_hold("minus", 0, limit=10))
        await books.reserve(below, now_ms=AT_MS)
        await books.settle(Settlement(reservation=below, amounts=(-(2**60) - 1,)), now_ms=AT_MS)
        books.catch_up()
        await asyncio.sleep(0.1)
        assert (await hold(other, "r7", 2**60 + 12, limit=10, counter="minus")).left == 2**60 + 11


@pytest.mark.parametrize("kind", ["valkey", "postgres"])
async def test_a_silent_worker_that_comes_back_is_booked_once(tmp_path, kind):
    name = namespace_of(tmp_path)
    async with (
        opened(tmp_path / "a", kind=kind, namespace=name) as first,
        opened(tmp_path / "b", kind=kind, namespace=name, worker="w2") as second,
    ):
        reservation = a_reservation("r1", a_hold("team", 60))
        await first.reserve(reservation, now_ms=AT_MS, stub=an_entry("r1", 60))
        await until(lambda: len(second.open_reservations()) == 1)  # it lasts: the database knows it
        await second._running._bury(first._name, here=False)
        (lost,) = second.entries()
        assert (lost.id, lost.charge.total, lost.error) == ("r1", 60, "worker_lost")
        assert isinstance(await hold(second, "r2", 41), Denied)
        await first.settle(
            Settlement(reservation=reservation, amounts=(25,), entries=(an_entry("r1", 25),)), now_ms=AT_MS
        )
        first.catch_up()
        entries = {entry.id: entry.charge.total for entry in second.entries()}
        assert entries == {"r1": 60, "r1:reversal": -60, "r1:late": 25}
        assert second.balances([("team", "all")])[0].posted == 25
        await until(lambda: first.gauges()["leases_up"])
        await asyncio.sleep(1)  # it was declared dead without having been silent: it hears of that at its next tick
        assert isinstance(await soon(lambda turn: hold(second, f"r3.{turn}", 75), Held), Held)
        assert isinstance(await hold(first, "r4", 1), Denied)


async def test_the_same_entry_id_on_two_hosts_is_recorded_not_lost(tmp_path):
    name = namespace_of(tmp_path)
    async with (
        opened(tmp_path / "a", namespace=name) as first,
        opened(tmp_path / "b", namespace=name, worker="w2") as second,
    ):
        for books, amount in ((first, 7), (second, 8)):
            reservation = a_reservation(f"r{amount}", a_hold("team", 10))
            await books.reserve(reservation, now_ms=AT_MS)
            await books.settle(
                Settlement(reservation=reservation, amounts=(amount,), entries=(an_entry("e1", amount),)),
                now_ms=AT_MS,
            )
            books.catch_up()
        assert [entry.charge.total for entry in first.entries()] == [7]
        assert first.balances([("team", "all")])[0].posted == 15
        ledger = PostgresLedger(postgres_url(), name)
        assert ledger.facts()["conflicts"] == "1"
        with pytest.raises(Conflict):
            await first.settle(booking("e1", 9), now_ms=AT_MS)


async def test_odd_text_is_booked_or_refused_alone(tmp_path):
    async with opened(tmp_path, kind="postgres") as books:
        await books.settle(booking("nul"), now_ms=AT_MS)
        odd = an_entry("e1", 5, model="gpt\x00", scope=Scope(team="a\\u0000", user="\\\x00"))
        await books.settle(Settlement(reservation=None, entries=(odd,)), now_ms=AT_MS)
        with pytest.raises(ValueError, match="surrogates not allowed"):
            await books.settle(
                Settlement(reservation=None, entries=(an_entry("e2", request_id="\ud800"),)), now_ms=AT_MS
            )
        found = list(books.entries())
        assert [(one.model, one.scope.team, one.scope.user) for one in found[1:]] == [
            ("gpt\ufffd", "a\\u0000", "\\\ufffd")
        ]


async def test_a_journal_that_cannot_be_written_tells_the_caller_and_books_nothing(tmp_path):
    async with opened(tmp_path, kind="postgres") as books:
        journal = books._running._journal
        reservation = a_reservation("r1", a_hold("team", 60))
        await books.reserve(reservation, now_ms=AT_MS)
        settlement = Settlement(reservation=reservation, amounts=(25,), entries=(an_entry("e1", 25),))
        writable = journal._file
        full = os.open("/dev/full", os.O_WRONLY)
        journal._file = full
        with pytest.raises(StoreUnavailable, match="cannot be written"):
            await books.settle(settlement, now_ms=AT_MS)
        assert books.balances([("team", "all")])[0].held == 60
        journal._file = writable
        os.close(full)
        await books.settle(settlement, now_ms=AT_MS)
        balance = books.balances([("team", "all")])[0]
        assert (balance.posted, balance.held) == (25, 0)


async def test_a_caller_that_leaves_while_the_journal_is_written_settles_once(tmp_path):
    async with opened(tmp_path) as books:
        reservation = a_reservation("r1", a_hold("team", 60))
        await books.reserve(reservation, now_ms=AT_MS)
        settlement = Settlement(reservation=reservation, amounts=(25,), entries=(an_entry("e1", 25),))
        leaving = asyncio.ensure_future(books.settle(settlement, now_ms=AT_MS))
        await asyncio.sleep(0)  # it is on its way to the journal
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert leaving.cancelled()
        await books.settle(settlement, now_ms=AT_MS)  # waits for the first one, and finds it done
        (balance,) = books.balances([("team", "all")])
        assert (balance.posted, balance.held) == (25, 0)
        assert books.totals(LedgerQuery())[0].amount == 25
        (balance,) = books.balances([("team", "all")])
        assert (balance.posted, balance.held) == (25, 0)


def test_a_torn_line_is_passed_over_and_segments_go_or_are_used_again_when_shipped(tmp_path):
    journal = EntryJournal(tmp_path, "w", segment_bytes=200)
    lines = [line_of(Record(seq=number, ids=(f"e{number}",))) for number in range(1, 20)]
    for line in lines:
        journal.write([line])
    assert [record.seq for record in read_entries(tmp_path, "w")] == list(range(1, 20))
    seen = []
    while journal.waiting:
        records, place = journal.read()
        journal.shipped(place)
        seen += [record.seq for record in records]
    assert seen == list(range(1, 20))
    assert sorted(path.name[:10] for path in tmp_path.iterdir()) == ["w.entries.", "w.spare"]
    spare = (tmp_path / "w.spare").stat().st_ino
    last = line_of(Record(seq=21))
    journal.write([line_of(Record(seq=20, ids=("long" * 21,))), last])
    journal.close(remove=False)
    path = max(tmp_path.glob("w.entries.*"))
    assert path.stat().st_ino == spare
    data = bytearray(path.read_bytes())
    assert data.count(b"\n") > 2, "records of its earlier use are still behind the last one"
    end = data.index(last) + len(last)
    data[end - 3 : end] = bytes(3)
    path.write_bytes(data)
    assert [record.seq for record in read_entries(tmp_path, "w")][-1] == 20


def test_old_code_runs_between_expand_and_contract(tmp_path):
    """The next release renames a column: both are there while the release before lives, then the old one goes."""
    name = namespace_of(tmp_path)
    newest = len(migrations())
    second = Migration(
        newest + 1,
        "ALTER TABLE keys ADD COLUMN title text; UPDATE keys SET title = name;"
        "ALTER TABLE keys ALTER COLUMN name SET DEFAULT '';",
        "ALTER TABLE keys DROP COLUMN name;",
    )
    steps = (*migrations(), second)
    old = PostgresKeys(postgres_url(), name)
    old.add(KeyRecord(id="k1", name="k1", hash="h1", hint="", scope=Scope(), created_at_ms=1))
    with connect(postgres_url(), name) as connection:
        connection.execute(
            "INSERT INTO workers VALUES ('old', %s, 0, false), ('new', %s, 0, false)", (newest, newest + 1)
        )
        expand(connection, name, steps)
        expand(connection, name, steps)
        expand(connection, name)  # the old release starts once more on the new schema
        assert contract(connection, steps) == newest
        assert old.revoke("k1", at_ms=2)
        connection.execute("UPDATE workers SET lost = true WHERE worker = 'old'")
        assert contract(connection, steps) == newest + 1
        with pytest.raises(psycopg.errors.UndefinedColumn):
            connection.execute("SELECT name FROM keys")
        with pytest.raises(StoreUnavailable, match="Upgrade Farthing"):
            expand(connection, name)


async def test_many_workers_start_at_once_on_a_new_database(tmp_path):
    books = [
        postgres_books(tmp_path, worker=f"w{n}", url=postgres_url(), namespace=namespace_of(tmp_path))
        for n in range(6)
    ]
    await asyncio.gather(*(one.start() for one in books))
    await asyncio.gather(*(one.close() for one in books))


async def test_keys_and_imports_are_those_of_every_host(tmp_path):
    here, there = (PostgresKeys(postgres_url(), namespace_of(tmp_path)) for _ in range(2))
    key = KeyRecord(id="k1", name="k1", hash="h1", hint="", scope=Scope(team="t"), created_at_ms=1)
    here.add(key)
    with pytest.raises(Conflict):
        there.add(key)
    assert there.all() == (key,)
    assert there.revoke("k1", at_ms=5)
    assert not here.revoke("k1", at_ms=6)
    assert here.find("h2") is None
    found = here.find("h1")
    assert found is not None
    assert found.revoked_at_ms == 5
    importer = PostgresImporter(postgres_url(), namespace_of(tmp_path))
    entries = [an_entry(f"e{number}") for number in range(1200)]
    assert importer.import_batch(entries, [an_exchange("x")]) == (1200, 0)
    assert importer.import_batch([*entries[:2], an_entry("new")], []) == (1, 2)
    importer.close()
    assert PostgresLedger(postgres_url(), namespace_of(tmp_path)).totals(LedgerQuery())[0].entries == 1201
