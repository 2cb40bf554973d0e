"""The learned router: features, tables, training, and what happens to what it has never seen."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.core.errors import BadRequest, PolicyError
from farthing.core.policy_routes import Route
from farthing.core.route_decide import Artefact, Facts, Thresholds, decide, read_artefact
from farthing.core.route_features import HEAD_CHARS, NUMBERS, read, words_of
from farthing.core.route_model import RouteModel, RouteTable, bits_to_bytes, bytes_to_bits
from farthing.lab.route_data import read_labels, write_labels
from farthing.lab.route_eval import apgr, cost_at, cpt, curve
from farthing.lab.route_policy import make_artefact
from farthing.lab.route_train import LabelledSet, Trained, train
from farthing.testing.labels import labelled


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(labelled(400), seed=3)


@pytest.fixture(scope="module")
def model(trained: Trained) -> RouteModel:
    return RouteModel(trained.table)


def test_features_are_the_same_whatever_salt_python_has() -> None:
    code = "from farthing.core.route_features import read; print(sorted(read('Prove the Théorème 日本語')[0]))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": salt}, capture_output=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    assert len(seen) == 1


@given(st.text(st.characters(max_codepoint=127), max_size=200) | st.text(max_size=60))
def test_words_are_those_of_the_pattern_whatever_the_text(text: str) -> None:
    raw = text.lower().encode("utf-8", "replace")
    plain = re.findall(rb"[a-z0-9]+|\S", raw) if raw.isascii() else words_of(raw)
    assert words_of(raw) == plain


def test_a_pair_is_more_than_its_words_and_the_order_counts() -> None:
    assert read("not good").ids != read("good not").ids
    assert len(read("not good").ids) == 3


def test_the_time_of_a_decision_is_bounded_by_reading_only_both_ends() -> None:
    middle = "x" * 50
    text = f"head {middle * 10_000} tail"
    assert len(read(text).words) <= 4
    assert len(read("word " * 100_000).ids) <= HEAD_CHARS
    assert len(read("").numbers) == len(NUMBERS)
    assert read("").ids == set()
    assert read("\ud800 lone surrogate").words


def test_training_is_deterministic_and_the_seed_matters(trained: Trained) -> None:
    assert train(labelled(400), seed=3).table == trained.table
    assert train(labelled(400), seed=4).table != trained.table


def test_it_tells_hard_from_easy_on_prompts_it_has_not_seen(model: RouteModel) -> None:
    fresh = labelled(300, seed=9)
    gain = np.array(
        [model.scores(row.prompt).quality[1][1] - model.scores(row.prompt).quality[0][1] for row in fresh.rows]
    )
    weak = np.array([row.quality[0] for row in fresh.rows])
    ones = np.ones(len(fresh.rows))
    line = curve(gain, weak, ones, weak_cost=ones, strong_cost=20 * ones)
    assert apgr(line) > 0.75
    assert cpt(line, 0.8) < 0.5
    assert cost_at(line, 0.98) < 0.6


def test_scores_are_what_the_floating_point_model_says(trained: Trained, model: RouteModel) -> None:
    """A second reading of the table, by hand and without tricks."""
    import base64
    import zlib

    prompt = labelled(1, seed=5).rows[0].prompt
    features = read(prompt)
    for head, (name, score) in zip(trained.table.heads, model.scores(prompt).quality, strict=True):
        weights = zlib.decompress(base64.b64decode(head.weights))
        value = (
            head.bias + sum((weights[place] - 128) * head.step for place in features.ids) / len(features.ids) ** 0.5
        )
        for place, number in enumerate(features.numbers):
            value += head.numbers[place] * (number - trained.table.centres[place]) / trained.table.spreads[place]
        assert name == head.model
        assert score == pytest.approx(min(1.0, max(0.0, value)), abs=1e-9)


def test_held_out_scores_are_calibrated(trained: Trained) -> None:
    quality = np.array([row.quality[0] for row in labelled(400).rows])
    low = trained.held_out[:, 0] < np.median(trained.held_out[:, 0])
    for part in (low, ~low):
        assert abs(trained.held_out[part, 0].mean() - quality[part].mean()) < 0.08


def test_the_callers_tag_alone_can_decide() -> None:
    table = train(labelled(400, tagged=True), seed=0).table
    tagged = RouteModel(table)
    neutral = "the of to and in"
    hard = dict(tagged.scores(neutral, tag="maths").quality)
    easy = dict(tagged.scores(neutral, tag="chat").quality)
    assert easy["gpt-4o-mini"] - hard["gpt-4o-mini"] > 0.15


def test_unknown_words_are_not_judged_and_go_to_the_strong_model(trained: Trained, model: RouteModel) -> None:
    route = Route(
        name="r", models=("*",), tiers=(("simple", "gpt-4o-mini"), ("complex", "gpt-4o")), by=("learned",), table="t"
    )
    artefact = Artefact(table=trained.table, thresholds=Thresholds(gains=(("gpt-4o-mini", 2.0),)))

    def ask(text: str) -> tuple[str, str]:
        choice = decide(route, Facts(model="m", text=text, tokens=9), learned=model, artefact=artefact)
        return choice.model, choice.reason

    assert ask("please translate the word") == ("gpt-4o-mini", "route_learned")
    assert ask("zwölf Boxkämpfer jagen Viktor quer") == ("gpt-4o", "route_unsupported")
    assert ask("") == ("gpt-4o", "route_unsupported")


def test_a_model_without_a_gated_threshold_is_never_chosen(trained: Trained, model: RouteModel) -> None:
    route = Route(
        name="r", models=("*",), tiers=(("simple", "gpt-4o-mini"), ("complex", "gpt-4o")), by=("learned",), table="t"
    )
    facts = Facts(model="m", text="please translate the word", tokens=9)
    assert decide(route, facts, learned=model, artefact=Artefact(table=trained.table)).model == "gpt-4o"
    assert decide(route, facts).reason == "route_untrained"


def test_the_gate_gives_a_threshold_where_the_models_are_equal_and_none_where_they_are_not() -> None:
    artefact, (verdict,) = make_artefact(labelled(1_200), "gpt-4o", margin=0.03, seed=1)
    assert verdict.threshold is not None
    assert 0.3 < verdict.share < 0.65
    assert "holds" in artefact.evidence[0]
    rows = tuple(msgspec.structs.replace(row, quality=(0.0, 1.0)) for row in labelled(400).rows)
    _, (useless,) = make_artefact(LabelledSet(models=("gpt-4o-mini", "gpt-4o"), rows=rows), "gpt-4o")
    assert useless.threshold is None


def test_an_artefact_survives_its_file_and_damage_is_named(trained: Trained) -> None:
    artefact = Artefact(table=trained.table)
    again = read_artefact(msgspec.json.encode(artefact, order="sorted"), "r.json")
    assert again == artefact
    assert again.table.ref == trained.table.ref
    with pytest.raises(PolicyError, match=r"r\.json"):
        read_artefact(b"{}", "r.json")
    for change in (
        {"features": "other"},
        {"heads": trained.table.heads[:1]},
        {"seen": "AAAA"},
        {"spreads": (0.0,) * len(NUMBERS)},
        {"centres": (float("nan"),) * len(NUMBERS)},
    ):
        with pytest.raises(PolicyError):
            RouteModel(msgspec.structs.replace(trained.table, **change))


def test_bits_are_kept() -> None:
    flags = bytes(random.Random(0).choices([0, 1], k=1 << 10))
    assert bits_to_bytes(bytes_to_bits(flags)) == flags


def test_labels_survive_their_file_and_wrong_ones_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    write_labels(labelled(5, tagged=True), path)
    assert read_labels(path) == labelled(5, tagged=True)
    table = tmp_path / "labels.csv"
    table.write_text("prompt,correct:a,correct:b\nhello,true,0.5\n,1,1\nx,maybe,1\ny,1,7\n")
    with pytest.raises(BadRequest, match=r"row 2.*row 3.*row 4"):
        read_labels(table)


def test_too_few_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 20"):
        train(labelled(19))
    assert isinstance(train(labelled(20)).table, RouteTable)
