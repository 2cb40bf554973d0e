"""Pages over ledgers with more entries than can be read: what is cut, what is asked one by one; it adds up."""

import dataclasses
import sqlite3
import time
from contextlib import closing
from urllib.parse import parse_qsl

import pytest

from farthing.adapters.ledger_query import entry_totals
from farthing.adapters.rollup_cuboids import BUILT_IN, Cuboid
from farthing.adapters.rollup_file import FILE
from farthing.adapters.rollup_job import Rollups
from farthing.adapters.rollup_ledger import RollupLedger
from farthing.adapters.rollup_running import rolling
from farthing.adapters.sqlite_import import SqliteImporter
from farthing.adapters.sqlite_newest import SqliteNewest
from farthing.adapters.sqlite_reader import SqliteLedger
from farthing.core.allocation import AllocationRules, Rule
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery, PromptView, Scope, Totals
from farthing.insight import ownership
from farthing.insight.reports import sessions, spend, traces
from farthing.server.pages import bounds, state
from farthing.server.pages.ask import Ask, Person
from farthing.server.pages.blocks import TableBlock, plain
from farthing.server.pages.reading import RememberedLedger, ScopedLedger
from farthing.server.pages.views import allocation, explore, requests
from farthing.testing.lifelike import MONTH_MS, START_MS, lifelike_entries
from farthing.testing.newest import ReadNewest
from farthing.testing.records import an_entry

ENTRIES = tuple(lifelike_entries(2_000, seed=3))
NOW_MS = START_MS + MONTH_MS
TIMES = 4_000


class Large:
    """A ledger that says it had many times the entries it has; ``ready``: what its sums answer."""

    def __init__(self, entries: tuple[LedgerEntry, ...], *, ready: bool = False) -> None:
        self._entries = entries
        self._ready = ready
        self.asked: list[LedgerQuery] = []

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]:
        self.asked.append(query)
        rows = entry_totals(self._entries, query)
        counted = query.group_by in ((), ("hour",))
        return tuple(_times(row) for row in rows) if counted else rows

    def answers(self, query: LedgerQuery) -> bool:
        return self._ready

    def entries(self, *, request_id="", since_ms=0, after=""):
        return iter(self._entries)

    def exchanges(self, *, since_ms=0, after=""):
        return iter(())


def _times(row: Totals) -> Totals:
    fields = {name: getattr(row, name) for name in row.__struct_fields__}
    return Totals(**(fields | {"entries": row.entries * TIMES}))


def ask_of(inner, *said: tuple[str, str], form: str = "html") -> Ask:
    return Ask(
        state=state.read("/x", [("since", "30d"), *said], now_ms=NOW_MS),
        person=Person(name="a", role="admin"),
        now_ms=NOW_MS,
        ledger=ScopedLedger(inner, ReadNewest(lambda: inner), ()),
        sources=None,  # type: ignore[arg-type]  # not asked
        path={},
        form=form,
    )


@pytest.mark.parametrize("question", [sessions.query, traces.query])
@pytest.mark.parametrize(("ready", "most"), [(False, bounds.READ_MAX), (True, bounds.SUMMED_MAX)])
def test_a_question_of_very_many_values_is_cut_to_hours_that_can_be_read(question, ready, most):
    query, notes = bounds.bounded(ask_of(Large(ENTRIES, ready=ready)), question(since_ms=START_MS, until_ms=NOW_MS))
    kept = sum(query.since_ms <= one.received_at_ms < NOW_MS for one in ENTRIES) * TIMES
    assert query.since_ms % 3_600_000 == 0
    assert most / 2 < kept <= most
    (note,) = notes
    assert f"{most:,} entries" in note.text


def test_a_question_that_can_be_read_is_left_alone():
    asked = sessions.query(since_ms=NOW_MS - 3_600_000, until_ms=NOW_MS)
    assert bounds.bounded(ask_of(Large(ENTRIES[-20:])), asked) == (asked, ())
    whole = LedgerQuery(group_by=("session",))
    assert bounds.bounded(ask_of(Large(ENTRIES)), whole) == (whole, ())


def test_an_export_is_asked_for_more_at_once_than_entries():
    large = Large(ENTRIES)
    exported = RememberedLedger(lambda: large, lambda: Large(()), lambda: NOW_MS)
    fresh = RememberedLedger(large_opener := (lambda: large), large_opener, lambda: NOW_MS)
    query = traces.query(since_ms=START_MS, until_ms=NOW_MS)
    assert ask_of(exported).ledger.quick(query)
    assert not ask_of(fresh).ledger.quick(query)


RULES = AllocationRules(rules=(Rule(owner="{team}"), Rule(owner="Bots", match=(("tag:env", "prod"),))))


def test_cost_without_an_owner_is_told_one_by_one_where_there_is_too_much_and_sums_to_the_same():
    small, large = ask_of(Large(ENTRIES[:10])), ask_of(Large(ENTRIES))
    _, ((names, whole),) = allocation._asked(small, (RULES,), START_MS, NOW_MS)
    query, apart = allocation._asked(large, (RULES,), START_MS, NOW_MS)
    assert names == ownership.QUEUE
    assert [names for names, _ in apart] == [("key",), ("feature",), ("user",)]
    assert {query.group_by, *(one.group_by for _, one in apart)} == set(ownership.questions(RULES))
    joint = allocation._untagged(RULES, entry_totals(ENTRIES, whole), whole.group_by, ownership.QUEUE, 1).table.total
    for names, one in apart:
        table = allocation._untagged(RULES, entry_totals(ENTRIES, one), one.group_by, names, 1).table
        assert (table.total[1], table.total[-1]) == (joint[3], joint[-1])
        assert table.total[1] > 0


def test_what_allocation_will_ask_is_summed_before_anybody_asks(tmp_path):
    importer = SqliteImporter(tmp_path / "farthing.db")
    importer.import_batch(lifelike_entries(6_000, seed=2), ())
    importer.close()
    ledger = SqliteLedger(tmp_path / "farthing.db")
    wanted = ownership.questions(RULES)
    assert not any(cuboid.answers(Cuboid.of(wanted[0]).dimensions) for cuboid in BUILT_IN)
    job = rolling(ledger, lambda: 10**13, wanted)
    Rollups(ledger.path, tmp_path / FILE).close()
    with closing(sqlite3.connect(tmp_path / FILE)) as busy:
        busy.execute("BEGIN IMMEDIATE")
        job.start()
        time.sleep(8)  # longer than it looks, and than SQLite waits: another process is at it
    reader = RollupLedger(ledger, tmp_path / FILE)
    query = ownership.query((RULES,), since_ms=START_MS, until_ms=NOW_MS, also=(ownership.DETAIL,))
    until = time.monotonic() + 60
    while not reader.answers(query) and time.monotonic() < until:
        time.sleep(0.1)
    job.stop()
    assert reader.answers(query)
    assert reader.totals(query) == ledger.totals(query)


class Wide(Large):
    """Its sums are so many that only the largest groups are asked for in full."""

    def cells(self, query: LedgerQuery) -> int | None:
        return 100_000

    def amounts(self, query: LedgerQuery):
        return {row.group: (row.amount, row.entries) for row in entry_totals(self._entries, query)}

    def some(self, query: LedgerQuery, groups):
        assert len(groups) <= explore.LIMIT
        return tuple(row for row in entry_totals(self._entries, query) if row.group in set(groups))

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]:
        rows = entry_totals(self._entries, query)
        assert len(rows) <= explore.LIMIT, "all groups in full"
        return rows


class Unsummed(Wide):
    """Nobody asked before."""

    def cells(self, query: LedgerQuery) -> int | None:
        return None

    def amounts(self, query: LedgerQuery):
        return {row.group: (row.amount, row.entries * TIMES) for row in entry_totals(self._entries, query)}


class Small(Large):
    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]:
        return entry_totals(self._entries, query)


@pytest.mark.parametrize("by", ["user", "team,user", "day,user", "customer,model,team", "user,feature,session"])
@pytest.mark.parametrize("more", [(), (("compare", "1"), ("since", "10d"))])
def test_explore_shows_the_same_whether_all_groups_are_read_or_only_those_with_a_row(by, more):
    pages = [
        explore.build(ask_of(kind(ENTRIES, ready=True), ("by", by), *more, form="json")) for kind in (Wide, Small)
    ]
    assert [plain(page) for page in pages[:1]] == [plain(page) for page in pages[1:]]
    assert "(other" in str(plain(pages[0])) or more


def test_explore_reads_so_many_entries_as_are_there_at_once_and_says_so():
    query = spend.query(("user", "model"), since_ms=START_MS, until_ms=NOW_MS)
    cut, notes = bounds.at_once(ask_of(Unsummed(ENTRIES)), query)
    hour = [one for one in ENTRIES if cut.since_ms - 3_600_000 <= one.received_at_ms]
    kept = sum(one.received_at_ms >= cut.since_ms for one in hour)
    assert START_MS < cut.since_ms < NOW_MS
    assert (kept - 1) * TIMES <= bounds.QUICK_ENTRIES + TIMES
    (note,) = notes
    assert "whole" in note.links[0].href
    whole = ask_of(Unsummed(ENTRIES), ("whole", "1"))
    files = (ask_of(Unsummed(ENTRIES), form=form) for form in ("csv", "json"))
    for ask in (whole, *files, ask_of(Unsummed(ENTRIES[-3:])), ask_of(Large(ENTRIES))):
        assert bounds.at_once(ask, query) == (query, ())


class Many(Wide):
    def cells(self, query: LedgerQuery) -> int | None:
        return 10 * bounds.QUICK_CELLS * (NOW_MS - max(query.since_ms, START_MS)) // MONTH_MS


def test_explore_adds_up_so_many_days_as_are_there_at_once():
    query = spend.query(("user",), since_ms=0, until_ms=NOW_MS)
    ask = ask_of(Many(ENTRIES, ready=True))
    for times, days in ((1, 3), (2, 1.5)):
        cut, notes = bounds.at_once(ask, query, times=times)
        assert abs((NOW_MS - cut.since_ms) / bounds.DAY_MS - days) <= 1
        assert len(notes) == 1


def test_requests_of_what_was_never_seen_end_at_once_and_all_others_can_be_followed(tmp_path):
    SqliteImporter(tmp_path / "farthing.db").import_batch(lifelike_entries(4_500, seed=2), ())
    with closing(Rollups(tmp_path / "farthing.db", tmp_path / FILE)) as rollups:
        rollups.step(now_ms=0)
    ledger = RollupLedger(SqliteLedger(tmp_path / "farthing.db"), tmp_path / FILE)
    newest = SqliteNewest(tmp_path / "farthing.db", tmp_path / FILE, look_s=0)
    for where, ends in ((("model", "gpt-17"), True), (("reason", "unknown_model"), False), (("status", "418"), True)):
        ask = ask_of(ledger, ("where", "=".join(where)), ("show", "booked"), ("since", "30d"))
        ask = dataclasses.replace(ask, ledger=ScopedLedger(ask.ledger._inner, newest, ()))
        said = [link.text for block in requests.build(ask).blocks if isinstance(block, tuple) for link in block]
        assert ("Older →" not in said) == ends


@pytest.mark.parametrize("count", [30, 90])
def test_no_refused_call_is_lost_where_a_page_has_no_time_for_all(tmp_path, count):
    entries = [an_entry(f"e{at:03}", received_at_ms=NOW_MS - 1_000_000 + 1_000 * at) for at in range(count)]
    refused = [
        Exchange(
            request_id=f"r{at:03}", received_at_ms=NOW_MS - 1_000_500 + 500 * at, scope=Scope(), dialect="openai",
            view=PromptView(endpoint="chat", model="gpt-4o", body_bytes=9), outcome="refused", status=429,
        )
        for at in range(120)
    ]  # fmt: skip
    SqliteImporter(tmp_path / "farthing.db").import_batch(entries, refused)
    newest = SqliteNewest(tmp_path / "farthing.db", look_s=0)
    ledger = ScopedLedger(SqliteLedger(tmp_path / "farthing.db"), newest, ())
    found, onward = [], ""
    for _ in range(60):
        ask = dataclasses.replace(ask_of(None, *parse_qsl(onward.partition("?")[2])), ledger=ledger)
        page = requests.build(ask)
        (table,) = [block.table for block in page.blocks if isinstance(block, TableBlock)]
        found += [row[1] for row in table.rows]
        onward = page.onward
        if not onward:
            break
    assert sorted(found) == sorted([*(one.request_id for one in entries), *(one.request_id for one in refused)])
