"""Alerts are edges: each line of each window fires once, whatever the order of readings, resets and restarts."""

import datetime
from collections import Counter
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters.alert_sqlite import SqliteAlerts
from farthing.core.alert_text import text, title
from farthing.core.alerts import (
    Alert,
    Line,
    Pace,
    QuietHours,
    Speed,
    Top,
    alert_id,
    alert_key,
    crossed,
    deliver_at,
    exhausted_at,
    projected,
    retry_at,
    severity_of,
    will_exceed,
)
from farthing.core.signing import sign, verify
from farthing.core.types import Hold
from farthing.engine.alert_post import AlertPost, Way
from farthing.engine.background import outlived
from farthing.engine.watch import Rule, SpeedRule, Watch
from farthing.ports.alerts import SinkFailed
from farthing.ports.books import Balance
from farthing.testing.fakes import VirtualClock

PERCENTS = (50, 75, 90, 100)
DAY = 86_400_000
T0 = 1_795_000_000_000 - 1_795_000_000_000 % DAY


def hold(counter="b", window="w", limit=100, amount=0, **fields):
    return Hold(counter=counter, window=window, unit="requests", limit=limit, amount=amount, budget="b", **fields)


class Balances:
    """``Books`` that only show what they are told."""

    def __init__(self):
        self.posted = Counter()
        self.held = Counter()

    def balances(self, counters):
        return tuple(
            Balance(counter=c, window=w, unit="requests", posted=self.posted[c, w], held=self.held[c, w])
            for c, w in counters
        )


def watch_of(books, log, clock, *, raised=None, lines=PERCENTS, **fields):
    rule = Rule(
        lines=tuple(Line(percent=one) for one in lines),
        window=lambda at: (at - at % DAY, at - at % DAY + DAY),
        forecast=False,
        **fields,
    )
    return Watch(books=books, log=log, clock=clock, rules={"b": rule}, sinks_for=lambda alert: (("s", alert.at_ms),))


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("spend"), st.integers(0, 1), st.integers(1, 60)),
        st.tuples(st.just("read"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("reset"), st.just(0), st.just(0)),
        st.tuples(st.just("restart"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("raise_limit"), st.just(0), st.integers(50, 300)),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(acts=ACTS)
async def test_any_script_of_spending_resets_and_restarts_fires_what_a_plain_reference_fires(tmp_path_factory, acts):
    """Three workers over one log; the reference looks at every level that any worker saw, and keeps a set."""
    log = SqliteAlerts(tmp_path_factory.mktemp("log") / "a.db")
    books, clock = Balances(), VirtualClock(T0)
    workers = [watch_of(books, log, clock) for _ in range(3)]
    window, limit = 0, 100
    expected: set[tuple[int, str, int, int]] = set()
    for act, number, amount in acts:
        now = f"w{window}"
        if act == "spend":
            books.posted[f"c{number}", now] += amount
            # Every worker has calls on the counter, before and after.
            for worker in workers:
                worker.ended([hold(f"c{number}", now, limit)], [0], ("k", "f", "m"))
        elif act == "read":
            await workers[number].round()
        elif act == "reset":
            for worker in workers:
                await worker.round()
            expected |= reference(books, window, limit)
            window += 1
        elif act == "restart":
            await workers[number].round()
            workers[number] = watch_of(books, log, clock)
        else:
            for worker in workers:
                await worker.round()
            expected |= reference(books, window, limit)
            limit = amount
            for worker in workers:
                for counter in ("c0", "c1"):
                    if books.posted[counter, now]:
                        worker.ended([hold(counter, now, limit)], [0], ("k", "f", "m"))
        clock.advance(1)
    for worker in workers:
        await worker.round()
    expected |= reference(books, window, limit)
    fired = [
        (one.alert.limit, one.alert.counter, one.alert.window, one.alert.percent) for one in log.records(limit=999)
    ]
    assert len(fired) == len(set(fired))
    assert set(fired) == expected
    log.close()


def reference(books, window, limit):
    return {
        (limit, counter, f"w{window}", percent)
        for counter in ("c0", "c1")
        for percent in PERCENTS
        if books.posted[counter, f"w{window}"] * 100 >= percent * limit
    }


@given(used=st.integers(0, 10**12), limit=st.integers(-1, 10**12), done=st.sets(st.sampled_from(PERCENTS)))
def test_lines_are_crossed_at_or_under_the_use_and_never_twice(used, limit, done):
    found = [line.percent for line in crossed(used, limit, [Line(percent=one) for one in PERCENTS], done)]
    wanted = [one for one in PERCENTS if limit > 0 and used / 1 >= one * limit / 100 and one not in done]
    assert found == wanted


async def test_what_is_only_held_is_no_alert_and_a_refusal_is_one(tmp_path):
    log, books, clock = SqliteAlerts(tmp_path / "a.db"), Balances(), VirtualClock(T0)
    watch = watch_of(books, log, clock)
    books.held["b", "w"] = 95
    watch.held([hold(amount=95)])
    await watch.round()
    assert log.records() == ()
    watch.refused(hold(amount=10))
    await watch.round()
    watch.refused(hold(amount=10))
    await watch.round()
    (one,) = log.records()
    assert (one.alert.kind, one.alert.severity, one.alert.used) == ("exhausted", "critical", 0)


async def test_a_soft_budget_tells_of_lines_but_of_no_refusals_and_names_no_action(tmp_path):
    log, books, clock = SqliteAlerts(tmp_path / "a.db"), Balances(), VirtualClock(T0)
    watch = Watch(
        books=books, log=log, clock=clock, sinks_for=lambda alert: (),
        rules={"b": Rule(lines=(Line(percent=50, action="block"),), window=lambda at: (at, None))},
    )  # fmt: skip
    books.posted["b", "w"] = 60
    watch.ended([hold(hard=False)], [60], ("k", "f", "m"))
    await watch.round()
    (one,) = log.records()
    assert (one.alert.kind, one.alert.action, one.alert.hard) == ("threshold", "", False)


async def test_an_alert_of_a_rolling_limit_names_who_used_it_over_all_its_length(tmp_path):
    log, books, clock = SqliteAlerts(tmp_path / "a.db"), Balances(), VirtualClock(T0)
    watch = watch_of(books, log, clock, reach_ms=60_000)
    for second in range(3):
        books.posted["b", f"s{second}"] += 30
        also = tuple(f"s{other}" for other in range(3) if other != second)
        watch.ended([hold(window=f"s{second}", also=also)], [30], ("k", "f", "m"))
    watch.refused(hold(window="s3", also=("s0", "s1", "s2"), resets_at_ms=T0 + 60_000))
    await watch.round()
    found = {one.alert.kind: one.alert.top for one in log.records()}
    assert [(one.key, one.model, one.amount) for one in found["threshold"]] == [("k", "m", 90)]
    assert found["exhausted"] == found["threshold"]


async def test_a_rolling_line_is_told_once_while_it_stays_crossed_and_again_after_a_whole_length_below(tmp_path):
    log, books, clock = SqliteAlerts(tmp_path / "a.db"), Balances(), VirtualClock(T0)
    watch = watch_of(books, log, clock, lines=(50,), reach_ms=600_000)
    for minute in range(30):  # the window of now changes each minute, the sum stays above the line
        books.posted["b", f"m{minute}"] = 30
        also = (f"m{minute - 1}",) if minute else ("m-1",)
        watch.ended([hold(window=f"m{minute}", also=also)], [30], ("k", "f", "m"))
        await watch.round()
        clock.advance(60_000)
    assert len(log.records()) == 1
    clock.advance(700_000)
    books.posted["b", "late"] = 80
    watch.ended([hold(window="late", also=("later",))], [80], ("k", "f", "m"))
    await watch.round()
    assert len(log.records()) == 2


async def test_a_crossing_that_cannot_be_written_is_told_once_it_can(tmp_path):
    log, books, clock = SqliteAlerts(tmp_path / "a.db"), Balances(), VirtualClock(T0)
    watch = watch_of(books, log, clock, lines=(50,))
    books.posted["b", "w"] = 60
    watch.ended([hold()], [60], ("k", "f", "m"))
    log._connection.execute("ALTER TABLE alert_claims RENAME TO gone")
    await outlived(watch.round(), "it")
    log._connection.execute("ALTER TABLE gone RENAME TO alert_claims")
    await outlived(watch.round(), "it")
    await outlived(watch.round(), "it")
    assert len(log.records()) == 1


async def test_after_a_crash_the_calls_of_the_last_moments_are_looked_at_again(tmp_path):
    log, books, clock = SqliteAlerts(tmp_path / "a.db"), Balances(), VirtualClock(T0)
    log.mark_seen(T0 - 5_000)
    books.posted["b", "w"] = 60
    rule = Rule(lines=(Line(percent=50),), window=lambda at: (at, None))
    asked = []
    watch = Watch(
        books=books, log=log, clock=clock, rules={"b": rule}, sinks_for=lambda alert: (),
        recent_holds=lambda since: asked.append(since) or [hold()],
    )  # fmt: skip
    await watch.start()
    await watch.round()
    await watch.close()
    assert asked == [T0 - 65_000]
    assert [one.alert.percent for one in log.records()] == [50]


async def test_muted_alerts_are_on_record_and_told_to_nobody(tmp_path):
    log, books, clock = SqliteAlerts(tmp_path / "a.db"), Balances(), VirtualClock(T0)
    watch = watch_of(books, log, clock, lines=(50, 90))
    log.mute("b", until_ms=T0 + 1_000)
    books.posted["b", "w"] = 60
    watch.ended([hold()], [60], ("k", "f", "m"))
    await watch.round()
    clock.advance(1_000)
    books.posted["b", "w"] = 95
    watch.ended([hold()], [35], ("k", "f", "m"))
    await watch.round()
    assert {one.alert.percent: one.deliveries for one in log.records()} == {50: (), 90: (("s", "pending"),)}


# -- velocity


def fast(books, log, clock, **rule):
    return Watch(
        books=books, log=log, clock=clock, sinks_for=lambda alert: (), speed=SpeedRule(**rule),
        rules={"b": Rule(lines=(), window=lambda at: (at - at % DAY, at - at % DAY + DAY), forecast=False)},
    )  # fmt: skip


class Dollars(Balances):
    """The same in nano-USD."""

    def balances(self, counters):
        return tuple(Balance(counter=c, window=w, unit="usd", posted=self.posted[c, w], held=0) for c, w in counters)


def dollars(counter="b"):
    return Hold(counter=counter, window="w", unit="usd", limit=10**12, amount=0, budget="b")


async def spend(watch, books, clock, amount, *, seconds=1, who=("k", "f", "m")):
    for _ in range(seconds):
        books.posted["b", "w"] += amount
        watch.ended([dollars()], [amount], who)
        clock.advance(1_000)
        await watch.round()


async def test_spending_past_a_fixed_pace_blocks_the_counter_and_names_who_did_it(tmp_path):
    log, books, clock = SqliteAlerts(tmp_path / "a.db"), Dollars(), VirtualClock(T0)
    watch = fast(books, log, clock, limit=1_000, action="block", cooldown_ms=60_000)
    await spend(watch, books, clock, 10, seconds=90, who=("calm", "f", "m"))
    assert watch.blocked == {}
    await spend(watch, books, clock, 400, seconds=2, who=("loop", "agent", "gpt-4o"))
    assert watch.blocked == {"b": clock.now_ms() + 60_000}
    await spend(watch, books, clock, 400, seconds=20, who=("loop", "agent", "gpt-4o"))
    (one,) = log.records()
    assert (one.alert.kind, one.alert.action, one.alert.per_minute) == ("velocity", "block", 10 * 58 + 800)
    assert (one.alert.top[0].key, one.alert.top[0].feature, one.alert.top[0].model) == ("loop", "agent", "gpt-4o")
    assert "farthing key revoke loop" in text(one.alert)
    clock.advance(60_000)
    await watch.round()
    assert watch.blocked == {}


async def test_the_usual_pace_must_be_known_before_anything_is_unusual(tmp_path):
    log, books, clock = SqliteAlerts(tmp_path / "a.db"), Dollars(), VirtualClock(T0)
    watch = fast(books, log, clock, factor=5, floor=100)
    await spend(watch, books, clock, 1_000, seconds=30)
    assert log.records() == ()
    await spend(watch, books, clock, 10, seconds=60 * 15)
    assert log.records() == ()
    await spend(watch, books, clock, 1_000, seconds=20)
    (one,) = log.records()
    assert one.alert.per_minute > 5 * one.alert.usual_per_minute
    assert watch.blocked == {}


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 1_000)), max_size=60))
def test_the_last_minute_is_what_was_added_in_its_sixty_seconds(steps):
    speed, now, added = Speed(), T0, []
    for pause, amount in steps:
        now += pause * 1_000
        speed.add(now, amount)
        added.append((now // 1_000, amount))
        assert speed.per_minute(now) == sum(one for at, one in added if at > now // 1_000 - 60)


def test_a_clock_that_is_set_back_does_not_stretch_the_last_minute():
    speed = Speed()
    speed.add(T0, 1_000)
    speed.add(T0 + 30_000, 500)
    back = T0 - 3_600_000
    speed.add(back, 7)
    assert speed.per_minute(back) == 1_507
    assert speed.per_minute(back + 30_000) == 507  # what was thirty seconds old is a minute old
    assert speed.per_minute(back + 60_000) == 0
    for second in range(61, 661):
        speed.add(back + second * 1_000, 1)
    assert speed.per_minute(back + 660_000) == 60


@given(st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.integers(1, 50)), max_size=200))
def test_the_sketch_never_understates_and_never_misses_a_large_contributor(steps):
    top, real = Top(4), Counter()
    for who, amount in steps:
        top.add((who, "", ""), amount)
        real[who] += amount
    found = {one.key: one.amount for one in top.largest(4)}
    for who, amount in real.items():
        assert who in found or amount * 4 <= real.total()
        assert found.get(who, amount) >= amount
    assert sum(found.values()) == real.total()


# -- forecast


@given(used=st.integers(0, 10**9), share=st.integers(0, 100), limit=st.integers(1, 10**9))
def test_a_forecast_says_nothing_early_and_is_the_mean_pace_later(used, share, limit):
    pace = Pace(starts_at_ms=0, ends_at_ms=100_000, now_ms=share * 1_000, used=used)
    at_end = projected(pace)
    if share < 10:
        assert at_end is None
    else:
        assert at_end == max(used, used * 100 // share)
    assert will_exceed(used, limit, at_end) == (at_end is not None and 0 < used < limit < at_end)
    reached = exhausted_at(pace, limit)
    if reached is not None:
        assert share * 1_000 <= reached < 100_000
        assert used * reached >= limit * share * 1_000


async def test_a_forecast_is_told_once_before_the_limit_is_reached(tmp_path):
    log, books, clock = SqliteAlerts(tmp_path / "a.db"), Balances(), VirtualClock(T0 + DAY // 5)
    rule = Rule(lines=(), window=lambda at: (T0, T0 + DAY))
    watch = Watch(books=books, log=log, clock=clock, rules={"b": rule}, sinks_for=lambda alert: ())
    for posted in (19, 21, 25, 30):
        books.posted["b", "w"] = posted
        watch.ended([hold(resets_at_ms=T0 + DAY)], [0], ("k", "f", "m"))
        await watch.round()
    (one,) = log.records()
    assert (one.alert.kind, one.alert.used, one.alert.projected) == ("forecast", 21, 105)
    assert title(one.alert) == "budget 'b' will exceed its 100 requests (w)"
    assert "when the window ends" in text(one.alert)


# -- quiet hours


@given(
    at=st.integers(T0, T0 + 400 * DAY),
    starts=st.integers(0, 1439),
    ends=st.integers(0, 1439),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York"]),
)
def test_quiet_hours_hold_back_until_they_end_and_let_urgent_ones_through(at, starts, ends, zone):
    quiet = QuietHours(starts=starts, ends=ends, timezone=zone)
    assert deliver_at("critical", at, quiet) == at
    assert deliver_at("info", at, None) == at
    due = deliver_at("warning", at, quiet)
    local = datetime.datetime.fromtimestamp(at / 1000, ZoneInfo(zone))
    minute = local.hour * 60 + local.minute
    inside = starts != ends and (minute - starts) % 1440 < (ends - starts) % 1440
    if not inside:
        assert due == at
    else:
        assert at <= due <= at + DAY + 3_600_000
        then = datetime.datetime.fromtimestamp(due / 1000, ZoneInfo(zone))
        if local.utcoffset() == then.utcoffset():
            assert then.hour * 60 + then.minute == ends
            assert due - at == (((ends - minute) % 1440) * 60 - local.second) * 1000 - at % 1000


def test_severity_follows_the_percent():
    assert [severity_of(one) for one in (1, 89, 90, 99, 100, 150)] == ["info"] * 2 + ["warning"] * 2 + [
        "critical"
    ] * 2


# -- the post


class Sink:
    """A sink that fails as often as it is told to."""

    def __init__(self, failures=0):
        self.failures = failures
        self.got = []

    async def send(self, alert):
        if self.failures:
            self.failures -= 1
            raise SinkFailed("down")
        self.got.append(alert.id)

    async def close(self):
        return


def an_alert(name="x", severity="info", budget="b", at_ms=T0):
    key = alert_key("threshold", name, "w", "usd", 1, 50)
    return Alert(
        id=alert_id(key), key=key, kind="threshold", severity=severity, budget=budget, counter=name, at_ms=at_ms,
        unit="usd", limit=10, used=5, percent=50, window="w",
    )  # fmt: skip


async def test_two_workers_deliver_each_alert_once_and_a_failed_one_later(tmp_path):
    clock, down, up = VirtualClock(T0), Sink(failures=3), Sink()
    logs = [SqliteAlerts(tmp_path / "a.db") for _ in range(2)]
    posts = [AlertPost(log=log, ways={"down": Way(down), "up": Way(up)}, clock=clock) for log in logs]
    for name in "abc":
        alert = an_alert(name)
        assert logs[0].claim(alert, posts[0].sinks_for(alert))
        assert not logs[1].claim(alert, posts[1].sinks_for(alert))
    for _ in range(12):
        for post in posts:
            await post.round()
        clock.advance(1_000)
    assert sorted(up.got) == sorted(down.got) == sorted(an_alert(name).id for name in "abc")
    assert logs[0].pending() == 0


async def test_a_delivery_whose_worker_died_is_made_when_its_lease_ends(tmp_path):
    clock, sink, log = VirtualClock(T0), Sink(), SqliteAlerts(tmp_path / "a.db")
    post = AlertPost(log=log, ways={"s": Way(sink)}, clock=clock)
    log.claim(an_alert(), post.sinks_for(an_alert()))
    assert len(log.due(now_ms=T0, lease_ms=60_000)) == 1  # and then nothing more is heard of it
    await post.round()
    assert sink.got == []
    clock.advance(60_000)
    await post.round()
    await post.round()
    assert sink.got == [an_alert().id]


async def test_what_never_arrives_is_given_up_and_counted(tmp_path):
    clock, log = VirtualClock(T0), SqliteAlerts(tmp_path / "a.db")
    post = AlertPost(log=log, ways={"s": Way(Sink(failures=10**6))}, clock=clock, give_up_after_ms=3_600_000)
    log.claim(an_alert(), post.sinks_for(an_alert()))
    for _ in range(100):
        await post.round()
        clock.advance(60_000)
    assert (post.given_up, post.pending) == (1, 0)
    assert log.records()[0].deliveries == (("s", "failed"),)


async def test_held_back_alerts_come_when_the_quiet_hours_end_and_acknowledged_ones_do_not(tmp_path):
    clock, sink, log = VirtualClock(T0 + 3_600_000), Sink(), SqliteAlerts(tmp_path / "a.db")
    quiet = QuietHours(starts=0, ends=120)
    post = AlertPost(log=log, ways={"s": Way(sink)}, clock=clock, quiet=quiet)
    for name, severity in (("a", "info"), ("b", "critical"), ("c", "warning")):
        alert = an_alert(name, severity, at_ms=clock.now_ms())
        log.claim(alert, post.sinks_for(alert))
    await post.round()
    assert sink.got == [an_alert("b").id]
    assert log.acknowledge(an_alert("c").id, by="ada", at_ms=clock.now_ms())
    assert not log.acknowledge("al-none", by="ada", at_ms=clock.now_ms())
    clock.advance(3_600_000)
    await post.round()
    assert sink.got == [an_alert("b").id, an_alert("a").id]
    assert [one.alert.counter for one in log.records(open_only=True)] == ["a", "b"]


def test_sinks_take_what_is_urgent_enough_and_of_their_budgets(tmp_path):
    ways = {"all": Way(Sink()), "urgent": Way(Sink(), least="warning"), "team": Way(Sink(), budgets=("team-*",))}
    post = AlertPost(log=SqliteAlerts(tmp_path / "a.db"), ways=ways, clock=VirtualClock(T0))
    assert [name for name, _ in post.sinks_for(an_alert(severity="info"))] == ["all"]
    assert [name for name, _ in post.sinks_for(an_alert(severity="critical", budget="team-a"))] == [
        "all", "urgent", "team",
    ]  # fmt: skip


def test_tries_are_ever_rarer_until_they_end():
    waits = [retry_at(0, tries, 0, give_up_after_ms=10**9) for tries in range(1, 12)]
    assert waits[:3] == [1_000, 2_000, 4_000]
    assert waits[-1] == 300_000
    assert retry_at(10**6, 3, 0, give_up_after_ms=10**6) is None


# -- the log and the signature


def test_a_claim_that_lapses_can_be_made_again_and_asking_extends_it(tmp_path):
    log = SqliteAlerts(tmp_path / "a.db")
    first, again, later = (an_alert(at_ms=T0 + at) for at in (0, 50, 151))
    assert log.claim(first, (), lapses_at_ms=T0 + 100)
    assert not log.claim(again, (), lapses_at_ms=T0 + 150)
    assert not log.claim(an_alert(at_ms=T0 + 120), (), lapses_at_ms=T0 + 150)
    assert log.claim(later, (), lapses_at_ms=T0 + 300)


def test_what_is_old_is_forgotten_but_claims_for_good_are_not(tmp_path):
    log = SqliteAlerts(tmp_path / "a.db")
    assert log.claim(an_alert("a"), (("s", T0),))
    assert log.claim(an_alert("b"), (("s", T0),), lapses_at_ms=T0 + 5)
    assert log.prune(T0 + 10) == 2
    assert log.records() == ()
    assert log.pending() == 0
    assert not log.claim(an_alert("a"), ())
    assert log.claim(an_alert("b", at_ms=T0 + 20), ())


@given(
    body=st.binary(max_size=100), now=st.integers(10**9, 2 * 10**9), late=st.integers(-400, 400), bit=st.integers(0)
)
def test_a_signature_holds_for_its_body_its_time_and_its_secret_only(body, now, late, bit):
    signature = sign(b"secret", now, body)
    assert verify(b"secret", str(now), signature, body, now_s=now + late) == (abs(late) <= 300)
    assert not verify(b"other", str(now), signature, body, now_s=now)
    assert not verify(b"secret", str(now + 1), signature, body, now_s=now)
    if body:
        changed = bytearray(body)
        changed[bit // 8 % len(body)] ^= 1 << bit % 8
        assert not verify(b"secret", str(now), signature, bytes(changed), now_s=now)


@pytest.mark.parametrize("stamp", ["", "soon", "-5", "1e9", "１２３", "9" * 40])
def test_a_timestamp_that_is_no_number_is_refused(stamp):
    assert not verify(b"s", stamp, "v1=", b"", now_s=0)
