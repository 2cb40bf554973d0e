"""``why``, ``forecast`` and ``anomalies`` over real ledgers: sums, incidents, marks, calendars and rules."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.core.incidents import incidents
from farthing.core.series import Detector
from farthing.core.types import Scope
from farthing.insight.reports import month as month_report
from farthing.insight.reports.why import build
from farthing.insight.slices import queries, slices
from farthing.testing.lifelike import MONTH_MS, START_MS, lifelike_entries
from farthing.testing.practice import DAY_MS, NOW_MS, Home
from farthing.testing.records import an_entry

MIDNIGHT = NOW_MS - NOW_MS % DAY_MS
USD = 10**9


def days(count: int, spike: dict[int, float] | None = None, *, feature: str = "chat", noise: int = 7):
    """``count`` days up to yesterday, one entry each, weekends at 0.4; ``spike``: factor by days ago."""
    chance = random.Random(noise)
    for ago in range(count, 0, -1):
        at_ms = MIDNIGHT - ago * DAY_MS + 3_600_000
        weekend = (at_ms // DAY_MS + 3) % 7 >= 5
        dollars = 100 * (0.4 if weekend else 1.0) * chance.uniform(0.92, 1.08) * (spike or {}).get(ago, 1.0)
        user = "ada" if ago not in (spike or {}) else "bob"
        yield an_entry(
            f"{feature}-{ago}", int(dollars * USD), scope=Scope(feature=feature, user=user), received_at_ms=at_ms
        )


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def test_a_change_is_explained_to_the_nano_dollar(home):
    home.book(lifelike_entries(3_000, seed=3))
    home.now_ms = START_MS + MONTH_MS
    table = home.json("why", "--since", "14d", "--by", "team", "--limit", "0")
    now = home.json("report", "--by", "team", "--since", "14d")["total"]["cost_nusd"]
    both = home.json("report", "--by", "team", "--since", "28d")["total"]["cost_nusd"]
    causes = ("volume", "mix", "retries", "tokens", "price", "cache")
    assert table["total"]["change_nusd"] == now - (both - now) != 0
    for row in (*table["rows"], table["total"]):
        assert sum(row[f"{cause}_nusd"] for cause in causes) == row["change_nusd"]
    for cause in causes:
        assert sum(row[f"{cause}_nusd"] for row in table["rows"]) == table["total"][f"{cause}_nusd"]


def test_longer_prompts_are_told_from_more_of_them(home):
    for week, (calls, tokens) in enumerate(((10, 2_000_000), (10, 1_000_000))):
        home.book(
            an_entry(f"{week}-{n}", tokens * 2_500, tokens=(("input", tokens),), scope=Scope(feature="rag"),
                     received_at_ms=NOW_MS - week * 7 * DAY_MS - (n + 1) * 3_600_000)
            for n in range(calls)
        )  # fmt: skip
    (row,) = home.json("why", "--since", "7d", "--by", "feature")["rows"]
    assert row["tokens_nusd"] == row["change_nusd"] == 10 * 1_000_000 * 2_500
    assert row["volume_nusd"] == row["price_nusd"] == row["cache_nusd"] == 0


def test_a_lost_cache_is_called_so(home):
    cached, plain = (("input", 100_000), ("input_cache_read", 900_000)), (("input", 1_000_000),)
    for week, (tokens, cost) in enumerate(((plain, 2_500_000_000), (cached, 1_375_000_000))):
        home.book([an_entry(f"{week}", cost, tokens=tokens, received_at_ms=NOW_MS - week * 7 * DAY_MS - 3_600_000)])
    (row,) = home.json("why", "--since", "7d", "--by", "model")["rows"]
    assert row["cache_nusd"] == row["change_nusd"] == 1_125_000_000


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), width=st.integers(0, 2))
def test_every_change_of_any_traffic_sums(seed, width):
    from farthing.adapters.ledger_query import entry_totals

    entries = list(lifelike_entries(300, seed=seed))
    middle, by = START_MS + MONTH_MS // 2, ("team", "feature")[:width]
    found = []
    for since, until in ((START_MS, middle), (middle, START_MS + 2 * MONTH_MS)):
        first, second = queries(by, since_ms=since, until_ms=until)
        found.append(
            slices(entry_totals(entries, first), entry_totals(entries, second), first.group_by,
                   lambda provider, model, tokens, at_ms: tokens[0] * 3 + tokens[1] * 7, at_ms=since)
        )  # fmt: skip
    table = build(found[0], found[1], by)
    change = sum(one.cost_nusd for one in found[1].values()) - sum(one.cost_nusd for one in found[0].values())
    assert sum(row[-1] for row in table.rows) == change
    assert all(sum(row[width:-1]) == row[-1] for row in table.rows)


def test_a_month_is_forecast_with_a_band_and_its_own_error(home):
    home.book(days(170))
    table = home.json("forecast", "--by", "feature")
    (row,) = table["rows"]
    assert row["method"] == "profile+trend"
    assert row["low_nusd"] < row["expected_nusd"] < row["high_nusd"]
    workdays, weekends = 21, 9  # November 2026
    assert row["expected_nusd"] == pytest.approx((workdays * 100 + weekends * 40) * USD, rel=0.05)
    assert table["total"]["expected_nusd"] == row["expected_nusd"]


def test_monthly_budgets_are_held_against_the_forecast(tmp_path):
    home = Home(tmp_path, config='[[budgets]]\nname="chat"\nper="month"\nusd="1500"\nmatch={feature="chat"}\n'
                '[[budgets]]\nname="roomy"\nper="month"\nusd="9000"\n')  # fmt: skip
    home.book(days(120))
    rows = {row["budget"]: row for row in home.json("forecast", "--budgets")["rows"]}
    assert rows["chat"]["outlook"] == "will be passed"
    assert rows["roomy"]["outlook"] == "holds"


def test_a_runaway_is_one_incident_with_its_user_and_its_requests(home):
    home.book(days(100, {3: 4.0, 2: 4.0}))
    home.book(days(100, feature="rank", noise=8))
    (row,) = home.json("anomalies", "ls", "--since", "20d")["rows"]
    assert (row["slice"], row["kind"]) == ("chat", "spike")
    assert row["began"].startswith("2026-11-18")
    assert row["until"].startswith("2026-11-20")
    assert row["so_far_nusd"] == pytest.approx(600 * USD, rel=0.2)
    assert row["top"].startswith("user bob")
    assert set(row["examples"].split(", ")) == {"request-chat-3", "request-chat-2"}
    opened = home.json("anomalies", "explain", row["id"])
    assert sum(one["change_nusd"] for one in opened["rows"]) == pytest.approx(row["so_far_nusd"], rel=0.2)


def test_an_acknowledged_incident_is_not_open_and_keeps_its_first_mark(home):
    home.book(days(100, {1: 5.0}))
    (row,) = home.json("anomalies", "ls", "--open")["rows"]
    home.ok("anomalies", "ack", row["id"], "--by", "grace", "--note", "load test")
    assert home.json("anomalies", "ls", "--open")["rows"] == []
    (seen,) = home.json("anomalies", "ls")["rows"]
    assert seen["acknowledged"].startswith("grace")
    assert home.run("anomalies", "ack", row["id"]).exit_code == 1


def test_expected_days_say_nothing_and_teach_nothing(home):
    home.book(days(100, {10: 6.0, 3: 6.0}))
    assert len(home.json("anomalies", "ls")["rows"]) == 2
    home.ok("anomalies", "expected", "2026-11-11", "2026-11-11", "--why", "launch")
    (row,) = home.json("anomalies", "ls")["rows"]
    assert row["began"].startswith("2026-11-18")
    (entry,) = home.json("anomalies", "expected")["rows"]
    home.ok("anomalies", "expected", "--remove", entry["id"])
    assert len(home.json("anomalies", "ls")["rows"]) == 2


def test_a_rule_is_tried_before_it_is_saved(home):
    home.book(days(100, {3: 2.0}))
    tried = home.json("anomalies", "backtest", "--min-usd", "500")
    assert tried["rows"] == []
    assert "0 new, 1 fewer" in tried["notes"][0]
    assert len(home.json("anomalies", "ls")["rows"]) == 1
    home.ok("anomalies", "backtest", "--min-usd", "500", "--save")
    assert home.json("anomalies", "ls")["rows"] == []


def test_a_step_is_one_incident_from_where_it_began():
    values = [100.0 * (0.4 if n % 7 >= 5 else 1.0) * (1.4 if n >= 70 else 1.0) for n in range(80)]
    (run,) = incidents(values, Detector())
    assert run.first == 70
    assert run.open
    assert run.excess == pytest.approx(sum(values[70:]) * 0.4 / 1.4, rel=0.02)
    assert incidents(values, Detector(), range(70, 80)) == []


@pytest.mark.parametrize(
    "arguments", [["why", "--since", "all"], ["why", "--by", "day"], ["anomalies", "expected", "2026-13-01"],
                  ["anomalies", "expected", "2026-11-01"], ["forecast", "--by", "colour"],
                  ["anomalies", "backtest", "--z", "nan"], ["anomalies", "backtest", "--min-usd", "inf", "--save"],
                  ["budget", "explain", "--team", "a", "--usd", "nan"], ["budget", "explain", "--usd", "-1"]]
)  # fmt: skip
def test_what_cannot_be_meant_is_wrong_usage(home, arguments):
    assert home.run(*arguments).exit_code == 2


def test_a_month_with_credits_is_booked_as_the_ledger_has_it(tmp_path):
    """$1 a day, and a credit of $5 on the 10th: 21 days come to 21 less 5, and about $9 are to come."""
    home = Home(tmp_path)
    entries = [
        an_entry(f"e{ago}", USD, scope=Scope(team="a"), received_at_ms=MIDNIGHT - ago * DAY_MS + 1)
        for ago in range(51)
    ]
    credit = an_entry("credit", -5 * USD, scope=Scope(team="a"), received_at_ms=MIDNIGHT - 11 * DAY_MS + 2)
    home.book([*entries, credit])
    table = home.json("forecast", "--by", "team")
    ledger = home.json("report", "--by", "", "--since", "2026-11")["rows"][0]["cost_nusd"]
    for row in (*table["rows"], table["total"]):
        assert row["booked_nusd"] == ledger == 16 * USD
        assert row["expected_nusd"] == pytest.approx(25 * USD, rel=0.03)
    found = month_report.read(home.ledger.totals(month_report.query((), NOW_MS)), NOW_MS)
    assert found.expected == pytest.approx(25 * USD, rel=0.03)


def test_a_month_without_prices_is_not_expected_to_be_free(home):
    home.book([an_entry("e", None, scope=Scope(team="a"), received_at_ms=MIDNIGHT - DAY_MS)])
    table = home.json("forecast")
    assert table["total"]["booked_nusd"] is None
    assert any("1 entry without a known price" in note for note in table["notes"])
