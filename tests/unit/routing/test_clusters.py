"""The look-up table by meaning: training, decisions, what it does not judge, and what a broken table says."""

import random
from array import array

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.core.errors import PolicyError
from farthing.core.policy_routes import Route
from farthing.core.route_clusters import Cluster, ClusterModel, ClusterTable
from farthing.core.route_decide import ASK_EMBEDDER, NO_VECTOR, Artefact, Facts, Thresholds, decide, read_artefact
from farthing.core.route_model import pack
from farthing.lab.route_clusters import k_means, train_clusters, vectors_of
from farthing.lab.route_policy import make_artefact
from farthing.lab.route_train import Labelled, LabelledSet

ROUTE = Route(
    name="r", models=("auto",), tiers=(("simple", "cheap"), ("complex", "strong")), by=("learned",), table="t.json"
)
AXES = np.eye(4, 16)


def vector(kind: int, chance: np.random.Generator) -> bytes:
    made = AXES[kind] + chance.normal(0, 0.05, 16)
    return (made / np.linalg.norm(made)).astype("<f4").tobytes()


def kinds(count: int, seed: int = 0) -> tuple[LabelledSet, list[bytes]]:
    """Four kinds of prompts: of three both models answer all, of the last only the strong one does."""
    chance, numbers = random.Random(seed), np.random.default_rng(seed)
    rows, vectors = [], []
    for number in range(count):
        kind = chance.randrange(4)
        rows.append(Labelled(prompt=f"prompt {number}", quality=(float(kind != 3), 1.0), cost=(10, 200)))
        vectors.append(vector(kind, numbers))
    return LabelledSet(models=("cheap", "strong"), rows=tuple(rows)), vectors


def facts(vector: bytes | None) -> Facts:
    return Facts(model="auto", text="x", tokens=1, vector=vector)


@pytest.fixture(scope="module")
def artefact() -> Artefact:
    rows, vectors = kinds(1_200)
    made, (verdict,) = make_artefact(rows, "strong", vectors=vectors, embedder="e@1")
    assert verdict.threshold is not None
    return made


def test_kinds_that_the_cheap_model_knows_go_to_it_and_the_others_do_not(artefact: Artefact) -> None:
    assert artefact.clusters is not None
    model = ClusterModel(artefact.clusters)
    chance = np.random.default_rng(9)
    for kind in range(4):
        for _ in range(10):
            chosen = decide(ROUTE, facts(vector(kind, chance)), learned=model, artefact=artefact)
            if chosen.reason == "route_unsupported":
                continue  # one in twenty lies farther off than 19 of 20 training prompts
            assert chosen.model == ("strong" if kind == 3 else "cheap")
            seen = dict(chosen.evidence)
            assert seen["table"] == model.ref
            assert int(seen["prompts"]) >= 10
            assert 0 <= chosen.place < len(artefact.buckets)


def test_without_a_vector_far_off_or_with_little_support_the_strong_model_answers(artefact: Artefact) -> None:
    assert artefact.clusters is not None
    model = ClusterModel(artefact.clusters)
    assert decide(ROUTE, facts(None), learned=model, artefact=artefact).reason == ASK_EMBEDDER
    foreign = np.zeros(16, dtype="<f4")
    foreign[15] = 1.0
    for given_vector in (NO_VECTOR, b"1234", foreign.tobytes()):
        chosen = decide(ROUTE, facts(given_vector), learned=model, artefact=artefact)
        assert (chosen.model, chosen.reason) == ("strong", "route_unsupported")
        assert chosen.place == len(artefact.buckets) - 1
    few = msgspec.structs.replace(artefact.clusters, prompts_min=10_000)
    lonely = ClusterModel(few)
    near = AXES[0].astype("<f4").tobytes()
    assert decide(ROUTE, facts(near), learned=lonely, artefact=artefact).reason == "route_unsupported"


def test_the_same_labels_and_seed_give_the_same_table_and_it_survives_its_file(artefact: Artefact) -> None:
    rows, vectors = kinds(1_200)
    again, _ = make_artefact(rows, "strong", vectors=vectors, embedder="e@1")
    assert again == artefact
    assert read_artefact(msgspec.json.encode(artefact), "t") == artefact
    assert artefact.clusters is not None
    assert artefact.clusters.card["embedder"] == "e@1"


@settings(max_examples=60)
@given(st.integers(1, 6), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_the_nearest_centre_is_found_as_numpy_finds_it(width: int, size: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    centres = chance.normal(size=(size, width)).astype("<f4")
    table = ClusterTable(
        embedder="e", dimensions=width, models=("a", "b"), centres=pack(centres.tobytes()),
        clusters=tuple(Cluster(prompts=20, nearest=-9.0, quality=(0.1 * n, 1.0)) for n in range(size)),
    )  # fmt: skip
    asked = chance.normal(size=width).astype("<f4")
    found = ClusterModel(table).scores(asked.tobytes())
    alike = centres.astype(np.float64) @ asked.astype(np.float64)
    assert alike[found.cluster] == pytest.approx(alike.max(), abs=1e-9)
    assert found.quality[0][1] == pytest.approx(0.1 * found.cluster)


def test_few_prompts_are_drawn_towards_the_mean_of_all() -> None:
    rows, vectors = kinds(200)
    table = train_clusters(rows, vectors_of(vectors), "e")
    worst = min(cluster.quality[0] for cluster in table.clusters)
    assert 0 < worst < 0.6
    assert all(cluster.cost in ((10, 200), ()) for cluster in table.clusters)
    assert sum(cluster.prompts for cluster in table.clusters) == 200
    with pytest.raises(ValueError, match="40 labelled"):
        train_clusters(
            *[LabelledSet(models=rows.models, rows=rows.rows[:30]), vectors_of(vectors[:30])], embedder="e"
        )


def test_more_centres_than_different_vectors_are_no_trouble() -> None:
    assert k_means(np.ones((50, 3)) / np.sqrt(3), 8, 0).shape == (8, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"features": "clusters-0"},
        {"models": ("a", "a")},
        {"dimensions": 3},
        {"centres": pack(array("f", [float("nan")] * 16).tobytes())},
        {"clusters": (Cluster(prompts=1, nearest=0.0, quality=(1.0,)),)},
        {"clusters": ()},
    ],
)
def test_a_damaged_table_is_refused(change: dict[str, object]) -> None:
    good = ClusterTable(
        embedder="e", dimensions=16, models=("a", "b"), centres=pack(array("f", [1.0] * 16).tobytes()),
        clusters=(Cluster(prompts=20, nearest=0.0, quality=(1.0, 1.0)),),
    )  # fmt: skip
    ClusterModel(good)
    with pytest.raises(PolicyError):
        ClusterModel(msgspec.structs.replace(good, **change))


def test_a_file_with_two_tables_or_none_is_refused() -> None:
    for text in ('{"thresholds": {}}', "{}"):
        with pytest.raises(PolicyError, match="one table"):
            read_artefact(text.encode(), "t.json")
    assert Thresholds() == Thresholds(gains=())
