"""From levels to actions: what acts is reached, hard and the furthest; soft budgets change nothing."""

from hypothesis import given
from hypothesis import strategies as st

from farthing.core.assess import NOTHING, Level, assess
from farthing.core.policy import Threshold
from farthing.engine.actions import Turnstile

ACTIONS = ("notify", "degrade", "cap", "queue", "throttle", "block")


@st.composite
def thresholds(draw):
    action = draw(st.sampled_from(ACTIONS))
    return Threshold(
        percent=draw(st.integers(1, 150)),
        action=action,
        to=draw(st.sampled_from(["small", "tiny"])) if action == "degrade" else "",
        per_minute=draw(st.integers(1, 9)) if action == "throttle" else 0,
    )


LEVELS = st.builds(
    Level,
    budget=st.sampled_from("ab"),
    counter=st.sampled_from(["x", "y"]),
    window=st.just("w"),
    unit=st.sampled_from(["usd", "tokens"]),
    limit=st.integers(0, 200),
    used=st.integers(0, 400),
    hard=st.booleans(),
)
RULES = st.dictionaries(st.sampled_from("ab"), st.lists(thresholds(), max_size=5).map(tuple))


def reached(levels, rules, action, *, hard):
    return [
        (threshold, level)
        for level in levels
        for threshold in rules.get(level.budget, ())
        if threshold.action == action and level.hard == hard and level.used >= threshold.percent * level.limit / 100
    ]


@given(levels=st.lists(LEVELS, max_size=5), rules=RULES)
def test_a_verdict_holds_what_hard_levels_have_reached_and_the_furthest_of_each(levels, rules):
    verdict = assess(levels, rules)
    for action in ("block", "queue", "degrade"):
        found = getattr(verdict, action)
        possible = reached(levels, rules, action, hard=True)
        assert (found is None) == (not possible)
        if found is not None:
            assert (found.threshold, found.level) in possible
            assert found.threshold.percent == max(threshold.percent for threshold, _ in possible)
    slow: dict[str, int] = {}
    for threshold, level in reached(levels, rules, "throttle", hard=True):
        slow[level.counter] = min(threshold.per_minute, slow.get(level.counter, 10))
    assert {one.level.counter: one.threshold.per_minute for one in verdict.throttle} == slow
    would = {
        (level.budget, "would_" + action)
        for action in ("degrade", "queue", "throttle", "block")
        for _, level in reached(levels, rules, action, hard=False)
    }
    assert {(dict(note.evidence)["budget"], note.action) for note in verdict.notes} == would


@given(levels=st.lists(LEVELS, max_size=4), rules=RULES, seed=st.randoms())
def test_the_order_of_levels_does_not_matter(levels, rules, seed):
    shuffled = list(levels)
    seed.shuffle(shuffled)
    one, other = assess(levels, rules), assess(shuffled, rules)
    assert (one.block is None, one.queue is None, one.degrade is None) == (
        other.block is None, other.queue is None, other.degrade is None,
    )  # fmt: skip
    if one.degrade and other.degrade:
        assert one.degrade.threshold.percent == other.degrade.threshold.percent


@given(levels=st.lists(LEVELS, max_size=4))
def test_telling_and_capping_change_no_plan(levels):
    rules = {"a": (Threshold(percent=1), Threshold(percent=1, action="cap"))}
    assert assess(levels, rules) == NOTHING


@given(pauses=st.lists(st.integers(0, 40_000), max_size=60), rate=st.integers(1, 5))
def test_no_sixty_seconds_carry_more_than_the_rate_and_who_waits_as_told_gets_through(pauses, rate):
    gate, now, passed = Turnstile(), 0, []
    for pause in pauses:
        now += pause
        wait = gate.wait_ms(now, rate)
        room = sum(at > now - 60_000 for at in passed) < rate
        assert (wait == 0) == room
        if wait:
            assert sum(at > now + wait - 60_000 for at in passed) < rate
            assert sum(at > now + wait - 1 - 60_000 for at in passed) >= rate
        else:
            passed.append(now)
