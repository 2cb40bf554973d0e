"""Parts of a log that share budgets: they are one replay exactly when nothing that they share decided anything."""

import random

from hypothesis import given
from hypothesis import strategies as st

from farthing import bootstrap, config
from farthing.core.assess import NOTHING, Level, acts_from, assess
from farthing.core.policy import Threshold
from farthing.core.types import Usage
from farthing.lab.compare import Tally, merged
from farthing.lab.replay import replay
from farthing.lab.replay_apart import Split, best, conflict, splits, thresholds_of
from farthing.lab.replay_parts import part_of
from farthing.testing.replays import PROVIDERS, busy_log, shared

LONGEST_MS = 20_000
CACHE = '[[cache]]\nname = "all"\nttl = "5m"\n'


def parsed(text: str):
    return config.parse(PROVIDERS + text, env={}, source="t").policy


def run(settings, exchanges, among):
    """(sums, levels of the budgets that are shared, calls whose cached answer is not there) of a replay."""
    prices, tokens = shared()
    tally, made, orphans = Tally(), [], []

    def estimate(logged, target):
        orphans.extend([logged.answered_by] if logged.answered_by else [])
        return logged.usage or Usage()

    def make(loop, provider, log):
        services = bootstrap.replay_services(settings, loop, provider, log, prices=prices, tokens=tokens)
        services.books.share(thresholds_of(settings.policy, among))
        made.append(services.books)
        return services

    replay(exchanges, make, tally, estimate=estimate, longest_ms=LONGEST_MS)
    return tally.finish(), made[0].levels() if made else (), len(orphans)


def some_policy(rng: random.Random) -> str:
    """Budgets of every size, some with thresholds; some caches that split by team."""
    lines = []
    for name, each in (
        ("org", ""),
        ("team", 'each = ["team"]\n'),
        ("user", 'each = ["user"]\n'),
        ("model", 'each = ["model"]\n'),
    ):
        if rng.random() < 0.7:
            limit = rng.choice(
                ('usd = "0.03"', 'usd = "0.4"', 'usd = "1"', 'usd = "30"', "tokens = 9000000", "requests = 40")
            )
            per = rng.choice(("day", "hour", "week"))
            act = rng.choice(
                (
                    'do = "degrade", to = "gpt-4o-mini"',
                    'do = "throttle", per_minute = 3',
                    'do = "block"',
                    'do = "cap"',
                )
            )
            rule = f"thresholds = [{{ at = {rng.choice((40, 90))}, {act} }}]\n" if rng.random() < 0.4 else ""
            lines.append(f'[[budgets]]\nname = "{name}"\nper = "{per}"\n{limit}\n{each}{rule}')
    if rng.random() < 0.3:
        lines.append(CACHE + 'partition = ["team"]\n')
    return "".join(lines)


def test_parts_without_a_conflict_add_up_and_others_are_told():
    same = apart = wrong = 0
    for seed in range(30):
        exchanges = list(busy_log(150, seed=seed))
        settings = config.parse(PROVIDERS + some_policy(random.Random(seed)), env={}, source="t")
        whole = run(settings, exchanges, ())[0]
        for split in splits(settings.policy)[:3]:
            halves = [[one for one in exchanges if part_of(one, split.dimension, 2) == part] for part in (0, 1)]
            parts = [run(settings, half, split.shared) for half in halves if half]
            alike = merged([bill for bill, _, _ in parts]) == whole
            if conflict([levels for _, levels, _ in parts]) or any(orphans for _, _, orphans in parts):
                apart += 1
                wrong += not alike
            else:
                same += 1
                assert alike, (seed, split)
    assert same > 20
    assert apart > 8
    assert wrong > 4  # without the look at the levels, parts would have been wrong


def test_a_level_counts_against_the_first_thing_that_happens():
    one = ("c", "w", "usd", 60, 100)
    assert conflict([(one,), ()]) == ""
    assert conflict([(("c", "w", "usd", 160, 100),)]) == ""  # nobody else counts on it
    assert conflict([(one,), (("c", "w", "usd", 40, 100),)]) == ""
    assert conflict([(one,), (("c", "w", "usd", 41, 100),)]) == "c"
    assert conflict([(one,), (("c", "w", "usd", 20, 79),)]) == "c"
    assert conflict([(one,), (("c", "x", "usd", 60, 100),)]) == ""


@given(limit=st.integers(0, 10**12), percents=st.lists(st.integers(1, 200), min_size=1, max_size=3))
def test_thresholds_say_nothing_below_where_they_act_and_something_from_there_on(limit, percents):
    rules = tuple(Threshold(percent=percent, action="block") for percent in percents)
    least = acts_from(limit, (*rules, Threshold(percent=1, action="cap"), Threshold(percent=1, action="notify")))
    assert least is not None

    def said(used: int) -> object:
        level = Level(budget="b", counter="b", window="w", unit="usd", limit=limit, used=used)
        return assess([level], {"b": rules})

    assert said(least) != NOTHING
    assert said(least - 1) == NOTHING
    assert acts_from(limit, (Threshold(percent=1, action="cap"),)) is None


def test_splits_follow_what_calls_share():
    org = '[[budgets]]\nname = "org"\nper = "day"\nusd = "1"\n'
    user = '[[budgets]]\nname = "user"\nper = "day"\nusd = "1"\neach = ["user"]\n'
    assert splits(parsed(org + user))[0] == Split("user", ("org",))
    assert splits(parsed(org + user))[-1] == Split("request", ("org", "user"))
    assert splits(parsed(org + CACHE + "partition = []\n")) == ()
    assert splits(parsed(org + CACHE + 'partition = ["team"]\n')) == (Split("team", ("org",)),)
    rolling = org.replace('per = "day"', 'per = "rolling"\nlength = "10m"')
    assert splits(parsed(rolling)) == ()
    assert (
        splits(parsed(rolling.replace('per = "rolling"', 'each = ["team"]\nper = "rolling"')))[0].dimension == "team"
    )
    soft = org.replace('per = "day"', 'per = "day"\nhard = false')
    assert splits(parsed(soft + user))[0] == Split("user", ())


def test_the_first_even_split_is_taken_and_none_that_puts_all_into_one_part():
    sample = list(busy_log(1_000))
    org, user = Split("org", ()), Split("user", ("a",))
    assert best((org, user), sample, 2) == user
    assert best((org,), sample, 2) is None
    assert best((), sample, 2) is None
