"""How notes move a roll-out: promotion, rollback, drift, calibration, silent model changes."""

import random
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.core.alert_text import record, text, title
from farthing.core.cascade_checks import Answer
from farthing.core.rollout import CanaryPrint, RolloutRules, RolloutState, observed, stage_name
from farthing.core.rollout_fold import CanaryNote, Candidate, Event, EventKind, Note, PairNote, SeenNote, folded
from farthing.core.route_canary import change_of, more_than, noise_of, print_of, read_prompts
from farthing.core.route_drift import (
    BUCKETS,
    PSI_ALARM,
    PSI_WINDOW,
    bucket_count,
    drift,
    labelled,
    place_of,
    saw,
    shortfall,
)
from farthing.engine.route_steward import alert_of

RULES = RolloutRules(margin=0.1)
CANDIDATE = Candidate("ref", RULES, (100,) * 10)


def pair(difference: float | None, *, nusd: int = 5, candidate: str = "ref", **more: float) -> PairNote:
    return PairNote(route="r", candidate=candidate, at_ms=7, day="1", nusd=nusd, difference=difference, **more)  # type: ignore[arg-type]


def after(notes: list[Note], state: RolloutState | None = None):
    return folded(state or RolloutState(route="r"), CANDIDATE, notes, now_ms=1)


def test_good_pairs_go_through_all_stages_and_each_step_is_told() -> None:
    state, events = after([pair(0.0)] * 400)
    assert (state.stage, stage_name(state)) == ("live", "live")
    assert [(one.kind, one.before, one.after) for one in events] == [
        ("promoted", "shadow", "canary 5 %"),
        ("promoted", "canary 5 %", "canary 25 %"),
        ("promoted", "canary 25 %", "live"),
    ]
    assert state.since_ms == 7
    assert state.shadow_nusd == 2_000


@given(st.lists(st.sampled_from([0.0, 0.0, 0.0, 1.0, -1.0, 0.5, None]), max_size=120), st.integers(0, 120))
def test_folding_in_two_goes_is_folding_in_one(differences: list[float | None], cut: int) -> None:
    notes: list[Note] = [pair(one, estimate=0.05) for one in differences]
    once, told = after(notes)
    first, early = after(notes[:cut])
    twice, late = after(notes[cut:], first)
    assert twice == once
    assert early + late == told


def test_a_model_that_was_good_for_long_and_gets_worse_is_found_soon() -> None:
    chance = random.Random(3)
    state = RolloutState(route="r")
    for _ in range(20_000):
        state = observed(state, RULES, float(chance.random() < 0.02))
    assert state.stage == "live"
    count = 0
    while state.stage == "live" and count < 2_000:
        state = observed(state, RULES, float(chance.random() < 0.35))
        count += 1
    assert state.stage == "rolled_back"
    assert count < 400


def test_a_loss_at_the_margin_is_rolled_back_in_at_most_alpha_of_the_runs_however_long_it_is_looked_at() -> None:
    back = 0
    for seed in range(120):
        chance = random.Random(seed)
        state = RolloutState(route="r")
        for _ in range(1_500):
            state = observed(state, RULES, float(chance.random() < RULES.margin))
        back += state.stage == "rolled_back"
    assert back <= 120 * RULES.alpha + 5


def test_another_candidate_begins_in_shadow_and_its_predecessors_notes_count_for_nothing_but_money() -> None:
    live, _ = after([pair(0.0)] * 400)
    renewed, events = folded(live, Candidate("other", RULES), [pair(0.0), pair(1.0)], now_ms=9)
    assert (renewed.stage, renewed.all_pairs, renewed.candidate) == ("shadow", 0, "other")
    assert renewed.shadow_nusd == live.shadow_nusd + 10
    assert [one.kind for one in events] == ["began_again"]


def test_pairs_that_nothing_could_tell_cost_and_say_nothing() -> None:
    state, events = after([pair(None)] * 100)
    assert (state.all_pairs, state.shadow_nusd, events) == (0, 500, ())


# -- drift


def test_drifting_prompts_freeze_the_route_and_the_old_ones_thaw_it() -> None:
    def seen(counts: tuple[int, ...]) -> SeenNote:
        return SeenNote(route="r", candidate="ref", at_ms=3, counts=counts)

    usual, foreign = (50,) * 10, (0,) * 5 + (100,) * 5
    state, events = after([seen(usual)])
    assert (state.frozen, events) == ("", ())
    assert state.psi is not None
    assert state.psi < 0.01
    state, events = after([seen(foreign)], state)
    assert state.frozen.startswith("input_drift")
    assert [one.kind for one in events] == ["frozen"]
    state, events = after([seen(usual)], state)
    assert [one.kind for one in events] == ["thawed"]
    other = SeenNote(route="r", candidate="before", at_ms=3, counts=foreign)
    assert after([other], state)[0].frozen == ""


def test_a_window_is_judged_only_when_it_is_whole() -> None:
    state = saw(RolloutState(route="r"), (100,) * 10, (0,) * 9 + (PSI_WINDOW - 1,))
    assert (state.psi, sum(state.window)) == (None, PSI_WINDOW - 1)
    state = saw(state, (100,) * 10, (0,) * 9 + (1,))
    assert state.frozen
    assert state.window == ()
    assert saw(state, (1, 2, 3), (5,)) == state  # a worker of another table: not comparable


@pytest.mark.parametrize("prompts", [60, 150, 400, 7_000])
def test_chance_alone_stays_below_the_alarm_however_few_prompts_there_were(prompts: int) -> None:
    chance = random.Random(prompts)
    count = bucket_count(prompts)
    assert count in BUCKETS
    expected, alarms = [0] * count, 0
    for place in chance.choices(range(count), k=prompts):
        expected[place] += 1
    for _ in range(50):
        window = [0] * count
        for place in chance.choices(range(count), k=PSI_WINDOW):
            window[place] += 1
        alarms += drift(expected, window) >= PSI_ALARM
    assert alarms <= (15 if prompts < 100 else 2)


def test_a_prompt_that_is_not_judged_has_a_bucket_of_its_own() -> None:
    edges = (0.1, 0.2)
    assert [place_of(edges, gain) for gain in (0.0, 0.1, 0.15, 0.9, None)] == [0, 1, 1, 2, 3]


def test_losses_larger_than_expected_freeze_and_smaller_ones_do_not() -> None:
    def run(estimate: float, true: float) -> RolloutState:
        chance = random.Random(1)
        state = RolloutState(route="r")
        for _ in range(200):
            state = labelled(state, estimate, float(chance.random() < true))
        return state

    assert run(0.02, 0.3).frozen.startswith("calibration")
    assert run(0.02, 0.02).frozen == ""
    assert run(0.3, 0.02).frozen == ""
    assert shortfall([(0, 0.0, 0.0, 0.0)]) == 0.0


# -- the canary set


def prints(model: str, said: str, version: str = "v1", noise: tuple[int, int] = (0, 20)) -> CanaryPrint:
    return CanaryPrint(model=model, version=version, prints=tuple(said), noise=noise)


def test_answers_that_differ_more_than_by_chance_are_a_change() -> None:
    assert change_of(prints("m", "a" * 20), prints("m", "a" * 20)) is None
    changed = change_of(prints("m", "a" * 20), prints("m", "b" * 20))
    assert changed is not None
    assert changed.why == "answers:20/20"
    noisy = prints("m", "a" * 20, noise=(18, 20))  # it disagrees with itself as often
    assert change_of(noisy, prints("m", "b" * 20)) is None
    assert change_of(prints("m", "a" * 3), prints("m", "b" * 3)) is None
    versions = change_of(prints("m", "a" * 20), prints("m", "a" * 20, "v2"))
    assert versions is not None
    assert versions.why == "version:v1->v2"


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_the_exact_test_is_a_chance_and_falls_with_the_differences(of: int, among: int, data: st.DataObject) -> None:
    few = data.draw(st.integers(0, of))
    chances = [more_than((few, of), (many, among)) for many in range(among + 1)]
    assert all(0 <= one <= 1 for one in chances)
    assert chances[0] == 1.0


def test_noise_compares_only_what_was_answered() -> None:
    assert noise_of(("a", "", "b"), ("a", "x", "c")) == (1, 2)
    one, other = Answer(model="m", text="1,200.0"), Answer(model="m", text="1200")
    assert print_of(one) == print_of(other)
    assert print_of(Answer(model="m", text="word " * 90)) != print_of(Answer(model="m", text="other " * 90))


def test_a_changed_model_reopens_the_gate_and_is_remembered_as_it_is_now() -> None:
    live, _ = after([pair(0.0)] * 400)

    def asked(said: str, at_ms: int) -> CanaryNote:
        return CanaryNote(
            route="r", at_ms=at_ms, day="1", nusd=3, prints=(prints("cheap", said), prints("s", "c" * 20))
        )

    known, events = after([asked("a" * 20, 10)], live)
    assert (known.stage, known.canary_at_ms, events) == ("live", 10, ())
    changed, events = after([asked("b" * 20, 20)], known)
    assert (changed.stage, changed.reason, changed.all_pairs) == ("shadow", "model_changed:cheap", 0)
    assert [one.kind for one in events] == ["model_changed", "began_again"]
    assert after([asked("b" * 20, 30)], changed)[1] == ()


def test_a_canary_file_is_refused_with_its_line() -> None:
    good = b"\n".join(msgspec.json.encode({"prompt": f"p{n}"}) for n in range(10))
    assert read_prompts(good + b"\n\n") == tuple(f"p{n}" for n in range(10))
    for wrong, why in (
        (good + b"\nx", "line 11"),
        (good + b'\n{"a": 1}', "line 11"),
        (b'{"prompt": "a"}', "1 prompts"),
    ):
        with pytest.raises(ValueError, match=why):
            read_prompts(wrong)


@pytest.mark.parametrize("kind", get_args(EventKind))
def test_every_event_is_an_alert_in_words_with_a_key_of_its_own(kind: EventKind) -> None:
    alert = alert_of(Event(kind, "support", "canary 5 %", "live", "within_margin", 7))
    assert "support" in title(alert)
    assert "within_margin" in text(alert)
    assert record(alert)["event"] == kind
    assert alert.key != alert_of(Event(kind, "support", "canary 5 %", "live", "within_margin", 8)).key
    assert alert.severity == ("critical" if kind == "rolled_back" else alert.severity)
