"""What the SQLite books do when their file cannot be used, and when workers come and go."""

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from farthing.adapters.sqlite import SqliteBooks, SqliteKeys, open_read
from farthing.adapters.sqlite_schema import connect, migrate
from farthing.core.errors import Conflict, StoreUnavailable
from farthing.core.types import Held, KeyRecord, LedgerQuery, Scope
from farthing.ports.books import Settlement
from farthing.testing.records import AT_MS, a_hold, a_reservation, an_entry, an_exchange


@asynccontextmanager
async def opened(home, worker="w1", **options):
    books = SqliteBooks(home / "books.db", worker=worker, **options)
    await books.start()
    try:
        yield books
    finally:
        await books.close()


def booking(id, amount=25):
    return Settlement(reservation=None, entries=(an_entry(id, amount),), exchange=an_exchange(f"request-{id}"))


async def test_a_full_disk_tells_every_caller_and_the_writer_goes_on(tmp_path):
    async with opened(tmp_path) as books:
        await books.settle(booking("e0"), now_ms=AT_MS)
        await books.reserve(a_reservation("r1", a_hold("team", 60)), now_ms=AT_MS)
        await books._task(lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchone())
        big = [booking(f"e{n}-{'x' * 5000}") for n in range(1, 40)]
        answers = await asyncio.gather(*(books.settle(b, now_ms=AT_MS) for b in big), return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreUnavailable}
        assert "disk is full" in str(answers[0])
        assert str(books.path) in str(answers[0])
        assert books.balances([("team", "all")])[0].held == 60
        await books._task(lambda connection: connection.execute("PRAGMA max_page_count = 1000000").fetchone())
        await asyncio.gather(*(books.settle(b, now_ms=AT_MS) for b in big))
        assert books.totals(LedgerQuery())[0].entries == 40


async def test_a_failed_settlement_can_be_tried_again_and_counts_once(tmp_path):
    async with opened(tmp_path, busy_timeout_ms=50) as books:
        reservation = a_reservation("r1", a_hold("team", 60))
        await books.reserve(reservation, now_ms=AT_MS)
        settlement = Settlement(reservation=reservation, amounts=(25,), entries=(an_entry("e1", 25),))
        locker = sqlite3.connect(books.path, isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await books.settle(settlement, now_ms=AT_MS)
        assert (books.balances([("team", "all")])[0].posted, books.balances([("team", "all")])[0].held) == (0, 60)
        locker.execute("ROLLBACK")
        locker.close()
        await books.settle(settlement, now_ms=AT_MS)
        assert (books.balances([("team", "all")])[0].posted, books.balances([("team", "all")])[0].held) == (25, 0)


async def test_a_deleted_file_is_noticed_and_named(tmp_path):
    async with opened(tmp_path) as books:
        books.path.rename(tmp_path / "elsewhere.db")
        await asyncio.sleep(0.05)
        with pytest.raises(StoreUnavailable, match="deleted or replaced"):
            await books.settle(booking("e1"), now_ms=AT_MS)
        (tmp_path / "elsewhere.db").rename(books.path)
        await asyncio.sleep(0.05)
        await books.settle(booking("e1"), now_ms=AT_MS)


@pytest.mark.parametrize(
    ("content", "message"), [(b"not a database at all" * 100, "not a SQLite file"), (None, "not a Farthing ledger")]
)
async def test_a_file_that_is_no_ledger_is_refused_at_the_start(tmp_path, content, message):
    path = tmp_path / "books.db"
    if content is None:
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE t (a)")
        other.commit()
        other.close()
    else:
        path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match=message):
        await SqliteBooks(path, worker="w1").start()
    with pytest.raises(StoreUnavailable, match=message):
        open_read(path)


async def test_a_newer_schema_is_refused_with_the_way_out(tmp_path):
    async with opened(tmp_path) as books:
        await books._task(lambda connection: connection.execute("PRAGMA user_version = 99").fetchone())
    with pytest.raises(StoreUnavailable, match="Upgrade Farthing"):
        await SqliteBooks(tmp_path / "books.db", worker="w1").start()


async def test_a_folder_that_does_not_exist_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="cannot be made"):
        await SqliteBooks(tmp_path / "file" / "books.db", worker="w1").start()


async def test_one_bad_act_does_not_fail_its_group(tmp_path):
    async with opened(tmp_path) as books:
        await books.settle(booking("e1"), now_ms=AT_MS)
        odd = Settlement(reservation=None, entries=(an_entry("e3", request_id="\ud800"),))
        acts = [booking("e2"), booking("e1", 26), odd, booking("e4")]
        answers = await asyncio.gather(*(books.settle(act, now_ms=AT_MS) for act in acts), return_exceptions=True)
        assert [answers[0], answers[3]] == [None, None]
        assert isinstance(answers[1], Conflict)
        assert isinstance(answers[2], ValueError)
        assert [entry.id for entry in books.entries()] == ["e1", "e2", "e4"]
        with pytest.raises(ValueError, match="more than the ledger can hold"):
            await books.settle(booking("e5", 2**63), now_ms=AT_MS)


async def test_a_worker_name_is_used_once(tmp_path):
    async with opened(tmp_path):
        with pytest.raises(StoreUnavailable, match="is running on this ledger already"):
            await SqliteBooks(tmp_path / "books.db", worker="w1").start()
    async with opened(tmp_path):
        pass
    assert list((tmp_path / "workers").iterdir()) == []


async def test_a_closed_store_says_so(tmp_path):
    async with opened(tmp_path) as books:
        pass
    await books.close()
    with pytest.raises(StoreUnavailable, match="not open"):
        await books.settle(booking("e1"), now_ms=AT_MS)


@pytest.mark.parametrize(("on_lost", "posted"), [("ceiling", 60), ("release", 0)])
async def test_a_call_in_flight_at_the_end_is_settled_by_the_next_start(tmp_path, on_lost, posted):
    async with opened(tmp_path, on_lost=on_lost) as books:
        stub = an_entry("ignored", scope=Scope(team="ads", tags=(("env", "prod"),)), model="claude")
        await books.reserve(a_reservation("r1", a_hold("team", 60)), now_ms=AT_MS, stub=stub)
    async with opened(tmp_path, "w2", on_lost=on_lost) as books:
        assert sum(b.posted for b in books.balances([("team", "all")])) == posted
        assert books.open_reservations() == ()
        entries = list(books.entries())
        assert len(entries) == (on_lost == "ceiling")
        for entry in entries:
            assert (entry.id, entry.model, entry.scope, entry.charge.total) == ("r1", "claude", stub.scope, 60)
            assert (entry.usage.source, entry.fidelity, entry.error) == ("estimated", "unknown", "worker_lost")


async def test_relaxed_durability_answers_at_once_and_books_everything_in_the_end(tmp_path):
    async with opened(tmp_path, durability="relaxed") as books:
        for number in range(50):
            reservation = a_reservation(f"r{number}", a_hold("team", 10, limit=2_000))
            assert isinstance(await books.reserve(reservation, now_ms=AT_MS), Held)
            settlement = Settlement(reservation=reservation, amounts=(7,), entries=(an_entry(f"e{number}", 7),))
            await books.settle(settlement, now_ms=AT_MS)
        await books.flush()
        assert books.totals(LedgerQuery())[0].amount == 350
        assert (books.balances([("team", "all")])[0].posted, books.balances([("team", "all")])[0].held) == (350, 0)
        await books.settle(booking("last"), now_ms=AT_MS)
    async with opened(tmp_path) as books:
        assert books.totals(LedgerQuery())[0].entries == 51
        assert books.balances([("team", "all")])[0].posted == 350


async def test_relaxed_books_keep_what_cannot_be_written_and_write_it_later(tmp_path):
    async with opened(tmp_path, durability="relaxed", busy_timeout_ms=20, unwritten_max=2) as books:
        locker = sqlite3.connect(books.path, isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        await books.settle(booking("e1"), now_ms=AT_MS)
        await books.settle(booking("e2"), now_ms=AT_MS)
        await asyncio.sleep(0.2)
        with pytest.raises(StoreUnavailable, match="locked"):
            await books.settle(booking("e3"), now_ms=AT_MS)
        locker.execute("ROLLBACK")
        locker.close()
        await books.settle(booking("e3"), now_ms=AT_MS)
        await books.flush()
        assert [entry.id for entry in books.entries()] == ["e1", "e2", "e3"]


async def test_the_ledger_is_readable_while_the_gateway_writes_and_its_absence_is_explained(tmp_path):
    with pytest.raises(StoreUnavailable, match="no ledger at"):
        open_read(tmp_path / "books.db")
    async with opened(tmp_path) as books:
        ledger = open_read(tmp_path / "books.db")
        await books.settle(booking("e1"), now_ms=AT_MS)
        assert ledger.totals(LedgerQuery())[0].amount == 25


async def test_the_views_show_exact_dollars(tmp_path):
    async with opened(tmp_path) as books:
        await books.settle(booking("e1", 12_000_000_345), now_ms=AT_MS)
        await books.settle(booking("e2", -5), now_ms=AT_MS)
        await books.reserve(a_reservation("r1", a_hold("team", 60)), now_ms=AT_MS)
    connection = sqlite3.connect(tmp_path / "books.db")
    usd = connection.execute("SELECT amount_usd FROM ledger ORDER BY seq").fetchall()
    assert usd == [("12.000000345",), ("-0.000000005",)]
    assert connection.execute("SELECT unit, amount_nusd FROM ledger_lines").fetchall()[1] == ("input", -5)
    assert (
        connection.execute("SELECT outcome, model_requested FROM requests").fetchall() == [("answered", "gpt-4o")] * 2
    )
    assert connection.execute("SELECT * FROM counters_now").fetchall() == [("team", "all", "usd", 0, 60)]
    assert connection.execute("SELECT id FROM reservations_open").fetchall() == [("r1",)]
    connection.close()


def a_key(id):
    return KeyRecord(id=id, name=id, hash=f"hash-{id}", hint="abcd", scope=Scope(team="t"), created_at_ms=AT_MS)


async def test_keys_are_found_refused_twice_and_revoked_for_every_process(tmp_path):
    here, there = SqliteKeys(tmp_path / "books.db"), SqliteKeys(tmp_path / "books.db")
    here.add(a_key("k1"))
    assert here.find("hash-k1") == a_key("k1")
    with pytest.raises(Conflict):
        here.add(a_key("k1"))
    assert there.all() == (a_key("k1"),)
    assert there.revoke("k1", at_ms=AT_MS + 1)
    assert not there.revoke("k1", at_ms=AT_MS + 2)
    assert not there.revoke("k2", at_ms=AT_MS)
    await asyncio.sleep(0.15)
    found = here.find("hash-k1")
    assert found is not None
    assert found.revoked_at_ms == AT_MS + 1
    here.close()
    there.close()


def test_workers_that_start_at_once_on_a_new_ledger_all_open_it(tmp_path: Path) -> None:
    def open_at_once(path: Path, start: threading.Barrier) -> None:
        start.wait()
        connection = connect(path)
        try:
            migrate(path, connection)
        finally:
            connection.close()

    for number in range(15):
        start = threading.Barrier(4)
        with ThreadPoolExecutor(4) as pool:
            opened = [pool.submit(open_at_once, tmp_path / f"{number}.db", start) for _ in range(4)]
        for one in opened:
            one.result()


async def test_imported_exchanges_are_not_pruned_by_the_dates_of_their_trace(tmp_path: Path) -> None:
    books = SqliteBooks(tmp_path / "ledger.db", worker="w1")
    await books.start()
    try:
        for name in ("imp-0123456789abcdef", "req-1"):
            settlement = Settlement(reservation=None, exchange=an_exchange(name))
            await books.settle(settlement, now_ms=AT_MS)
        assert await books.prune(AT_MS + 1_000) == 1
        assert [one.request_id for one in books.exchanges()] == ["imp-0123456789abcdef"]
    finally:
        await books.close()


async def test_a_hold_that_cannot_be_made_whole_leaves_nothing_behind(tmp_path: Path) -> None:
    """Two holds on one counter count together; what was set aside before the one that does not fit is given back."""
    async with opened(tmp_path) as books:
        for name, amount in (("too-much", 60), ("fits", 50), ("no-room", 1)):
            holds = a_hold("user", 7, limit=1_000), a_hold("team", amount), a_hold("team", amount)
            held = await books.reserve(a_reservation(name, *holds), now_ms=AT_MS)
            assert isinstance(held, Held) == (name == "fits")
        broken = a_reservation("\ud800", a_hold("user", 7, limit=1_000))
        with pytest.raises(ValueError, match="surrogates"):
            await books.reserve(broken, now_ms=AT_MS)
        assert [(one.counter, one.held) for one in books.balances([("team", "all"), ("user", "all")])] == [
            ("team", 100),
            ("user", 7),
        ]
        assert [one.id for one in books.open_reservations()] == ["fits"]


async def test_the_writer_turns_once_for_all_that_came_meanwhile(tmp_path: Path) -> None:
    """Acts that come in many turns of the event loop do not leave as many empty turns of the writer behind."""
    async with opened(tmp_path) as books:
        writer = books._require().writer
        waiting = []
        with writer.lock:  # it cannot decide the first, and so the others gather
            for number in range(50):
                waiting.append(asyncio.create_task(books.settle(booking(f"e{number}"), now_ms=AT_MS)))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            assert writer._wake.qsize() <= 1
        await asyncio.gather(*waiting)
        assert books.totals(LedgerQuery())[0].entries == 50
