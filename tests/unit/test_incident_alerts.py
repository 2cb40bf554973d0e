"""Incidents reach people once: over workers, over time, and under whichever slice shows the money first."""

import random
import threading

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters.alert_sqlite import SqliteAlerts
from farthing.adapters.ledger_query import entry_totals
from farthing.core.alert_text import record, text, title
from farthing.core.series import Detector
from farthing.core.types import LedgerQuery, Scope
from farthing.engine.patrol import Patrol
from farthing.insight import anomalies
from farthing.insight.anomalies import RULES
from farthing.insight.incident_alerts import new_alerts
from farthing.insight.incident_list import DIMENSIONS, Judged, query, read
from farthing.insight.rule_trial import false_alerts, trial
from farthing.ports.incidents import ExpectedDays, Mark
from farthing.testing.fakes import VirtualClock
from farthing.testing.records import AT_MS, an_entry

DAY_MS = 86_400_000
MIDNIGHT = AT_MS - AT_MS % DAY_MS
NOW_MS = MIDNIGHT + DAY_MS // 2
USD = 10**9
CALM = Judged(rule=RULES["day"], expected=(), marks={})


class Listed:
    """A ledger over a list."""

    def __init__(self, entries):
        self._entries = tuple(entries)

    def totals(self, query):
        return entry_totals(self._entries, query)

    def entries(self, *, request_id="", since_ms=0, after=""):
        return (one for one in self._entries if request_id in ("", one.request_id) and one.received_at_ms >= since_ms)

    def exchanges(self, *, since_ms=0, after=""):
        return iter(())


def months(spikes=None, *, features=("chat", "search"), days=70, seed=3):
    """A call a day and feature; ``spikes``: (feature, days ago) -> factor."""
    chance = random.Random(seed)
    for ago in range(days, -1, -1):
        at_ms = MIDNIGHT - ago * DAY_MS + 3_600_000
        weekend = (at_ms // DAY_MS + 3) % 7 >= 5
        for feature in features:
            factor = (spikes or {}).get((feature, ago), 1.0) * chance.uniform(0.95, 1.05)
            amount = int(100 * (0.4 if weekend else 1.0) * factor * USD)
            scope = Scope(feature=feature, team=f"team-{feature}", user="bob" if factor > 2 else "ada")
            yield an_entry(f"{feature}-{ago}", amount, scope=scope, received_at_ms=at_ms)


def looking(ledger, judged=CALM):
    return lambda now_ms, told: new_alerts(ledger, ledger, lambda: judged, told, now_ms=now_ms)


def patrols(folder, look, count, clock):
    for _ in range(count):
        yield Patrol(
            look=look, log=SqliteAlerts(folder / "a.db"), clock=clock, sinks_for=lambda one: (("s", one.at_ms),)
        )


def test_four_workers_tell_an_incident_once_with_what_opening_it_shows(tmp_path):
    clock = VirtualClock(NOW_MS)
    ledger = Listed(months({("chat", 0): 5.0}))
    workers = list(patrols(tmp_path, looking(ledger), 4, clock))
    for _ in range(5):
        threads = [threading.Thread(target=one.round) for one in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        clock.advance(310_000)
    log = SqliteAlerts(tmp_path / "a.db")
    (found,) = log.records()
    alert = found.alert
    assert sum(one.raised for one in workers) == 1
    assert log.pending() == 1
    assert (alert.kind, alert.counter, alert.anomaly, alert.severity) == (
        "incident",
        "feature=chat",
        "spike",
        "critical",
    )
    assert alert.used > alert.expected > 0
    assert alert.projected == alert.used * 7
    assert alert.grew.startswith("user bob, +$")
    assert alert.examples == ("request-chat-0",)
    for said in ("more than expected", "feature=chat"):
        assert said in title(alert)
    for said in (alert.incident, "chat-0", "7 days", "Grew most"):
        assert said in text(alert)
    assert record(alert)["used"] == alert.used
    assert record(alert)["examples"] == ["request-chat-0"]


def test_two_features_that_run_away_on_one_day_are_two_incidents():
    ledger = Listed(months({("chat", 0): 8.0, ("search", 0): 3.0}))
    told = looking(ledger)(NOW_MS, ())
    assert {one.counter for one in told} >= {"feature=chat", "feature=search"}


def test_money_that_was_told_under_another_slice_is_no_news(tmp_path):
    ledger = Listed(months({("chat", 0): 5.0}))
    (first,) = looking(ledger)(NOW_MS, ())
    by_model = msgspec.structs.replace(
        first, incident="an-model", counter="model=m", slice=(("model", "m"),), used=first.used * 11 // 10
    )
    assert looking(ledger)(NOW_MS, (by_model,)) == ()
    much_less = msgspec.structs.replace(by_model, used=first.used // 3)
    assert [one.counter for one in looking(ledger)(NOW_MS, (much_less,))] == ["feature=chat"]


@pytest.mark.parametrize("why", ["acknowledged", "expected", "over", "calm"])
def test_what_needs_nobody_pages_nobody(why):
    spikes = {"over": {("chat", 9): 5.0}, "calm": {}}.get(why, {("chat", 0): 5.0})
    ledger = Listed(months(spikes))
    judged = CALM
    rows = {name: ledger.totals(query(name, NOW_MS)) for name in DIMENSIONS}
    found = read(rows, CALM, now_ms=NOW_MS).found
    assert bool(found) == (why != "calm")
    if why == "acknowledged":
        marks = {one.id: Mark(incident=one.id, by="ann", at_ms=NOW_MS) for one in found}
        judged = msgspec.structs.replace(CALM, marks=marks)
    if why == "expected":
        today = found[0].said
        days = ExpectedDays(id="e", first=today, last=today, slice="chat", why="launch", by="ann", at_ms=1)
        judged = msgspec.structs.replace(CALM, expected=(days,))
    assert looking(ledger, judged)(NOW_MS, ()) == ()


@settings(max_examples=6, deadline=None)
@given(
    st.dictionaries(st.tuples(st.sampled_from(["chat", "search"]), st.integers(0, 12)), st.floats(2, 9), max_size=4)
)
def test_as_time_goes_on_no_incident_is_told_twice(spikes):
    entries = tuple(months(spikes))
    told = []
    for hour in range(0, 13 * 24, 9):
        now_ms = MIDNIGHT - 12 * DAY_MS + hour * 3_600_000
        ledger = Listed(one for one in entries if one.received_at_ms <= now_ms)
        told += looking(ledger)(now_ms, tuple(told))
    assert len({one.incident for one in told}) == len(told)
    hot = {(feature, ago) for (feature, ago), factor in spikes.items() if factor > 4}
    assert {feature for feature, _ in hot} <= {one.counter.removeprefix("feature=") for one in told}


def test_a_day_that_is_not_over_has_not_fallen():
    rule = msgspec.structs.replace(RULES["day"], drops=True)
    for ago, said in ((1, {"drop"}), (0, set())):
        ledger = Listed(months({("chat", ago): 0.1}))
        rows = ledger.totals(anomalies.query(("feature",), "day", since_ms=NOW_MS - 5 * DAY_MS, until_ms=NOW_MS))
        found = anomalies.find(rows, ("feature",), "day", rule, since_ms=NOW_MS - 5 * DAY_MS, until_ms=NOW_MS)
        assert {one.kind for one in found if one.slice == (("feature", "chat"),)} == said


def test_a_back_test_says_what_is_new_what_is_gone_and_what_it_would_get_wrong():
    ledger = Listed(months({("chat", 20): 1.5, ("search", 10): 4.0}))
    since = NOW_MS - 30 * DAY_MS
    rows = ledger.totals(anomalies.query(("feature",), "day", since_ms=since, until_ms=NOW_MS))
    sharp, blunt = Detector(z=2.5), Detector(z=20, cusum_limit=100)

    def tried(applies, rule):
        return trial(rows, ("feature",), applies, rule, since_ms=since, until_ms=NOW_MS)

    assert {one.name for one in tried(Detector(z=8), sharp).new} == {"chat"}
    assert {one.name for one in tried(sharp, Detector(z=8)).gone} == {"chat"}
    assert tried(sharp, blunt).tried == ()
    assert tried(sharp, blunt).false_alerts == 0
    assert tried(sharp, sharp).simulated == 2


def test_false_alerts_are_estimated_as_they_come():
    """The estimate from one calm past against what fresh calm days of the same kind really bring."""

    def series(seed, count):
        chance = random.Random(seed)
        return [100 * (0.5 if at % 7 >= 5 else 1.0) * 2.718 ** chance.gauss(0, 0.12) for at in range(count)]

    wrong, fine = Detector(z=1.5), Detector()
    estimate = false_alerts(series(1, 200), wrong, runs=40)
    real = sum(false_alerts_in(series(seed, 77 + 90), wrong) for seed in range(100, 140)) / 40
    assert real * 0.5 < estimate < real * 2
    assert false_alerts(series(1, 200), fine, runs=40) < 1.5
    assert false_alerts(series(1, 20), fine) is None


def false_alerts_in(values, rule):
    from farthing.core.series import detect

    return sum(point.kind is not None for point in detect(values, rule)[77:])


def test_the_whole_is_asked_with_the_past_that_the_detector_learns_from():
    asked = query("feature", NOW_MS)
    assert asked == LedgerQuery(group_by=("day", "feature"), since_ms=MIDNIGHT - 150 * DAY_MS)
