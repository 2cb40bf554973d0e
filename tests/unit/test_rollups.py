"""Roll-ups: whatever happened, reports are those of the entries."""

import contextlib
import itertools
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from farthing.adapters import rollup_batch, rollup_file, rollup_postings
from farthing.adapters.ledger_query import MEASURES, entry_totals
from farthing.adapters.rollup_cuboids import BUILT_IN, Cuboid, name, names
from farthing.adapters.rollup_file import Kept
from farthing.adapters.rollup_grouping import Grouping
from farthing.adapters.rollup_job import Rollups
from farthing.adapters.rollup_ledger import RollupLedger
from farthing.adapters.rollup_running import QUIET_MAX_S, QUIET_S, Quiet, Rolling, is_due
from farthing.adapters.sqlite_import import SqliteImporter
from farthing.adapters.sqlite_newest import SqliteNewest
from farthing.adapters.sqlite_reader import SqliteLedger
from farthing.core.types import LedgerEntry, LedgerQuery, Scope
from farthing.server.pages.reading import RememberedLedger
from farthing.testing.lifelike import START_MS, lifelike_entries
from farthing.testing.records import an_entry

HOUR_MS = 3_600_000
ASKED = (
    (), ("team",), ("model",), ("user",), ("kind", "reason"), ("team", "model"), ("status", "model"), ("tag:env",),
    ("provider", "feature"), ("hour",), ("day", "team"), ("week", "model"), ("month",), ("session", "source"),
)  # fmt: skip
WHERE = (
    (), (("team", "a"),), (("model", "m1"),), (("tag:env", "prod"),), (("hour", "2025-12-31T01"),),
    (("user", "u1"),), (("user", "u2"), ("model", "m2")), (("status", "201"), ("team", "a")),
    (("kind", "adjustment"),),
)  # fmt: skip
EDGES = (None, 0, 1, HOUR_MS - 1, HOUR_MS, HOUR_MS + 17, 24 * HOUR_MS, 25 * HOUR_MS + 1, 49 * HOUR_MS)
MOMENTS = (0, 1, HOUR_MS - 1, HOUR_MS, 23 * HOUR_MS + 5, 24 * HOUR_MS, 26 * HOUR_MS, 50 * HOUR_MS, -START_MS - 5_000)

Entry = tuple[int, int, str, str, str, int]
"""(request, moment, team, model, env, kind of number)"""
entries = st.tuples(
    st.integers(0, 4), st.sampled_from(MOMENTS), st.sampled_from("ab"), st.sampled_from(("m1", "m2", "m3")),
    st.sampled_from(("", "prod")), st.integers(0, 5),
)  # fmt: skip
acts = st.one_of(
    st.lists(entries, min_size=1, max_size=6),
    st.tuples(st.just("step"), st.integers(0, 1), st.integers(1, 5)),
    st.tuples(st.just("die"), st.integers(0, 1), st.integers(1, 5)),
    st.tuples(st.just("ask"), st.sampled_from(ASKED), st.sampled_from(WHERE)),
)
queries = st.tuples(st.sampled_from(ASKED), st.sampled_from(WHERE), st.sampled_from(EDGES), st.sampled_from(EDGES))


def made(number: int, said: Entry) -> LedgerEntry:
    request, moment, team, model, env, kind = said
    amount = (25, None, -3, 2**62, 0, 7)[kind]
    entry = an_entry(
        f"e{number}", amount, request_id=f"r{request}", received_at_ms=START_MS + moment, model=model,
        scope=Scope(team=team if request else "a", user=f"u{request}", tags=(("env", env),) if env else ()),
        source="estimated" if kind == 4 else "reported", error="late" if kind == 5 else "", baseline=number,
    )  # fmt: skip
    return msgspec.structs.replace(entry, kind="adjustment" if kind == 2 else "charge", status=200 + kind % 2)


def asked(by: tuple[str, ...], where: tuple[tuple[str, str], ...], low: int | None, high: int | None) -> LedgerQuery:
    since, until = sorted((low, high), key=lambda at: -1 if at is None else at)
    return LedgerQuery(
        group_by=by,
        where=where,
        since_ms=None if since is None else START_MS + since,
        until_ms=None if until is None else START_MS + until,
    )


class Site:
    """A ledger that grows, two workers that roll it up, and somebody who asks."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.importer = SqliteImporter(home / "farthing.db")
        self.workers = [self.worker(), self.worker()]
        self.reader = RollupLedger(SqliteLedger(home / "farthing.db"), home / "rollups.db")
        self.booked: list[LedgerEntry] = []

    def worker(self) -> Rollups:
        return Rollups(self.home / "farthing.db", self.home / "rollups.db")

    def book(self, said: list[Entry]) -> None:
        new = [made(len(self.booked) + at, one) for at, one in enumerate(said)]
        self.importer.import_batch(new, ())
        self.booked += new

    def die(self, number: int, batch: int) -> None:
        """A worker is gone in the middle of a step: all of it was done, but the transaction was not ended."""
        worker = self.workers[number]
        with contextlib.suppress(Gone), rollup_file.writing(worker._connection):
            progress = rollup_file.progress(worker._connection)
            high, last_id, count = worker._next(progress.seq, batch)
            if count:
                worker._add(progress, high, last_id, count, 0)
            raise Gone
        worker.close()
        self.workers[number] = self.worker()

    def settled(self) -> None:
        while self.workers[0].step(now_ms=0).left:
            pass

    def close(self) -> None:
        self.importer.close()
        for worker in self.workers:
            worker.close()


class Gone(Exception):
    pass


@settings(max_examples=16, deadline=None, phases=(Phase.generate,), suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(acts, max_size=14), st.lists(queries, min_size=4, max_size=8))
def test_reports_are_those_of_the_entries_whatever_happened(script, questions):
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder))
        for act in script:
            if isinstance(act, list):
                site.book(act)
            elif act[0] == "step":
                site.workers[act[1]].step(now_ms=0, batch=act[2])
            elif act[0] == "die":
                site.die(act[1], act[2])
            else:
                site.reader.totals(asked(act[1], act[2], None, None))
        for question in (*questions, *(((*by,), (), None, None) for by in ASKED[:4])):
            query = asked(*question)
            wanted = entry_totals(site.booked, query)
            assert site.reader.totals(query) == wanted
            told = {row.group: (row.amount, row.entries) for row in wanted if row.entries}
            assert site.reader.amounts(query) == told
            if query.group_by:
                groups = [row.group for row in wanted][::2]
                assert site.reader.some(query, [*groups, ("none",) * len(query.group_by)]) == wanted[::2]
            site.reader.totals(asked(question[0], question[1], None, None))
            with site.reader.steady():
                site.reader.gather(msgspec.structs.replace(query, group_by=(*query.group_by, "team", "tag:env")))
                for by in (query.group_by, (), ("team", "hour"), ("tag:env",)):
                    one = msgspec.structs.replace(query, group_by=by)
                    wanted = entry_totals(site.booked, one)
                    assert site.reader.totals(one) == wanted
                    told = {row.group: (row.amount, row.entries) for row in wanted if row.entries}
                    assert site.reader.amounts(one) == told
        site.settled()
        for question in questions:
            query = asked(*question)
            assert site.reader.cells(query) is not None
            assert site.reader.totals(query) == entry_totals(site.booked, query)
        site.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def without_entries(site: Site) -> None:
    """Blank what the cells stand for, so that only cells can give the right answer."""
    with sqlite3.connect(site.home / "farthing.db") as connection:
        connection.execute("UPDATE entries SET amount_nusd = 0, input_tokens = 0")
    connection.close()


def test_whole_days_and_hours_come_from_cells_and_not_from_entries(site):
    site.importer.import_batch(lifelike_entries(3_000, seed=3), ())
    site.settled()
    ledger = SqliteLedger(site.home / "farthing.db")
    day = LedgerQuery(group_by=("team", "model"), since_ms=START_MS + 24 * HOUR_MS, until_ms=START_MS + 99 * HOUR_MS)
    wanted = ledger.totals(day)
    without_entries(site)
    assert site.reader.totals(day) == wanted != ledger.totals(day)


@pytest.mark.parametrize("by", [("tag:env", "team"), ("session",), ("user", "model", "status")])
def test_what_somebody_asks_for_is_there_the_next_time(site, by):
    site.importer.import_batch(lifelike_entries(2_000, seed=4), ())
    site.settled()
    query = LedgerQuery(group_by=by)
    assert not site.reader.answers(query)
    wanted = site.reader.totals(query)
    site.workers[1].step(now_ms=0, batch=1_500)
    assert site.reader.totals(query) == wanted, "half of it is in the cells by now"
    assert not site.reader.answers(query)
    site.settled()
    assert site.reader.answers(query)
    without_entries(site)
    assert site.reader.totals(query) == wanted


def test_what_a_page_gathers_is_summed_in_the_background_all_the_same(site):
    site.importer.import_batch(lifelike_entries(2_000, seed=3), ())
    site.settled()
    query = LedgerQuery(group_by=("team", "tag:env"))
    with site.reader.steady():
        site.reader.gather(query)
        told = site.reader.totals(query)
    assert told == SqliteLedger(site.home / "farthing.db").totals(query)
    assert not site.reader.answers(query)
    site.settled()
    without_entries(site)
    assert site.reader.answers(query)
    assert site.reader.totals(query) == told


def test_a_cuboid_with_as_many_cells_as_entries_is_given_up(tmp_path):
    site = Site(tmp_path)
    site.importer.import_batch(lifelike_entries(2_000, seed=5), ())
    site.workers[1].close()
    site.workers[1] = Rollups(site.home / "farthing.db", site.home / "rollups.db", dense_cells=500)
    while site.workers[1].step(now_ms=0).left:
        pass
    site.reader.totals(LedgerQuery(group_by=("session", "user")))
    while site.workers[1].step(now_ms=0).left:
        pass
    query = LedgerQuery(group_by=("session", "user"))
    assert not site.reader.answers(query)
    assert site.reader.answers(LedgerQuery(group_by=("team",)))
    assert site.reader.totals(query) == SqliteLedger(site.home / "farthing.db").totals(query)
    assert not site.workers[1].step(now_ms=0).left, "it is not tried again"
    site.close()


def test_only_so_many_cuboids_are_kept_and_the_least_asked_for_goes(site):
    worker = site.workers[0]
    site.importer.import_batch(lifelike_entries(50, seed=5), ())
    for number in range(40):
        worker.want(Cuboid.of((f"tag:t{number}",)), now_ms=number)
    worker.want(Cuboid.of(("tag:t16",)), now_ms=99)
    worker.want(Cuboid.of(("tag:new",)), now_ms=100)
    kept = {one.cuboid.dimensions[0] for one in rollup_file.cuboids(worker._connection) if not one.built_in}
    assert kept == {"tag:t16", "tag:new", *(f"tag:t{number}" for number in range(18, 40))}


def test_another_ledger_in_its_place_is_rolled_up_anew(site):
    site.importer.import_batch(lifelike_entries(500, seed=6), ())
    site.settled()
    site.importer.close()
    for path in site.home.glob("farthing.db*"):
        path.unlink()
    site.importer = SqliteImporter(site.home / "farthing.db")
    new = list(lifelike_entries(700, seed=7))
    site.importer.import_batch(new, ())
    site.workers[0].close()
    site.workers[0] = site.worker()
    query = LedgerQuery(group_by=("team",))
    assert site.reader.totals(query) == entry_totals(new, query), "before any worker looked"
    site.settled()
    assert site.reader.answers(query)
    assert site.reader.totals(query) == entry_totals(new, query)


def test_without_roll_ups_and_with_a_file_that_is_none_the_ledger_answers(tmp_path):
    importer = SqliteImporter(tmp_path / "farthing.db")
    importer.import_batch(lifelike_entries(100, seed=6), ())
    importer.close()
    ledger = SqliteLedger(tmp_path / "farthing.db")
    reader = RollupLedger(ledger, tmp_path / "rollups.db")
    query = LedgerQuery(group_by=("model",))
    assert reader.totals(query) == ledger.totals(query)
    other = sqlite3.connect(tmp_path / "rollups.db")
    other.execute("CREATE TABLE precious (a)")
    other.close()
    assert reader.totals(query) == ledger.totals(query)
    with pytest.raises(rollup_file.StoreUnavailable, match="not a file of roll-ups"):
        Rollups(tmp_path / "farthing.db", tmp_path / "rollups.db")


def test_a_file_of_an_older_form_is_made_anew(site):
    site.importer.import_batch(lifelike_entries(100, seed=6), ())
    site.settled()
    site.workers[0]._connection.execute("PRAGMA user_version = 99")
    query = LedgerQuery(group_by=("model",))
    assert not site.reader.answers(query)
    site.workers[0].close()
    site.workers[0] = site.worker()
    site.settled()
    assert site.reader.answers(query)
    assert site.reader.totals(query) == SqliteLedger(site.home / "farthing.db").totals(query)


STEPPING = """
import sys
from pathlib import Path
from farthing.adapters.rollup_job import Rollups

home = Path(sys.argv[1])
rollups = Rollups(home / "farthing.db", home / "rollups.db")
while True:
    rollups.step(now_ms=0, batch=int(sys.argv[2]))
"""


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def added(site: Site) -> int:
    """How many entries are in the cells."""
    with contextlib.closing(sqlite3.connect(site.home / "rollups.db")) as connection:
        (seq,) = connection.execute("SELECT seq FROM progress").fetchone()
    return int(seq)


def test_killed_in_the_middle_of_a_batch_nothing_is_missing_and_nothing_is_twice(site):
    chance = random.Random(1)
    entries = list(lifelike_entries(9_000, seed=8))
    site.importer.import_batch(entries, ())
    for worker in site.workers:
        worker.close()
    site.workers = []
    queries = [LedgerQuery(group_by=by) for by in (("team", "model"), ("day", "user"), ())]
    wanted = [entry_totals(entries, query) for query in queries]
    for _ in range(5):
        before = added(site)
        two = [subprocess.Popen([sys.executable, "-c", STEPPING, str(site.home), "83"]) for _ in range(2)]
        try:
            until(lambda before=before: added(site) > before)
            time.sleep(chance.uniform(0, 0.1))
        finally:
            for process in two:
                process.kill()
                process.wait()
        assert [site.reader.totals(query) for query in queries] == wanted
    site.workers = [site.worker()]
    site.settled()
    assert [site.reader.totals(query) for query in queries] == wanted


def test_the_thread_of_a_gateway_keeps_up_and_stops(site):
    query = LedgerQuery(group_by=("team",))
    rolling = Rolling(site.home / "farthing.db", site.home / "other.db", lambda: 10**13, enough=0)
    reader = RollupLedger(SqliteLedger(site.home / "farthing.db"), site.home / "other.db")
    site.importer.import_batch(lifelike_entries(300, seed=1), ())
    rolling.start()
    until(lambda: reader.answers(query) and rolling.gauges() == {"rollup_entries_waiting": 300})
    rolling.stop()
    assert reader.totals(query) == SqliteLedger(site.home / "farthing.db").totals(query)


def test_every_dimension_but_the_session_is_answered_from_the_start():
    from farthing.core.dimensions import ENTRY_DIMENSIONS, SCOPE_DIMENSIONS

    for one in {*SCOPE_DIMENSIONS, *ENTRY_DIMENSIONS} - {"session"}:
        assert any(cuboid.answers((one,)) for cuboid in BUILT_IN), one


SETS = st.lists(
    st.sampled_from(("team", "user", "model", "provider", "status", "kind", "tag:env")), min_size=1, max_size=5
)


@settings(max_examples=12, deadline=None)
@given(st.lists(SETS, min_size=1, max_size=6), st.lists(SETS, max_size=3), st.integers(1, 400))
def test_small_sets_summed_from_large_ones_are_those_summed_from_the_entries(sets, steps, count):
    with tempfile.TemporaryDirectory() as folder:
        importer = SqliteImporter(Path(folder) / "farthing.db")
        importer.import_batch(lifelike_entries(count, seed=count), ())
        importer.close()
        rollups = Rollups(Path(folder) / "farthing.db", Path(folder) / "rollups.db")
        connection = rollups._connection
        wanted = [
            Kept(number=at, cuboid=cuboid, state="ready", seq=0, built_in=True, cells=0, asked_at_ms=0)
            for at, cuboid in enumerate(dict.fromkeys(map(Cuboid.of, sets)), 1)
        ]
        rollup_batch.make(connection, [kept.cuboid for kept in wanted], 0, count)
        grouping = Grouping(connection, tuple(map(Cuboid.of, steps)))
        grouping.make(wanted)
        for kept in wanted:
            keys = names(("slot", *kept.cuboid.dimensions))
            for table, columns in (("batch", MEASURES), ("fixes", kept.cuboid.requests)):
                sums = ", ".join(f"sum({name(column)})" for column in columns)
                own = connection.execute(f"SELECT * FROM temp.{table}_{kept.number} ORDER BY {keys}").fetchall()
                direct = f"SELECT {keys}, {sums} FROM temp.{table} GROUP BY {keys} ORDER BY {keys}"
                assert own == connection.execute(direct).fetchall()
        grouping.drop(wanted)
        left = connection.execute("SELECT name FROM temp.sqlite_master WHERE type = 'table'").fetchall()
        assert not [one for (one,) in left if "_" in one and one.rsplit("_", 1)[1].isdigit()]
        rollups.close()


def test_a_step_that_does_not_condense_is_given_up_and_a_small_batch_does_not_tell(tmp_path):
    importer = SqliteImporter(tmp_path / "farthing.db")
    unlike = (Scope(user=f"u{at}", key=f"k{at}") for at in range(1_200))
    importer.import_batch([an_entry(f"e{at}", scope=scope) for at, scope in enumerate(unlike)], ())
    importer.close()
    rollups = Rollups(tmp_path / "farthing.db", tmp_path / "rollups.db")
    wanted = [
        Kept(number=at, cuboid=Cuboid.of((one,)), state="ready", seq=0, built_in=True, cells=0, asked_at_ms=0)
        for at, one in enumerate(("user", "key"), 1)
    ]
    grouping = Grouping(rollups._connection, (Cuboid.of(("user", "key")),))
    for high, steps in ((100, 1), (1_200, 1), (1_200, 0)):
        rollup_batch.make(rollups._connection, [kept.cuboid for kept in wanted], 0, high)
        assert len(grouping._take_steps(wanted)) == steps
    rollups.close()


def test_pages_count_a_request_once_that_has_entries_on_both_sides_of_midnight(site):
    today = START_MS + 24 * HOUR_MS
    said = [("a", START_MS), ("a", today), ("b", today)]
    entries = [
        an_entry(f"{at}", request_id=request, received_at_ms=at_ms) for at, (request, at_ms) in enumerate(said)
    ]
    site.importer.import_batch(entries, ())
    site.settled()
    pages = RememberedLedger(lambda: site.reader, lambda: site.reader, lambda: today + HOUR_MS)
    query = LedgerQuery(group_by=("team",), since_ms=START_MS, until_ms=today + HOUR_MS)
    assert pages.totals(query) == entry_totals(entries, query)


def test_a_wide_cuboid_counts_requests_for_all_and_for_none_of_its_differing_dimensions():
    wide = Cuboid.of(("team", "provider", "model", "kind", "reason", "status"))
    assert wide.answers(("team",))
    assert wide.answers(("provider", "model", "kind", "reason", "status"))
    assert not wide.answers(("model", "team"))


@pytest.mark.parametrize(
    ("waiting", "new", "passed_s", "age_ms", "due"),
    [
        (0, 0, 2.0, 10**6, False),
        (4_999, 10, 2.0, 1_000, False),  # few and fresh
        (4_999, 10, 2.0, 30_000, True),  # few, for long
        (5_000, 10, 2.0, 0, True),  # enough
        (5_000, 401, 2.0, 10**6, False),  # the processor is the calls'
        (5_000, 400, 2.0, 0, True),
        (499_999, 20_000, 2.0, 10**6, False),
        (500_000, 20_000, 2.0, 0, True),  # however busy
        (5_000, 5_000, 0.0, 0, True),  # the first look knows of no rate
        (5, 0, 2.0, -3_600_000, True),  # the clock was set back
    ],
)
def test_when_entries_are_summed(waiting: int, new: int, passed_s: float, age_ms: int, due: bool) -> None:
    assert is_due(waiting, new=new, passed_s=passed_s, age_ms=age_ms) is due


def test_new_sums_wait_until_nobody_asks_for_more_but_not_for_ever():
    quiet = Quiet()
    assert quiet.is_over(5, 100.0), "asked for before anybody looked"
    assert not quiet.is_over(9, 101.0)
    assert not quiet.is_over(9, 101.0 + QUIET_S - 1)
    assert quiet.is_over(9, 101.0 + QUIET_S)
    ends = next(at for at in range(1, 1_000) if quiet.is_over(10 + at, 200.0 + at))
    assert ends == 1 + QUIET_MAX_S


POSTED = ({"user": "u1"}, {"user": "u2", "team": "a"}, {"user": "nobody"}, {"key": "", "user": "u0"}, {"team": "b"},
          {"status": "201"}, {"kind": "adjustment", "user": "u1"})  # fmt: skip


@settings(max_examples=8, deadline=None, phases=(Phase.generate,), suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.lists(entries, min_size=1, max_size=200), min_size=1, max_size=4),
    st.integers(1, 300),
    st.sampled_from(POSTED),
    st.integers(1, 40),
)
def test_pages_that_look_only_where_a_value_is_are_those_that_look_everywhere(batches, batch, said, limit):
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder))
        query = LedgerQuery(where=tuple(said.items()), since_ms=START_MS + 1)
        for number, one in enumerate(batches):
            site.book(one)
            if number < len(batches) - 1 or len(one) % 2:
                site.workers[0].step(now_ms=0, batch=batch)
        newest = SqliteNewest(site.home / "farthing.db", site.home / "rollups.db", look_s=60)
        wanted = [one for one in reversed(site.booked) if entry_totals([one], query)[0].entries]
        found, cursor, pages = [], "", 0
        while cursor or not pages:
            page, cursor = newest.newest_entries(query, before=cursor, limit=limit)
            found, pages = found + list(page), pages + 1
        assert [one.id for one in found] == [one.id for one in wanted]
        if "user" in said:
            assert pages <= len(wanted) // limit + 1
        site.close()


LISTED = ("seq", "user", "key", "kind", "status", "received_at_ms")
SPANNED = (
    (("user", "u1"), ("team", "t")), (("user", "u1"), ("key", "k2")), (("status", "502"),),
    (("kind", "reversal"), ("user", "u2")), (("user", "nobody"),),
)  # fmt: skip


def spans_of(rows, where, *, known: int, batch: int, low: int, high: int, period: tuple[int, int] | None):
    connection = sqlite3.connect(":memory:")
    connection.execute("ATTACH ':memory:' AS ledger")
    rest = "customer DEFAULT '', session DEFAULT '', state DEFAULT 'priced', reason DEFAULT ''"
    connection.execute(f"CREATE TABLE ledger.entries ({names(LISTED)}, {rest})")
    connection.executemany(f"INSERT INTO ledger.entries ({names(LISTED)}) VALUES (?, ?, ?, ?, ?, ?)", rows)
    for table in rollup_postings.TABLES:
        connection.execute(table)
    for start in range(0, known, batch):
        rollup_postings.note(connection, start, min(known, start + batch))
    since_ms, until_ms = period or (None, None)
    found = rollup_postings.spans(
        connection, rollup_postings.known(where), seq=known, low=low, high=high, since_ms=since_ms, until_ms=until_ms
    )
    spans = list(found)
    connection.close()
    return spans


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**20),
    st.lists(st.integers(0, 600_000), min_size=3, max_size=3, unique=True),
    st.sampled_from(SPANNED),
    st.sampled_from((5_000, 77_777)),
    st.one_of(st.none(), st.lists(st.integers(0, 700_000), min_size=2, max_size=2, unique=True).map(sorted)),
)
def test_what_may_match_is_in_the_spans_and_they_go_down_without_meeting(seed, edges, where, batch, period):
    chance = random.Random(seed)
    rows = [
        (seq, chance.choice(("u1", "u2")), chance.choice(("k1", "k2", "k3")),
         chance.choice(("charge", "charge", "reversal")), chance.choice((200, 200, 502)),
         seq + chance.randrange(90_000))
        for seq in sorted(chance.sample(range(1, 600_000), 300))
    ]  # fmt: skip
    low, known, high = sorted(edges)
    spans = spans_of(rows, where, known=known, batch=batch, low=low, high=high, period=period)
    own = [(LISTED.index(name), value) for name, value in where if name in LISTED]
    alike = [row for row in rows if all(str(row[at]) == value for at, value in own)]
    matching = {row[0] for row in alike if low <= row[0] < high and (not period or period[0] <= row[-1] < period[1])}
    assert all(any(first <= seq < end for first, end in spans) for seq in matching)
    assert all(low <= first < end <= high for first, end in spans)
    assert all(newer[0] >= older[1] for newer, older in itertools.pairwise(spans))
    looked = sum(max(0, min(end, known + 1) - first) for first, end in spans)
    assert looked <= rollup_postings.BLOCK * len([row for row in alike if low - 64 < row[0] <= known])


def test_what_is_usual_is_not_noted_and_what_is_of_another_time_is_not_looked_up():
    assert rollup_postings.known((("status", "200"), ("kind", "charge"), ("team", "a"))) == ()
    rows = [(seq, "u1", "k1", "charge", 200, seq * 1_000) for seq in range(1, 100_000, 500)]
    spans = spans_of(
        rows, (("user", "u1"),), known=99_999, batch=7_000, low=1, high=100_000, period=(40_000_000, 50_000_000)
    )
    chunk = rollup_postings.CHUNK
    assert spans
    assert all(40_000 - chunk < first and end < 50_000 + chunk for first, end in spans)
