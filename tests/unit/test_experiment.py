"""The draw of an experiment: balanced, the same everywhere and for ever, and of nothing but the design."""

import math
import random
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.core.experiment import (
    PARTS,
    Experiment,
    assign,
    block_of,
    in_washout,
    is_control_block,
    problems,
    unit_of,
)
from farthing.core.rollout import share_of
from farthing.core.types import Scope

START = 1_795_000_000_000
HOUR = 3_600_000
NAMES = st.text(min_size=1, max_size=30)


def design(**changes) -> Experiment:
    said = {"name": "e", "off": ("caches",), "share_bp": 2_000, "salt": "s", "starts_ms": START, **changes}
    return Experiment(**said)


def arm(experiment: Experiment, scope: Scope, request_id: str = "r", at_ms: int = START) -> str:
    found = assign(experiment, scope, request_id, at_ms)
    assert found is not None
    return found.arm


@pytest.mark.parametrize("share", [0.5, 5.0, 20.0, 50.0, 90.0])
@pytest.mark.parametrize("salt", ["a", "b"])
def test_control_has_its_share_of_conversations_within_chance(share, salt):
    made = design(share_bp=round(share * 100), salt=salt)
    count = 20_000
    control = sum(arm(made, Scope(session=f"session-{at}")) == "control" for at in range(count))
    spread = math.sqrt(count * share / 100 * (1 - share / 100))
    assert abs(control - count * share / 100) < 4 * spread


@given(NAMES, st.integers(0, 10**9), st.integers(0, 10**9), st.lists(NAMES, max_size=4))
def test_a_conversation_keeps_its_arm_whatever_else_its_calls_say(session, first, second, others):
    made = design(share_bp=5_000)
    arms = {arm(made, Scope(session=session), f"{at}", START + at) for at in (first, second)}
    for other in others:
        scope = Scope(session=session, user=other, team=other, key=other, tags=((other, other),))
        arms.add(arm(made, scope, other))
    assert len(arms) == 1


@given(NAMES, NAMES)
def test_a_conversation_is_its_session_else_its_user_else_the_call(name, request_id):
    assert unit_of(Scope(session=name, user="u"), request_id) == ("session", name)
    assert unit_of(Scope(user=name), request_id) == ("user", name)
    assert unit_of(Scope(team=name, customer=name), request_id) == ("request", request_id)


def test_another_process_draws_alike():
    made = design(share_bp=5_000)
    names = [f"talk {at} ü" for at in range(40)]
    code = (
        "from farthing.core.experiment import Experiment, assign; from farthing.core.types import Scope;"
        "e = Experiment(name='e', off=('caches',), share_bp=5000, salt='s', starts_ms=0);"
        f"print(*(assign(e, Scope(session=n), 'r', 5).arm for n in {names!r}))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said == [arm(made, Scope(session=name)) for name in names]
    assert len(set(said)) == 2


def test_experiments_and_a_routes_own_holdout_draw_independently():
    """Were the same conversations always in control, one test would be read in the other."""
    names = [f"c{at}" for at in range(4_000)]
    one, two = design(share_bp=5_000, salt="experiment:a:1"), design(share_bp=5_000, salt="experiment:b:2")
    both = sum(arm(one, Scope(session=n)) == arm(two, Scope(session=n)) for n in names)
    assert abs(both - 2_000) < 4 * math.sqrt(1_000)
    held = [n for n in names if share_of(f"s::{n}", "route") < 0.5]
    inside = sum(arm(one, Scope(session=n)) == "control" for n in held)
    assert abs(inside - len(held) / 2) < 4 * math.sqrt(len(held) / 4)


def test_only_its_time_and_its_scope_take_part():
    made = design(match=(("tag:env", "prod"), ("team", "search")), ends_ms=START + 100)
    inside = Scope(team="search", tags=(("env", "prod"),), session="x")
    assert assign(made, inside, "r", START) is not None
    assert assign(made, inside, "r", START - 1) is None
    assert assign(made, inside, "r", START + 100) is None
    assert assign(made, Scope(team="search", session="x"), "r", START) is None
    assert assign(design(stopped_ms=START + 5), inside, "r", START + 5) is None


def test_the_note_says_what_control_did_without_and_of_the_treated_nothing_of_the_kind():
    made = design(off=("caches", "routes"), share_bp=5_000)
    notes = {one.arm: one.note() for one in (assign(made, Scope(user=f"u{n}"), "r", START) for n in range(30)) if one}
    assert notes["control"].evidence == (("experiment", "e"), ("unit", "user"), ("off", "caches,routes"))
    assert notes["treated"].evidence == (("experiment", "e"), ("unit", "user"))
    assert {note.reason for note in notes.values()} == {"control", "treated"}


# -- switchback


def switchback(**changes) -> Experiment:
    return design(kind="switchback", share_bp=5_000, period_ms=HOUR, washout_ms=HOUR // 10, **changes)


@given(st.integers(0, 10**6), st.sampled_from([500, 1_000, 2_000, 2_500, 3_333, 5_000]), NAMES)
def test_of_each_row_of_blocks_exactly_one_is_control(row, share_bp, salt):
    made = msgspec.structs.replace(switchback(salt=salt), share_bp=share_bp)
    blocks = range(row * made.group, (row + 1) * made.group)
    assert sum(is_control_block(made, block) for block in blocks) == 1
    assert made.control_share == 1 / made.group


def test_a_block_serves_everybody_alike_and_its_beginning_is_not_measured():
    made = switchback()
    rng = random.Random(1)
    for block in range(50):
        moments = [START + block * HOUR + rng.randrange(HOUR) for _ in range(10)]
        found = {arm(made, Scope(session=f"{at}"), f"{at}", at) for at in moments}
        assert len(found) == 1
        assert {block_of(made, at) for at in moments} == {block}
        assert all(in_washout(made, at) == ((at - START) % HOUR < HOUR // 10) for at in moments)
    assert not in_washout(design(), START)


def test_the_place_of_control_in_its_row_is_drawn_anew_each_time():
    made = switchback()
    first = sum(is_control_block(made, row * 2) for row in range(2_000))
    assert abs(first - 1_000) < 4 * math.sqrt(500)


# -- designs


def test_a_good_design_has_no_problem():
    assert problems(design(off=PARTS, match=(("tag:env", "x"), ("user", "u")), ends_ms=START + 1)) == []
    assert problems(switchback()) == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"name": "Not this"}, "name:"),
        ({"name": ""}, "name:"),
        ({"off": ()}, "off:"),
        ({"off": ("caches", "caches")}, "twice"),
        ({"share_bp": 9}, "0.1 %"),
        ({"share_bp": 9_001}, "90 %"),
        ({"ends_ms": START}, "until:"),
        ({"margin_bp": 0}, "margin:"),
        ({"match": (("model", "x"),)}, "match:"),
        ({"match": (("tag:", "x"),)}, "match:"),
        ({"match": (("team", "a"), ("team", "b"))}, "twice"),
        ({"period_ms": HOUR}, "only a switchback"),
        ({"kind": "switchback"}, "block"),
        ({"kind": "switchback", "period_ms": HOUR, "washout_ms": HOUR}, "washout:"),
        ({"kind": "switchback", "period_ms": HOUR, "share_bp": 6_000}, "half"),
    ],
)
def test_what_is_wrong_with_a_design_is_said(changes, word):
    assert word in " ".join(problems(design(**changes)))


def test_everything_wrong_is_said_at_once():
    assert len(problems(design(name="?", off=(), share_bp=0, margin_bp=-1, ends_ms=1))) == 5
