"""Cost per outcome: reported twice counts once, intervals cover, sums are the ledger's, errors name every problem."""

import math
import random

import pytest

from farthing.adapters.practice_sqlite import SqlitePractice
from farthing.core.errors import Conflict
from farthing.core.types import Scope
from farthing.core.unit_cost import Cluster, ratio
from farthing.insight.outcome_rows import read_rows
from farthing.ports.outcomes import Outcome
from farthing.testing.practice import NOW_MS, Home
from farthing.testing.records import an_entry

CENT = 10**7


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    home.book(
        an_entry(f"{feature}-{n}-{call}", (n % 5 + 1) * CENT, received_at_ms=NOW_MS - 3_600_000,
                 scope=Scope(feature=feature, session=f"{feature}-{n}", user=f"u{n % 7}"))
        for feature in ("support", "chat") for n in range(60) for call in range(3)
    )  # fmt: skip
    home.book(
        [an_entry("loose", 5 * CENT, request_id="req-1", scope=Scope(feature="support"), received_at_ms=NOW_MS - 9)]
    )
    return home


def report(home: Home, *lines: str):
    file = home.folder / "outcomes.csv"
    file.write_text("\n".join(("id,kind,session,request_id,value_usd,success", *lines)) + "\n", encoding="utf-8")
    return home.run("outcomes", "import", str(file))


def test_cost_per_outcome_takes_all_cost_and_successful_outcomes_only(home):
    lines = [f"t{n},ticket_resolved,support-{n},,0.50,{'true' if n % 2 else 'false'}" for n in range(60)]
    assert report(home, *lines, "t99,ticket_resolved,,req-1,0.50,true").exit_code == 0
    table = home.json("unit", "--outcome", "ticket_resolved", "--by", "feature")
    rows = {row["feature"]: row for row in table["rows"]}
    cost = sum((n % 5 + 1) * 3 * CENT for n in range(60)) + 5 * CENT
    assert rows["support"]["cost_nusd"] == cost
    assert (rows["support"]["outcomes"], rows["support"]["reported"]) == (31, 61)
    assert rows["support"]["each_nusd"] == round(cost / 31)
    assert rows["support"]["low_nusd"] < rows["support"]["each_nusd"] < rows["support"]["high_nusd"]
    assert rows["support"]["margin_nusd"] == 31 * 50 * CENT - cost
    assert rows["chat"]["each_nusd"] is None


def test_reporting_twice_changes_nothing_and_other_content_is_a_conflict(home):
    assert "Took 1 outcomes; 0" in report(home, "t1,ticket_resolved,support-1,,,true").stdout
    assert "Took 0 outcomes; 1" in home.ok("outcomes", "import", str(home.folder / "outcomes.csv"))
    store = SqlitePractice(home.folder / "farthing.db")
    one = Outcome(id="x", kind="k", at_ms=NOW_MS, session="s")
    assert store.add([one]) == (1, 0)
    assert store.add([one]) == (0, 1)
    with pytest.raises(Conflict):
        store.add([Outcome(id="y", kind="k", at_ms=NOW_MS, session="s"), Outcome(id="x", kind="other", at_ms=1)])
    assert [found.id for found in store.all(kind="k")] == ["x"]
    store.close()


def test_every_bad_row_is_named_and_nothing_is_taken(home):
    result = report(home, "t1,ticket_resolved,support-1,,,true", ",Bad Kind,,,a lot,perhaps")
    assert result.exit_code == 1
    for problem in ("line 3", "id is missing", "kind is a name", "session or request_id", "value_usd", "success"):
        assert problem in result.stderr
    assert home.json("outcomes", "ls")["rows"] == []


def test_outcomes_of_calls_that_the_ledger_does_not_know_are_told(home):
    report(home, "t1,ticket_resolved,nowhere,,,true", "t2,ticket_resolved,support-2,,,true")
    table = home.json("unit", "--outcome", "ticket_resolved", "--by", "")
    assert table["rows"][0]["outcomes"] == 1
    assert any("1 outcomes are of sessions" in note for note in table["notes"])


def test_cost_per_user_counts_each_user_once(home):
    rows = {row["feature"]: row for row in home.json("unit", "--per", "user")["rows"]}
    assert rows["chat"]["count"] == 7
    assert rows["chat"]["each_nusd"] == round(rows["chat"]["cost_nusd"] / 7)


def test_an_unknown_kind_names_the_known_ones(home):
    report(home, "t1,ticket_resolved,support-1,,,true")
    result = home.run("unit", "--outcome", "ticket_closed")
    assert result.exit_code == 1
    assert "ticket_resolved" in result.stderr


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Sessions of 1 to 9 calls, heavy-tailed cost, an outcome in 40 % of them: 95 % intervals over 400 samples."""
    chance, covered, samples = random.Random(5), 0, 400
    truth = 5 * math.exp(0.7**2 / 2) * CENT / 0.4
    for _ in range(samples):
        made = ratio([_session(chance) for _ in range(150)])
        covered += made.low is not None and made.high is not None and made.low <= truth <= made.high
    assert 0.91 <= covered / samples <= 0.98


def _session(chance: random.Random) -> Cluster:
    calls = chance.randint(1, 9)
    return Cluster(int(sum(chance.lognormvariate(0, 0.7) for _ in range(calls)) * CENT), int(chance.random() < 0.4))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_outcomes_come_in_any_usual_separator_with_times_and_lines_of_the_file(separator):
    rows = ["id,kind,at,session,value_usd", "a,won,1795255200000,s1,1.50", "", '"b\nb",won,,s2,1', "c,won,noon,s3,"]
    found, bad = read_rows("\n".join(rows).replace(",", separator), jsonl=False, now_ms=NOW_MS)
    assert [(one.id, one.at_ms, one.value_nusd) for one in found] == [("a", 1_795_255_200_000, 1_500_000_000)]
    assert [one.partition(":")[0] for one in bad] == ["line 5", "line 6"]


def test_what_has_no_price_is_no_free_user_and_no_free_outcome(tmp_path):
    """Two users at four cents; a third whose calls have no price would halve nothing."""
    home = Home(tmp_path)
    at = {"received_at_ms": NOW_MS - 3_600_000}
    home.book(
        [
            *(
                an_entry(f"p{n}", 4 * CENT, scope=Scope(feature="a", session=f"s{n}", user=f"u{n}"), **at)
                for n in "12"
            ),
            an_entry("p3", None, scope=Scope(feature="a", session="s3", user="u3"), **at),
            an_entry("q", None, scope=Scope(feature="b", session="s4", user="u4"), **at),
            an_entry("r", None, request_id="req-9", scope=Scope(feature="b"), **at),
        ]
    )
    lines = [f"t{n},solved,s{n},,1.00,true" for n in range(1, 5)]
    assert report(home, *lines, "t9,solved,,req-9,1.00,true").exit_code == 0
    table = home.json("unit", "--outcome", "solved", "--by", "feature")
    heads = home.json("unit", "--per", "user", "--by", "feature")
    for found in (table, heads):
        rows = {row["feature"]: row for row in found["rows"]}
        assert (rows["a"]["cost_nusd"], rows["a"]["each_nusd"]) == (8 * CENT, 4 * CENT)
        assert (rows["b"]["cost_nusd"], rows["b"]["each_nusd"]) == (None, None)
        assert any("3 entries without a known price" in note for note in found["notes"])
    assert any("3 outcomes are of sessions or requests without known cost" in note for note in table["notes"])
    month = home.json("chargeback", "--month", "2026-11")
    assert month["total"]["cost_nusd"] == 8 * CENT


def test_a_month_without_any_price_has_no_total(tmp_path):
    home = Home(tmp_path)
    home.book([an_entry("p", None, scope=Scope(feature="a", team="t"), received_at_ms=NOW_MS - 3_600_000)])
    for command in (("chargeback", "--month", "2026-11"), ("allocate", "run", "--since", "2026-11")):
        assert home.json(*command)["total"]["cost_nusd"] is None
    (row,) = home.json("report", "--savings", "--by", "team")["rows"]
    assert row["spend_nusd"] is None
