"""Budgets: which holds a call needs, on which counters, in which windows."""

import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.core.budget import Budgets, Need, counter_name, parse_counter, spent
from farthing.core.budget_keys import call_values, splits
from farthing.core.budget_windows import Calendar
from farthing.core.errors import PolicyError
from farthing.core.policy import Budget
from farthing.core.types import Scope

AT_MS = 1_795_000_000_000  # 2026-11-18T11:06:40Z, a Wednesday
NEED = Need(usd=5, input_tokens=30, output_tokens=12)
USD = (("usd", 100),)


def holds(*budgets, scope=None, provider="openai", model="gpt-4o", at_ms=AT_MS, need=NEED):
    return Budgets(budgets).holds(
        scope or Scope(team="search", user="zoë"), provider=provider, model=model, need=need, at_ms=at_ms
    )


def test_every_limit_of_a_budget_becomes_a_hold_in_its_own_unit():
    units = ("usd", "tokens", "input_tokens", "output_tokens", "requests")
    made = holds(Budget(name="all", per="day", limits=tuple((unit, 1000) for unit in units)))
    assert [(hold.unit, hold.amount) for hold in made] == [
        ("usd", 5),
        ("tokens", 42),
        ("input_tokens", 30),
        ("output_tokens", 12),
        ("requests", 1),
    ]
    assert {(hold.counter, hold.window, hold.limit, hold.budget) for hold in made} == {
        ("all", "2026-11-18", 1000, "all")
    }
    assert spent(made, usd=7, input_tokens=20, output_tokens=1) == (7, 21, 20, 1, 1)


def test_an_unknown_price_counts_nothing_in_dollars_and_all_tokens():
    made = holds(
        Budget(name="all", per="day", limits=(("usd", 9), ("tokens", 9))),
        need=Need(usd=None, input_tokens=1, output_tokens=2),
    )
    assert [hold.amount for hold in made] == [0, 3]
    assert spent(made, usd=None, input_tokens=1, output_tokens=1) == (0, 2)


def test_only_matching_budgets_apply_in_the_order_of_the_policy():
    made = holds(
        Budget(name="z", per="total", limits=USD),
        Budget(name="other", per="total", limits=USD, match=(("team", "ads"),)),
        Budget(name="both", per="total", limits=USD, match=(("team", "search"), ("model", "gpt-4o"))),
        Budget(name="tagged", per="total", limits=USD, match=(("tag:env", "prod"),)),
        Budget(name="untagged", per="total", limits=USD, match=(("tag:env", ""),)),
        Budget(name="a", per="total", limits=USD, match=(("user", "zoë"),)),
    )
    assert [hold.budget for hold in made] == ["z", "both", "untagged", "a"]
    tagged = holds(
        Budget(name="tagged", per="total", limits=USD, match=(("tag:env", "prod"), ("tag:zone", ""))),
        Budget(name="untagged", per="total", limits=USD, match=(("tag:env", ""),)),
        scope=Scope(tags=(("env", "prod"),)),
    )
    assert [hold.budget for hold in tagged] == ["tagged"]


def test_each_gives_every_value_a_counter_and_missing_values_share_one():
    budget = Budget(name="per user", per="total", limits=USD, each=("user", "model", "tag:env"))
    assert holds(budget)[0].counter == "per user|model=gpt-4o,tag:env=,user=zoë"
    assert holds(budget, scope=Scope(tags=(("env", "p"),)))[0].counter == "per user|model=gpt-4o,tag:env=p,user="


@settings(max_examples=200, deadline=None)
@given(st.text(), st.lists(st.tuples(st.text(min_size=1), st.text()), max_size=4))
def test_counter_names_are_read_back_and_never_collide(name, values):
    assert parse_counter(counter_name(name, values)) == (name, tuple(values))


def test_a_soft_budget_makes_soft_holds():
    assert [hold.hard for hold in holds(Budget(name="soft", per="day", limits=USD, hard=False))] == [False]


def test_request_limits_bind_each_call_and_need_no_counter():
    budgets = Budgets(
        (
            Budget(name="soft", per="request", limits=(("usd", 1),), hard=False),
            Budget(name="big", per="request", limits=(("input_tokens", 30), ("output_tokens", 11))),
        )
    )
    scope = Scope()
    assert budgets.holds(scope, provider="p", model="m", need=NEED, at_ms=AT_MS) == ()
    found = budgets.violation(scope, provider="p", model="m", need=NEED)
    assert found is not None
    assert (found.budget.name, found.unit, found.limit, found.needed) == ("big", "output_tokens", 11, 12)
    fits = Need(usd=9, input_tokens=30, output_tokens=11)
    assert budgets.violation(scope, provider="p", model="m", need=fits) is None


def test_hard_usd_names_the_budget_that_makes_an_unknown_price_matter():
    budgets = Budgets(
        (
            Budget(name="soft", per="day", limits=USD, hard=False),
            Budget(name="tokens", per="day", limits=(("tokens", 1),)),
            Budget(name="ads", per="request", limits=USD, match=(("team", "ads"),)),
        )
    )
    assert budgets.hard_usd(Scope(), provider="p", model="m") is None
    found = budgets.hard_usd(Scope(team="ads"), provider="p", model="m")
    assert found is not None
    assert found.name == "ads"


def test_all_problems_of_a_policy_are_told_at_once():
    with pytest.raises(PolicyError) as caught:
        Budgets(
            (
                Budget(name="a", per="day", limits=USD, timezone="Mars/Olympus"),
                Budget(name="a", per="day", limits=(), each=("colour", "user", "user")),
                Budget(name="b", per="day", limits=(("usd", -1), ("usd", 2)), match=(("status", "200"),)),
            )
        )
    told = "\n".join(caught.value.problems)
    for part in (
        "defined twice",
        "Mars/Olympus",
        "no limit",
        "'colour'",
        "'user' twice",
        "negative",
        "'usd' twice",
        "'status'",
    ):
        assert part in told


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.tuples(st.sampled_from(("team", "user", "model", "tag:env")), st.sampled_from("ab")),
                           max_size=3, unique_by=lambda pair: pair[0]), st.booleans()),
        max_size=12,
    ),
    st.tuples(*[st.sampled_from("ab")] * 3),
    st.sampled_from(("", "a", "b")),
)  # fmt: skip
def test_the_index_finds_what_a_search_through_all_budgets_finds(matches, values, env):
    budgets = [Budget(name=f"b{n}", per="total", limits=USD, match=tuple(m)) for n, (m, _) in enumerate(matches)]
    scope = Scope(team=values[0], user=values[1], tags=(("env", env),) if env else ())
    have = {"team": values[0], "user": values[1], "model": values[2], "tag:env": env}
    expected = [b.name for b in budgets if all(have[dim] == value for dim, value in b.match)]
    index = Budgets(tuple(budgets))
    for _ in range(2):
        made = index.holds(scope, provider="p", model=values[2], need=NEED, at_ms=AT_MS)
        assert [hold.budget for hold in made] == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(
                st.tuples(st.sampled_from(("team", "user", "session", "model", "provider", "tag:env")),
                          st.sampled_from(("a", "b", ""))),
                max_size=2, unique_by=lambda pair: pair[0],
            ),
            st.lists(st.sampled_from(("team", "user", "model", "provider", "tag:env")), max_size=2, unique=True),
            st.sampled_from(("total", "session", "day")),
        ),
        max_size=6,
    ),
    st.lists(st.tuples(*[st.sampled_from(("a", "b", "c", "", "é|"))] * 6), min_size=2, max_size=8),
)  # fmt: skip
def test_what_an_index_remembers_of_other_calls_changes_nothing(rules, calls):
    budgets = tuple(
        Budget(name=f"b{n}", per=per, limits=USD, match=(*match, *((("model", "?b*"),) if n == 3 else ())), each=each)
        for n, (match, each, per) in enumerate((m, tuple(e), p) for m, e, p in rules)
        if n != 3 or "model" not in dict(match)
    )
    index = Budgets(budgets)
    for team, user, session, model, provider, env in calls:
        scope = Scope(team=team, user=user, session=session, tags=(("env", env), ("free", team)) if env else ())
        asked = {"provider": provider, "model": model + "b"}
        made = index.holds(scope, **asked, need=NEED, at_ms=AT_MS)
        assert made == Budgets(budgets).holds(scope, **asked, need=NEED, at_ms=AT_MS)
        assert [hold.counter for hold in made] == [
            counter_name(one.name, [(dim, call_values(scope, **asked).get(dim, "")) for dim in splits(one)])
            for one, _ in index.binding(scope, **asked)
        ]


def test_the_memory_of_the_index_is_bounded_and_stays_right():
    index = Budgets((Budget(name="b", per="total", limits=USD, each=("user",)),))
    for number in range(20_000):
        for user in (f"u{number}", f"u{max(0, number - 1)}"):  # the second is seen again
            made = index.holds(Scope(user=user), provider="p", model="m", need=NEED, at_ms=AT_MS)
            assert made[0].counter == f"b|user={user}"
    assert 4_096 < len(index._memo) + len(index._older) <= 16_384


def test_what_is_seen_once_is_not_remembered_and_what_comes_back_is():
    index = Budgets((Budget(name="b", per="total", limits=USD, each=("user",)),))

    def places(user):
        return index.places(Scope(user=user), provider="p", model="m", at_ms=AT_MS)

    first = [places(f"u{number}") for number in range(50)]
    assert not index._memo
    second = [places(f"u{number}") for number in range(50)]
    assert second == first
    assert all(places(f"u{number}") is second[number] for number in range(50))


def ms(text, zone="UTC"):
    return int(datetime.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1000


@pytest.mark.parametrize(
    ("period", "zone", "at", "name", "starts", "ends"),
    [
        ("day", "UTC", "2026-11-21T23:59:59", "2026-11-21", "2026-11-21", "2026-11-22"),
        ("week", "UTC", "2026-11-22T12:00", "2026-W47", "2026-11-16", "2026-11-23"),
        ("week", "UTC", "2027-01-03T12:00", "2026-W53", "2026-12-28", "2027-01-04"),
        ("month", "UTC", "2026-12-31T12:00", "2026-12", "2026-12-01", "2027-01-01"),
        ("day", "Europe/Berlin", "2026-03-29T12:00", "2026-03-29", "2026-03-29", "2026-03-30"),  # 23 hours
        ("day", "Europe/Berlin", "2026-10-25T12:00", "2026-10-25", "2026-10-25", "2026-10-26"),  # 25 hours
        ("month", "Asia/Kolkata", "2026-02-01T00:00", "2026-02", "2026-02-01", "2026-03-01"),
    ],
)
def test_windows_begin_and_end_at_local_midnight(period, zone, at, name, starts, ends):
    window = Calendar(period, ZoneInfo(zone)).window(ms(at, zone))
    assert (window.name, window.starts_at_ms, window.ends_at_ms) == (name, ms(starts, zone), ms(ends, zone))


def test_a_total_has_one_window_without_end():
    window = Calendar("total", datetime.UTC).window(AT_MS)
    assert (window.name, window.ends_at_ms) == ("all", None)


@pytest.mark.parametrize("period", ["day", "week", "month"])
@pytest.mark.parametrize(
    "zone",
    [
        "UTC",
        "Europe/Berlin",
        "America/St_Johns",
        "America/Sao_Paulo",
        "Pacific/Apia",
        "Africa/Cairo",
        "America/Havana",
    ],
)
def test_windows_cover_all_time_once_whatever_the_clocks_do(zone, period):
    calendar = Calendar(period, ZoneInfo(zone))
    at_ms = ms("2006-01-01")
    end_ms = ms("2012-12-31")
    previous = None
    while at_ms < end_ms:
        window = calendar.window(at_ms)
        assert window.ends_at_ms is not None
        assert window.starts_at_ms <= at_ms < window.ends_at_ms
        if previous is not None:
            assert window.starts_at_ms == previous.ends_at_ms
            assert window.name > previous.name
        assert calendar.window(window.ends_at_ms - 1) == window
        previous, at_ms = window, window.ends_at_ms
