"""From labels to a router that may go live: train on one part, let the gate set thresholds on the other.

The gate sees only prompts that the table was not trained on, so its verdict is about the table that is shipped.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from farthing.core.gate import ALPHA, MARGIN, Candidate, Evidence, fixed_sequence
from farthing.core.rollout import PSI_BUCKETS
from farthing.core.route_decide import Artefact, Thresholds
from farthing.core.route_features import read
from farthing.core.route_model import RouteModel
from farthing.core.route_rules import by_length, complexity
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
) -> tuple[Artefact, tuple[Verdict, ...]]:
    """A table with the thresholds that hold. Raises :class:`ValueError` for an unknown model or too few labels.

    With several cheaper models margin and error level are divided among them.
    """
    if strong not in labelled.models:
        raise ValueError(f"'{strong}' is not labelled; labelled are {', '.join(labelled.models)}")
    order = np.random.default_rng(seed).permutation(len(labelled.rows))
    cut = len(order) - round(len(order) * gate_share)
    training = LabelledSet(models=labelled.models, rows=tuple(labelled.rows[place] for place in sorted(order[:cut])))
    held = LabelledSet(models=labelled.models, rows=tuple(labelled.rows[place] for place in sorted(order[cut:])))
    table = train(training, seed=seed).table
    model = RouteModel(table)
    cheap = [name for name in labelled.models if name != strong]
    verdicts = tuple(_verdict(model, held, name, strong, margin / len(cheap), alpha / len(cheap)) for name in cheap)
    live = tuple((one.model, one.threshold) for one in verdicts if one.threshold is not None)
    quality = np.array([row.quality for row in labelled.rows]).mean(axis=0)
    artefact = Artefact(
        table=table,
        thresholds=Thresholds(gains=live),
        evidence=tuple(f"{one.model}: {found}" for one in verdicts for found in one.evidence),
        quality=tuple(zip(labelled.models, map(float, quality), strict=True)),
        buckets=buckets(row.prompt for row in training.rows),
    )
    return artefact, verdicts


def buckets(prompts: object) -> tuple[int, ...]:
    """How many words of the prompts fall into each drift bucket."""
    counts = [0] * PSI_BUCKETS
    for prompt in prompts:  # type: ignore[attr-defined]
        for word in read(prompt).words:
            counts[word % PSI_BUCKETS] += 1
    return tuple(counts)


def gains(model: RouteModel, rows: LabelledSet, cheap: str, strong: str) -> Floats:
    """The router's estimate of what the strong model would gain on each prompt; +1 where it does not judge."""
    found = []
    for row in rows.rows:
        scores = model.scores(row.prompt, tag=row.tag)
        quality = dict(scores.quality)
        found.append(quality[strong] - quality[cheap] if scores.supported else 1.0)
    return np.array(found)


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


def _verdict(model: RouteModel, held: LabelledSet, cheap: str, strong: str, margin: float, alpha: float) -> Verdict:
    low, high = held.models.index(cheap), held.models.index(strong)
    gain = gains(model, held, cheap, strong)
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
