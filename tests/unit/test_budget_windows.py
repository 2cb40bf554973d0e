"""Windows and allowances against the simplest reference that is surely right: looking at every day, every part."""

import asyncio
import calendar
import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.adapters.memory import MemoryBooks
from farthing.core.budget import Budgets, Need
from farthing.core.budget_windows import Calendar, Rolling, Start
from farthing.core.errors import PolicyError
from farthing.core.policy import Budget, Grant
from farthing.core.types import Held, Reservation, Scope
from farthing.ports.books import Settlement

ZONES = ("UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kolkata", "Pacific/Apia", "Africa/Cairo", "America/Havana",
         "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Beirut")  # fmt: skip
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
QUARTER_HOUR_MS = 900_000
DAY_MS = 86_400_000
AT_MS = 1_795_000_000_000


def ms(text, zone="UTC"):
    return int(datetime.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1000


def first_instant(day, hour, zone):
    """The first quarter of an hour at which the local clock shows this day and hour or later."""
    wanted = datetime.datetime.combine(day, datetime.time(hour))
    at_ms = int(wanted.replace(tzinfo=datetime.UTC).timestamp()) * 1000 - 28 * 3_600_000
    while datetime.datetime.fromtimestamp(at_ms // 1000, zone).replace(tzinfo=None) < wanted:
        at_ms += QUARTER_HOUR_MS
    return at_ms


def begins(day, period, start):
    """A window begins on this day, said as one would say it."""
    month_begins = day.day == min(start.month_day, calendar.monthrange(day.year, day.month)[1])
    match period:
        case "day":
            return True
        case "week":
            return WEEKDAYS[day.weekday()] == start.week_starts
        case "month":
            return month_begins
        case "quarter":
            return month_begins and (day.month - start.year_month) % 3 == 0
        case "year":
            return month_begins and day.month == start.year_month


@settings(max_examples=120, deadline=None)
@given(
    period=st.sampled_from(("day", "week", "month", "quarter", "year")),
    zone=st.sampled_from(ZONES),
    start=st.builds(
        Start,
        day_hour=st.sampled_from((0, 0, 1, 2, 3, 6, 23)),
        week_starts=st.sampled_from(WEEKDAYS),
        month_day=st.sampled_from((1, 1, 2, 15, 28, 29, 30, 31)),
        year_month=st.integers(1, 12),
    ),
    at_ms=st.integers(ms("2007-01-01"), ms("2029-01-01")),
    near=st.integers(-3, 3),
)
def test_a_window_is_the_one_that_going_through_all_days_finds(period, zone, start, at_ms, near):
    where = ZoneInfo(zone)
    window = Calendar(period, where, start).window(at_ms)
    day = datetime.datetime.fromtimestamp(at_ms // 1000, where).date() + datetime.timedelta(days=2)
    while not begins(day, period, start) or first_instant(day, start.day_hour, where) > at_ms:
        day -= datetime.timedelta(days=1)
    after = day + datetime.timedelta(days=1)
    while not begins(after, period, start) or first_instant(after, start.day_hour, where) <= at_ms:
        after += datetime.timedelta(days=1)
    assert window.starts_at_ms == first_instant(day, start.day_hour, where)
    assert window.ends_at_ms == first_instant(after, start.day_hour, where)
    inside = Calendar(period, where, start)
    for other in (window.starts_at_ms, window.ends_at_ms - 1, window.starts_at_ms + near * 1000):
        same = inside.window(other) == window
        assert same == (window.starts_at_ms <= other < window.ends_at_ms)


@pytest.mark.parametrize(
    ("period", "start", "at", "name"),
    [
        ("quarter", Start(), "2026-11-21", "2026-Q4"),
        ("year", Start(), "2026-11-21", "2026"),
        ("quarter", Start(year_month=4), "2026-11-21", "2026-10-01/P3M"),
        ("quarter", Start(year_month=2), "2026-01-31", "2025-11-01/P3M"),
        ("year", Start(year_month=4), "2026-03-31", "2025-04-01/P1Y"),
        ("month", Start(month_day=31), "2028-02-29", "2028-02-29/P1M"),
        ("month", Start(month_day=31), "2028-02-28", "2028-01-31/P1M"),
        ("month", Start(month_day=15), "2026-11-14", "2026-10-15/P1M"),
        ("week", Start(week_starts="sunday"), "2026-11-21", "2026-11-15/P1W"),
        ("day", Start(day_hour=6), "2026-11-21T05:59", "2026-11-20T06/P1D"),
        ("hour", Start(), "2026-11-21T14:59:59", "2026-11-21T14:00Z/PT1H"),
        ("minute", Start(), "2026-11-21T14:59:59", "2026-11-21T14:59Z/PT1M"),
    ],
)
def test_windows_have_names_that_say_when_they_begin_and_how_long_they_are(period, start, at, name):
    assert Calendar(period, datetime.UTC, start).window(ms(at)).name == name


@settings(max_examples=150, deadline=None)
@given(zone=st.sampled_from(ZONES), at_ms=st.integers(ms("2007-01-01"), ms("2029-01-01")), hour=st.booleans())
def test_hours_and_minutes_are_those_of_the_local_clock_and_cover_all_time_once(zone, at_ms, hour):
    where, size = ZoneInfo(zone), 3600 if hour else 60
    windows = Calendar("hour" if hour else "minute", where)
    window = windows.window(at_ms)
    assert window.starts_at_ms <= at_ms < window.ends_at_ms
    assert window.ends_at_ms - window.starts_at_ms <= size * 1000
    after = windows.window(window.ends_at_ms)
    assert (after.starts_at_ms, after.name > window.name) == (window.ends_at_ms, True)
    assert windows.window(window.starts_at_ms).name == window.name
    local = datetime.datetime.fromtimestamp(window.starts_at_ms // 1000, where)
    before = datetime.datetime.fromtimestamp(window.starts_at_ms // 1000 - 1, where)
    changed = local.utcoffset() != before.utcoffset()
    assert changed or (local.minute * 60 * hour + local.second) == 0


def test_an_hour_in_which_the_clock_is_changed_by_half_ends_there():
    windows = Calendar("hour", ZoneInfo("Australia/Lord_Howe"))
    change = ms("2026-04-04T15:00")  # 02:00 becomes 01:30
    assert [windows.window(change + after).starts_at_ms - change for after in (-1, 0, 1_800_000)] == [
        -3_600_000,
        0,
        1_800_000,
    ]


def spend(books, index, number, at_ms, amount, *, cost=None):
    """Reserve and book one call; True when it was let in."""
    need = Need(usd=amount, input_tokens=0, output_tokens=0)
    holds = index.holds(Scope(), provider="p", model="m", need=need, at_ms=at_ms)
    one = Reservation(id=f"r{number}", request_id="", holds=holds, ceiling=None, expires_at_ms=2**62)

    async def act():
        if not isinstance(await books.reserve(one, now_ms=at_ms), Held):
            return False
        paid = amount if cost is None else cost
        await books.settle(Settlement(reservation=one, amounts=(paid,) * len(holds)), now_ms=at_ms)
        return True

    return asyncio.run(act())


def rolling(length_ms, limit=100):
    return Budgets((Budget(name="r", per="rolling", length_ms=length_ms, limits=(("usd", limit),)),))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from((60_000, 90_000, 61_234, 3_600_000, DAY_MS)),
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 60)), min_size=1, max_size=25),
)
def test_no_interval_of_the_length_ever_carries_more_than_a_rolling_limit_in_any_order(length_ms, calls):
    index, books, spent = rolling(length_ms), MemoryBooks(), []
    for number, (part, amount) in enumerate(calls):
        at_ms = AT_MS + int(part * length_ms)
        near = sum(other for when, other in spent if abs(when - at_ms) <= length_ms * (1 + 1 / 60) + 1000)
        if spend(books, index, number, at_ms, amount):
            spent.append((at_ms, amount))
        else:
            assert near + amount > 100, "refused although it fits"
    for when, _ in spent:
        assert sum(amount for other, amount in spent if when <= other <= when + length_ms) <= 100


def test_a_rolling_window_lets_use_go_after_one_part_more_than_its_length():
    index, books = rolling(60_000), MemoryBooks()
    assert spend(books, index, 1, AT_MS, 100)
    assert not spend(books, index, 2, AT_MS + 60_000, 1)
    assert spend(books, index, 3, AT_MS + 61_000, 100)
    window = Rolling(60_000).window(AT_MS)
    assert (len(window.also), window.name in window.also) == (120, False)
    assert window.ends_at_ms == AT_MS + 61_000


GRANTS = st.lists(
    st.builds(
        lambda begin, length, amount: Grant(amount=amount, from_ms=begin, until_ms=begin + length),
        st.integers(0, 12),
        st.integers(1, 8),
        st.integers(1, 50),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=300, deadline=None)
@given(
    GRANTS,
    st.integers(0, 20),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 40)), max_size=15),
)
def test_credits_pay_for_use_before_they_expire_and_never_for_more(grants, base, calls):
    limits = (("usd", base),) if base else ()
    index = Budgets((Budget(name="c", per="total", credits=tuple(grants), limits=limits),))
    books, spent, at_ms = MemoryBooks(), [], 0
    for number, (wait, ceiling, cost) in enumerate(calls):
        at_ms += wait
        begun = [one for one in grants if one.from_ms <= at_ms]
        fits = payable([*spent, (at_ms, ceiling)], begun, base)
        assert spend(books, index, number, at_ms, ceiling, cost=min(cost, ceiling)) == fits
        if fits:
            spent.append((at_ms, min(cost, ceiling)))
    assert sum(cost for _, cost in spent) <= base + sum(one.amount for one in grants)


def payable(spent, grants, base):
    """All use can be paid by grants that had not expired; the latest use first, because it has the least choice."""
    left = {number: one.amount for number, one in enumerate(grants)}
    for at_ms, amount in sorted(spent, reverse=True):
        for number, one in enumerate(grants):
            if one.until_ms > at_ms:
                taken = min(left[number], amount)
                left[number] -= taken
                amount -= taken
        base -= amount
    return base >= 0


def test_credit_without_overlap_needs_only_its_own_window_and_the_sum():
    grants = tuple(Grant(amount=10, from_ms=n * DAY_MS, until_ms=(n + 1) * DAY_MS) for n in range(100))
    index = Budgets((Budget(name="c", per="total", credits=grants),))
    need = Need(usd=1, input_tokens=0, output_tokens=0)
    made = index.holds(Scope(), provider="p", model="m", need=need, at_ms=50 * DAY_MS)
    assert [(hold.window, hold.limit, hold.resets_at_ms) for hold in made] == [
        ("all", 510, 51 * DAY_MS),
        ("since 1970-02-20T00:00:00Z", 10, 51 * DAY_MS),
    ]


def test_a_raise_lasts_from_its_beginning_up_to_its_end():
    raises = (
        Grant(amount=5, from_ms=AT_MS, until_ms=AT_MS + 10),
        Grant(unit="requests", amount=7, until_ms=AT_MS + 5),
    )
    budget = Budget(name="b", per="day", limits=(("usd", 100), ("requests", 1)), raises=raises)
    index, need = Budgets((budget,)), Need(usd=1, input_tokens=0, output_tokens=0)
    seen = [
        tuple(hold.limit for hold in index.holds(Scope(), provider="p", model="m", need=need, at_ms=AT_MS + after))
        for after in (-1, 0, 4, 5, 9, 10)
    ]
    assert seen == [(100, 8), (105, 8), (105, 8), (105, 1), (105, 1), (100, 1)]


def test_a_session_budget_binds_calls_of_a_session_and_splits_by_it():
    index = Budgets((Budget(name="s", per="session", limits=(("tool_calls", 9), ("turns_without_human", 3))),))
    need = Need(usd=1, input_tokens=0, output_tokens=0, tool_calls=2, turns_without_human=4)
    (hold,) = index.holds(Scope(session="a"), provider="p", model="m", need=need, at_ms=AT_MS)
    assert (hold.counter, hold.window, hold.unit, hold.amount) == ("s|session=a", "all", "tool_calls", 2)
    assert index.holds(Scope(), provider="p", model="m", need=need, at_ms=AT_MS) == ()
    found = index.violation(Scope(session="a"), provider="p", model="m", need=need)
    assert (found.unit, found.limit, found.needed) == ("turns_without_human", 3, 4)
    assert index.violation(Scope(), provider="p", model="m", need=need) is None
    assert (index.counts_turns, index.single) == (True, True)


def test_model_patterns_match_and_other_values_are_taken_as_they_are():
    index = Budgets(
        (
            Budget(name="four", per="total", limits=(("usd", 1),), match=(("model", "gpt-4*"), ("team", "a"))),
            Budget(name="star", per="total", limits=(("usd", 1),), match=(("team", "*"),)),
        )
    )
    need = Need(usd=1, input_tokens=0, output_tokens=0)
    names = [
        [hold.budget for hold in index.holds(Scope(team=team), provider="p", model=model, need=need, at_ms=AT_MS)]
        for team, model in (("a", "gpt-4o"), ("a", "gpt-5"), ("b", "gpt-4o"), ("*", "gpt-4o"))
    ]
    assert names == [["four"], [], [], ["star"]]


def test_what_does_not_fit_together_is_told_at_once():
    with pytest.raises(PolicyError) as caught:
        Budgets(
            (
                Budget(name="a", per="rolling", limits=(("usd", 1),)),
                Budget(name="b", per="day", limits=(("usd", 1),), length_ms=60_000, year_month=4, month_day=32),
                Budget(name="c", per="rolling", limits=(("usd", 1),), length_ms=59_999, week_starts="friday"),
                Budget(name="d", per="month", limits=(("usd", 1),), credits=(Grant(amount=0),)),
                Budget(name="e", per="day", limits=(("turns_without_human", 1),), raises=(Grant(amount=5),)),
            )
        )
    told = "\n".join(caught.value.problems)
    for part in (
        "length is missing",
        "length belongs to",
        "year_month means nothing",
        "month_day is 32",
        "length is 1m to 366d",
        "week_starts means nothing",
        "credits belong to",
        "more than nothing",
        "turns_without_human binds",
        "raises usd, which this budget does not limit",
        "until is missing",
    ):
        assert part in told
