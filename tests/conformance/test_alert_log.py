"""The alert log keeps its promises on every store: claimed once, leased once, nothing forgotten before its time."""

import itertools
import threading

import pytest

from farthing.adapters.alert_postgres import PostgresAlerts
from farthing.adapters.alert_sqlite import SqliteAlerts
from farthing.core.alerts import Alert
from farthing.testing.servers import postgres_url

T0 = 1_795_000_000_000
_homes = itertools.count()


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path):
    """Opens the same log as often as asked, as several workers do."""
    opened = []
    name = f"alerts{next(_homes)}"

    def open_log():
        log = SqliteAlerts(tmp_path / "a.db") if request.param == "sqlite" else PostgresAlerts(postgres_url(), name)
        opened.append(log)
        return log

    yield open_log
    for log in opened:
        log.close()


def alert(key="k", *, at_ms=T0, id=""):
    return Alert(id=id or f"al-{key}-{at_ms}", key=key, kind="threshold", severity="info", budget="b", at_ms=at_ms)


def at_once(*acts):
    """Runs them on threads that start together; their answers in order."""
    barrier, answers = threading.Barrier(len(acts)), [None] * len(acts)

    def run(place, act):
        barrier.wait()
        answers[place] = act()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return answers


def test_of_workers_that_claim_at_once_one_wins_and_its_alert_is_on_record(store):
    logs = [store() for _ in range(4)]
    for number in range(10):
        one = alert(f"k{number}")
        acts = [lambda log=log, one=one: log.claim(one, (("s", T0),)) for log in logs]
        assert sorted(at_once(*acts)) == [False, False, False, True]
    assert len(logs[0].records()) == 10
    assert logs[1].pending() == 10


def test_a_claim_that_has_lapsed_is_won_by_one(store):
    logs = [store() for _ in range(3)]
    assert logs[0].claim(alert(), (), lapses_at_ms=T0 + 100)
    assert not logs[1].claim(alert(at_ms=T0 + 99), (), lapses_at_ms=T0 + 200)
    assert not logs[2].claim(alert(at_ms=T0 + 150), (), lapses_at_ms=T0 + 200)
    acts = [lambda log=log: log.claim(alert(at_ms=T0 + 201), (), lapses_at_ms=T0 + 300) for log in logs]
    assert sorted(at_once(*acts)) == [False, False, True]
    assert not logs[0].claim(alert(at_ms=T0 + 250), (), lapses_at_ms=T0 + 260)
    assert not logs[0].claim(alert(at_ms=T0 + 299), (), lapses_at_ms=T0 + 299)


def test_a_turn_comes_to_one_worker_and_to_the_next_when_it_is_over(store):
    logs = [store() for _ in range(4)]

    def ask(at_ms):
        return at_once(*[lambda log=log: log.turn("look", now_ms=at_ms, until_ms=at_ms + 100) for log in logs])

    assert sorted(ask(T0)) == [False, False, False, True]
    assert ask(T0 + 99) == [False] * 4
    assert sorted(ask(T0 + 100)) == [False, False, False, True]
    assert logs[0].turn("another", now_ms=T0, until_ms=T0 + 1)
    assert logs[0].records() == ()


def test_deliveries_are_leased_to_one_at_a_time(store):
    logs = [store() for _ in range(3)]
    for number in range(20):
        logs[0].claim(alert(f"k{number}"), (("s", T0 + number),))
    found = at_once(*[lambda log=log: log.due(now_ms=T0 + 9, lease_ms=1_000) for log in logs])
    ids = [one.alert.id for part in found for one in part]
    assert len(ids) == len(set(ids)) == 10
    assert logs[0].due(now_ms=T0 + 9, lease_ms=1_000) == ()
    again = logs[1].due(now_ms=T0 + 1_009, lease_ms=1_000)
    assert [one.since_ms for one in again] == [T0 + number for number in range(20)]


def test_what_was_sent_or_given_up_is_never_due_again(store):
    log = store()
    log.claim(alert(), (("one", T0), ("two", T0), ("three", T0)))
    one, three, two = sorted(log.due(now_ms=T0, lease_ms=60_000), key=lambda delivery: delivery.sink)
    log.sent(one, now_ms=T0)
    log.failed(two, "down", retry_at_ms=T0 + 5_000)
    log.failed(three, "gone", retry_at_ms=None)
    assert log.due(now_ms=T0 + 4_999, lease_ms=1_000) == ()
    (again,) = log.due(now_ms=T0 + 5_000, lease_ms=1_000)
    assert (again.sink, again.tries, again.since_ms) == ("two", 1, T0)
    (record,) = log.records()
    assert record.deliveries == (("one", "sent"), ("three", "failed"), ("two", "pending"))
    assert log.pending() == 1


def test_acknowledging_drops_what_waits_and_the_first_to_do_so_is_kept(store):
    log = store()
    log.claim(alert(), (("s", T0),))
    assert log.acknowledge(alert().id, by="ada", at_ms=T0 + 1)
    assert log.acknowledge(alert().id, by="bob", at_ms=T0 + 2)
    assert not log.acknowledge("al-none", by="ada", at_ms=T0)
    (record,) = log.records()
    assert (record.acknowledged_by, record.acknowledged_at_ms) == ("ada", T0 + 1)
    assert record.deliveries == (("s", "dropped"),)
    assert log.records(open_only=True) == ()
    assert log.due(now_ms=T0 + 10, lease_ms=1) == ()


def test_mutes_end_by_themselves_and_what_was_seen_only_grows(store):
    log, other = store(), store()
    log.mute("b", until_ms=T0 + 10)
    assert other.mutes(now_ms=T0) == (("b", T0 + 10),)
    assert other.mutes(now_ms=T0 + 10) == ()
    log.mute("b", until_ms=0)
    assert other.mutes(now_ms=T0) == ()
    assert log.seen() == 0
    log.mark_seen(T0 + 5)
    other.mark_seen(T0 + 1)
    assert log.seen() == T0 + 5


def test_pruning_forgets_alerts_and_lapsed_claims_but_no_claim_for_good(store):
    log = store()
    log.claim(alert("good"), (("s", T0),))
    log.claim(alert("lapsed"), (), lapses_at_ms=T0 + 1)
    log.claim(alert("late", at_ms=T0 + 50), ())
    assert log.prune(T0 + 10) == 2
    assert [one.alert.key for one in log.records()] == ["late"]
    assert log.pending() == 0
    assert not log.claim(alert("good", at_ms=T0 + 60), ())
    assert log.claim(alert("lapsed", at_ms=T0 + 60), ())
