"""From labels to a router that may go live: train on one part, let the gate set thresholds on the other.

The gate sees only prompts that the table was not trained on, so its verdict is about the table that is shipped.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from farthing.core.gate import ALPHA, MARGIN, Candidate, Evidence, fixed_sequence
from farthing.core.route_clusters import ClusterModel, ClusterTable
from farthing.core.route_decide import Artefact, Learned, Thresholds, lead
from farthing.core.route_drift import bucket_count, place_of
from farthing.core.route_model import RouteModel, RouteTable
from farthing.core.route_rules import by_length, complexity
from farthing.lab.route_clusters import train_clusters, vectors_of
from farthing.lab.route_eval import Curve, curve
from farthing.lab.route_train import LabelledSet, train

Floats = npt.NDArray[np.float64]

GATE_SHARE = 0.5
STEPS = tuple(round(0.02 * place, 2) for place in range(5, 48))
"""Shares of traffic that are tried, most careful first."""
REGION_SMALL, REGION_WIDE, REGION_FROM = 0.24, 0.35, 300
"""Labels are spent on the prompts of lowest estimated gain: the lowest 24 % when there are few of them."""


class Verdict(NamedTuple):
    """What the gate said about one cheaper model."""

    model: str
    threshold: float | None
    share: float
    evidence: tuple[Evidence, ...]


def make_artefact(
    labelled: LabelledSet,
    strong: str,
    *,
    margin: float = MARGIN,
    alpha: float = ALPHA,
    seed: int = 0,
    gate_share: float = GATE_SHARE,
    vectors: Sequence[bytes] = (),
    embedder: str = "",
) -> tuple[Artefact, tuple[Verdict, ...]]:
    """A table with the thresholds that hold. Raises :class:`ValueError` for an unknown model or too few labels.

    With several cheaper models margin and error level are divided among them. With ``vectors``, one for each row, and
    the identity of the ``embedder`` that made them, the table is one of clusters.
    """
    if strong not in labelled.models:
        raise ValueError(f"'{strong}' is not labelled; labelled are {', '.join(labelled.models)}")
    order = np.random.default_rng(seed).permutation(len(labelled.rows))
    cut = len(order) - round(len(order) * gate_share)
    training, learned_from = _part(labelled, vectors, order[:cut])
    held, held_vectors = _part(labelled, vectors, order[cut:])
    table: RouteTable | None = None
    clusters: ClusterTable | None = None
    model: Learned
    if vectors:
        clusters = train_clusters(training, vectors_of(learned_from), embedder, seed=seed)
        model = ClusterModel(clusters)
    else:
        table = train(training, seed=seed).table
        model = RouteModel(table)
    cheap = [name for name in labelled.models if name != strong]
    scored = estimates(model, held, held_vectors)
    verdicts = tuple(_verdict(scored, held, name, strong, margin / len(cheap), alpha / len(cheap)) for name in cheap)
    live = tuple((one.model, one.threshold) for one in verdicts if one.threshold is not None)
    quality = np.array([row.quality for row in labelled.rows]).mean(axis=0)
    edges, buckets = drift_buckets([None if one is None else lead(one, strong) for one in scored])
    artefact = Artefact(
        table=table,
        clusters=clusters,
        strong=strong,
        thresholds=Thresholds(gains=live),
        evidence=tuple(f"{one.model}: {found}" for one in verdicts for found in one.evidence),
        quality=tuple(zip(labelled.models, map(float, quality), strict=True)),
        edges=edges,
        buckets=buckets,
    )
    return artefact, verdicts


def _part(
    labelled: LabelledSet, vectors: Sequence[bytes], places: npt.NDArray[np.int64]
) -> tuple[LabelledSet, list[bytes]]:
    chosen = sorted(places)
    rows = tuple(labelled.rows[place] for place in chosen)
    return LabelledSet(models=labelled.models, rows=rows), [vectors[place] for place in chosen] if vectors else []


def estimates(model: Learned, rows: LabelledSet, vectors: Sequence[bytes] = ()) -> list[dict[str, float] | None]:
    """What the router expects of each model on each prompt; None where it does not judge."""
    found: list[dict[str, float] | None] = []
    for number, row in enumerate(rows.rows):
        if isinstance(model, ClusterModel):
            known = model.scores(vectors[number])
            found.append(dict(known.quality) if known.supported else None)
        else:
            scores = model.scores(row.prompt, tag=row.tag)
            found.append(dict(scores.quality) if scores.supported else None)
    return found


def drift_buckets(gains: Sequence[float | None]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """(bounds of the drift buckets, prompts in each; the last for those that are not judged)."""
    judged = [gain for gain in gains if gain is not None]
    if not judged:
        return (), ()
    shares = np.linspace(0, 1, bucket_count(len(gains)))[1:-1]
    edges = tuple(sorted({float(edge) for edge in np.quantile(judged, shares)}))
    counts = [0] * (len(edges) + 2)
    for gain in gains:
        counts[place_of(edges, gain)] += 1
    return edges, tuple(counts)


def gains(model: Learned, rows: LabelledSet, cheap: str, strong: str, vectors: Sequence[bytes] = ()) -> Floats:
    """The router's estimate of what the strong model would gain on each prompt; +1 where it does not judge."""
    return np.array([_gain(one, cheap, strong) for one in estimates(model, rows, vectors)])


def _gain(quality: dict[str, float] | None, cheap: str, strong: str) -> float:
    return 1.0 if quality is None else quality[strong] - quality[cheap]


def baselines(rows: LabelledSet) -> dict[str, Floats]:
    """Scores of the routers that need no training, higher meaning harder."""
    texts = [row.prompt for row in rows.rows]
    return {
        "heuristic": np.array([complexity(text).score for text in texts]),
        "length rule": np.array([float(by_length(len(text) // 4, 0) == "complex") for text in texts]),
        "words": np.array([float(len(text.split())) for text in texts]),
    }


def sweep(rows: LabelledSet, gain: Floats, cheap: str, strong: str) -> Curve:
    """Quality and cost over all shares. Where costs are unknown the cheap model counts as free."""
    low, high = rows.models.index(cheap), rows.models.index(strong)
    quality = np.array([row.quality for row in rows.rows])
    priced = all(row.cost for row in rows.rows)
    count = len(rows.rows)
    costs = np.array([row.cost for row in rows.rows], dtype=np.float64) if priced else None
    return curve(
        gain,
        quality[:, low],
        quality[:, high],
        weak_cost=np.zeros(count) if costs is None else costs[:, low],
        strong_cost=np.ones(count) if costs is None else costs[:, high],
    )


def _verdict(
    scored: Sequence[dict[str, float] | None],
    held: LabelledSet,
    cheap: str,
    strong: str,
    margin: float,
    alpha: float,
) -> Verdict:
    low, high = held.models.index(cheap), held.models.index(strong)
    gain = np.array([_gain(one, cheap, strong) for one in scored])
    quality = np.array([row.quality for row in held.rows])
    best, evidence = gate_thresholds(
        gain, (quality[:, high] - quality[:, low]).tolist(), gain, margin=margin, alpha=alpha
    )
    share = float((gain < best.threshold).mean()) if best else 0.0
    return Verdict(cheap, best.threshold if best else None, share, evidence)


def gate_thresholds(
    traffic: Floats,
    differences: Sequence[float],
    labelled_gain: Floats,
    *,
    margin: float,
    alpha: float = ALPHA,
    method: str = "auto",
    steps: Sequence[float] = STEPS,
) -> tuple[Candidate | None, tuple[Evidence, ...]]:
    """The furthest threshold that holds. ``traffic`` are estimates of unlabelled prompts: they fix the candidates
    and their shares; ``differences`` are the labels of the prompts whose estimates are ``labelled_gain``.
    """
    candidates = []
    for step in steps:
        threshold = float(np.quantile(traffic, step))
        share = float((traffic < threshold).mean())
        inside = [d for d, g in zip(differences, labelled_gain, strict=True) if g < threshold]
        if share > 0 and len(inside) >= 10:
            candidates.append(Candidate(threshold, share, inside))
    return fixed_sequence(candidates, margin=margin, alpha=alpha, method=method)  # type: ignore[arg-type]


def region(labels: int) -> float:
    """The share of traffic, by lowest estimated gain, in which so many labels are best spent."""
    return REGION_SMALL if labels < REGION_FROM else REGION_WIDE
