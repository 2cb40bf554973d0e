"""The referee of ``make race`` finds a needless refusal, and never takes a needed one for it."""

import sys
from pathlib import Path

import pytest

from farthing.core.types import Scope
from farthing.testing.records import an_entry


@pytest.fixture(scope="module")
def race():
    sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
    try:
        import race

        yield race
    finally:
        sys.path.pop(0)


LIMITS = {"org": 1_000, "team": 600, "user": 300}


def entry(id, cost, ceiling):
    import msgspec

    return msgspec.structs.replace(an_entry(id, cost, scope=Scope(session=id)), ceiling=ceiling)


def call(race, id, began, ended, *, status=200, budget="", need=0, user="u1"):
    return race.Call(id, "t1", user, began, ended, status, budget, need)


def refused(race, at, need, budget="user"):
    return call(race, "r", at, at + 1, status=429, budget=budget, need=need)


def test_a_refusal_that_fits_after_all_that_was_booked_is_a_phantom(race):
    referee = race.Referee(LIMITS, [entry("a", 100, 200)])
    done = call(race, "a", 0, 1)
    assert referee.phantoms([done, refused(race, 5, 200)], 9) == 1
    assert referee.phantoms([done, refused(race, 5, 201)], 9) == 0


def test_a_call_in_flight_counts_its_ceiling(race):
    referee = race.Referee(LIMITS, [entry("a", 100, 200)])
    assert referee.phantoms([call(race, "a", 0, 5.5), refused(race, 5, 101)], 9) == 0
    assert referee.phantoms([call(race, "a", 0, 5.5), refused(race, 5, 100)], 9) == 1


def test_a_caller_who_hung_up_counts_the_ceiling_until_all_is_quiet(race):
    referee = race.Referee(LIMITS, [entry("a", 100, 200)])
    gone = call(race, "a", 0, float("inf"), status=0)
    assert referee.phantoms([gone, refused(race, 5, 150)], 9) == 0
    assert referee.phantoms([gone, refused(race, 10, 150)], 9) == 1


def test_a_call_that_began_after_the_refusal_and_other_counters_do_not_count(race):
    referee = race.Referee(LIMITS, [entry("a", 300, 300), entry("b", 300, 300)])
    later = call(race, "a", 6.5, 7)
    other = call(race, "b", 0, 1, user="u2")
    assert referee.phantoms([later, other, refused(race, 5, 300)], 9) == 1
    assert referee.phantoms([later, other, refused(race, 5, 301, budget="team")], 9) == 0


def test_overspend_is_that_of_the_counter_that_is_furthest_beyond(race):
    referee = race.Referee(LIMITS, [entry("a", 250, 300), entry("b", 80, 90), entry("c", 290, 300)])
    calls = [call(race, "a", 0, 1), call(race, "b", 0, 1), call(race, "c", 0, 1, user="u2")]
    assert referee.overspend(calls, referee.cost) == 30
    assert referee.overspend(calls[1:], referee.cost) == 0
