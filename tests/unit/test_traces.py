"""Traces and agents: from traceparent and tags to what one run, one agent and one successful request cost."""

import itertools
from collections import defaultdict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters.sqlite_import import SqliteImporter
from farthing.adapters.sqlite_newest import SqliteNewest
from farthing.core.types import AttemptFact, Exchange, KeyRecord, LedgerQuery, PromptView, Scope, Totals
from farthing.server.auth import scope_of
from farthing.server.pages.bounds import newest_hours
from farthing.testing.months import exchange as logged
from farthing.testing.newest import ReadNewest
from farthing.testing.practice import NOW_MS, Home
from farthing.testing.records import an_entry

USD = 10**9
VIEW = PromptView(endpoint="chat", model="gpt-4o")
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def key(**fields):
    return KeyRecord(id="k", name="k", hash="h", hint="", created_at_ms=1, **{"scope": Scope(), **fields})


def tags(*headers, **fields):
    return dict(scope_of(key(**fields), list(headers), VIEW).tags)


def test_a_trace_is_named_by_traceparent_unless_tags_say_otherwise():
    parent = (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())
    assert tags(parent) == {"trace": TRACE, "span": SPAN}
    assert tags((b"x-farthing-tags", b"trace=mine"), parent) == {"trace": "mine", "span": SPAN}
    assert tags(parent, (b"x-farthing-tags", b"trace=mine,agent=a")) == {"trace": "mine", "span": SPAN, "agent": "a"}
    assert tags(parent, scope=Scope(tags=(("trace", "fixed"),)))["trace"] == "fixed"
    assert tags(parent, refine=("user",)) == {}


@pytest.mark.parametrize(
    "value",
    [
        f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE[:-1]}-{SPAN}-01", "", "x",
        f"00-{TRACE}-{SPAN}", f"00-{TRACE}-{SPAN}-01;evil", f"0-{TRACE}-{SPAN}-01",
    ],
)  # fmt: skip
def test_what_is_no_trace_context_names_none(value):
    assert tags((b"traceparent", value.encode())) == {}


def test_a_context_of_zeros_names_none_and_later_versions_are_read():
    assert tags((b"traceparent", f"00-{'0' * 32}-{'0' * 16}-01".encode())) == {}
    assert tags((b"traceparent", f"01-{TRACE}-{SPAN}-01-more".encode())) == {"trace": TRACE, "span": SPAN}


def scope(trace, agent, step="", session=""):
    found = {"trace": trace, "agent": agent, "step": step}
    return Scope(team="a", session=session, tags=tuple(sorted((n, v) for n, v in found.items() if v)))


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path)
    calls = [
        ("plan", scope("t1", "planner", "plan", "s1"), 4, {}),
        ("find", scope("t1", "searcher", "search", "s1"), 2, {"error": "upstream_error", "status": 502}),
        ("tell", scope("t1", "searcher", "tell", "s1"), 6, {}),
        ("next", scope("t2", "planner", "plan", "s2"), 8, {}),
        ("loose", Scope(team="b"), 10, {}),
    ]
    made.book(
        msgspec.structs.replace(
            an_entry(name, dollars * USD, scope=who, received_at_ms=NOW_MS - 3_600_000 + place * 1_000), **more
        )
        for place, (name, who, dollars, more) in enumerate(calls)
    )
    return made


def test_cost_by_trace_and_agent_is_what_the_entries_say(home):
    by_trace = {row["tag:trace"]: row["cost_nusd"] for row in home.json("report", "--by", "trace")["rows"]}
    assert by_trace == {"t1": 12 * USD, "t2": 8 * USD, "(none)": 10 * USD}
    by_agent = {row["tag:agent"]: row["cost_nusd"] for row in home.json("report", "--by", "agent")["rows"]}
    assert by_agent == {"planner": 12 * USD, "searcher": 8 * USD, "(none)": 10 * USD}
    (only,) = home.json("report", "--by", "step", "--where", "agent=searcher", "--where", "step=tell")["rows"]
    assert only["cost_nusd"] == 6 * USD


def test_unit_costs_are_per_request_success_session_trace_and_agent(home):
    (row,) = home.json("metrics", "--by", "team", "--where", "team=a")["rows"]
    assert row["per_request_nusd"] == 5 * USD
    assert row["per_success_nusd"] == round(20 * USD / 3)
    assert row["per_session_nusd"] == row["per_trace_nusd"] == row["per_agent_nusd"] == 10 * USD
    rows = {row["tag:agent"]: row for row in home.json("metrics", "--by", "agent")["rows"]}
    assert rows["planner"]["per_trace_nusd"] == 6 * USD
    assert rows["(none)"]["per_trace_nusd"] is None
    assert rows["planner"]["per_1k_input_nusd"] is not None


def test_a_trace_is_told_call_by_call(home):
    table = home.json("trace", "t1")
    assert [(row["agent"], row["step"], row["after_ms"], row["cost_nusd"]) for row in table["rows"]] == [
        ("planner", "plan", 0, 4 * USD), ("searcher", "search", 1_000, 2 * USD), ("searcher", "tell", 2_000, 6 * USD),
    ]  # fmt: skip
    assert table["total"]["cost_nusd"] == 12 * USD
    assert home.run("trace", "t9").exit_code == 1


@given(st.lists(st.integers(1, 50), max_size=12), st.integers(1, 200))
def test_a_long_period_is_cut_to_its_newest_hours(counts, most):
    rows = [Totals(group=(f"2026-11-21T{place:02}",), entries=count) for place, count in enumerate(counts, 1)]
    first = newest_hours(rows, most)
    kept = [row.entries for row in rows if row.group[0] >= first]
    assert len(kept) <= 1 or sum(kept) <= most
    assert (len(kept) == len(rows)) == (first == "")
    if first:
        assert sum(counts[-len(kept) - 1 :]) > most


CALLS = st.lists(
    st.tuples(
        st.integers(0, 400), st.sampled_from(["search", "legal"]), st.sampled_from(["booked", "refused", "failed"])
    ),
    max_size=60,
)


@settings(max_examples=25, deadline=None)
@given(
    CALLS, st.integers(0, 400), st.integers(1, 400), st.sampled_from([(), (("team", "search"),)]), st.integers(1, 9)
)
def test_calls_that_nothing_was_booked_of_come_once_each_newest_first(
    tmp_path_factory, calls, since, span, where, limit
):
    """Both ways of going backwards against a plain filter over the log."""
    entries, log = [], []
    for place, (at_ms, team, outcome) in enumerate(calls):
        name = f"r{place:03}"
        entry = an_entry(name, scope=Scope(team=team), received_at_ms=at_ms)
        if outcome == "booked":
            entries.append(entry)
            log.append(logged(entry))
            continue
        tries = (AttemptFact(attempt=1, provider="p", model="m", status=503, started_at_ms=at_ms, latency_ms=1),)
        log.append(Exchange(
            request_id=name, received_at_ms=at_ms, scope=Scope(team=team), dialect="openai", view=VIEW,
            outcome=outcome, status=429, attempts=tries if outcome == "failed" else (),
        ))  # fmt: skip
    file = tmp_path_factory.mktemp("log") / "farthing.db"
    importer = SqliteImporter(file)
    importer.import_batch(entries, log)
    importer.close()
    query = LedgerQuery(since_ms=since, until_ms=since + span, where=where)
    wanted = [
        one for one in log
        if one.outcome != "answered" and since <= one.received_at_ms < since + span
        and (not where or one.scope.team == "search")
    ]  # fmt: skip

    class Log:
        def exchanges(self, *, since_ms=0, after=""):
            return (one for one in log if one.received_at_ms >= since_ms)

    for newest in (SqliteNewest(file), ReadNewest(Log)):
        found, cursor = [], ""
        for _ in itertools.count():
            page, cursor = newest.newest_unbooked(query, before=cursor, limit=limit)
            assert len(page) <= limit
            found += page
            if not cursor:
                break
        by_time = defaultdict(set)
        for one in wanted:
            by_time[one.received_at_ms].add(one.request_id)
        assert len(found) == len(wanted)
        assert {one.request_id for one in found} == {one.request_id for one in wanted}
        assert [one.received_at_ms for one in found] == sorted((one.received_at_ms for one in wanted), reverse=True)
