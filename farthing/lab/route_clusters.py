"""Training of the lookup-table router: k-means over prompts' vectors, and what each model made of each cluster.

Deterministic: the same labels, vectors and seed give the same table. Needs numpy; deciding does not.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from farthing.core.route_clusters import Cluster, ClusterTable
from farthing.core.route_model import pack
from farthing.lab.route_train import LabelledSet

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SIZES = (8, 16, 32, 64, 128)
"""Numbers of clusters that cross-validation chooses from; none with fewer than 15 prompts a cluster."""
PRIOR = 20.0
"""So many prompts of the mean over all stand beside each cluster's own."""
_ROUNDS = 40
_FOLDS = 5
_PROMPTS_A_CLUSTER = 15
_NEAR_SHARE = 0.05


def vectors_of(raw: Sequence[bytes]) -> Floats:
    """Rows of unit length from an embedder's vectors."""
    return np.stack([np.frombuffer(one, dtype="<f4").astype(np.float64) for one in raw])


def train_clusters(
    labelled: LabelledSet, vectors: Floats, embedder: str, *, seed: int = 0, sizes: Sequence[int] = SIZES
) -> ClusterTable:
    """A table for the set's models. Raises :class:`ValueError` for fewer than 40 prompts or two models."""
    count = len(labelled.rows)
    if len(labelled.models) < 2 or count < 40:
        raise ValueError("training needs at least 40 labelled prompts and two models")
    quality = np.array([row.quality for row in labelled.rows], dtype=np.float64)
    able = [size for size in sizes if count >= size * _PROMPTS_A_CLUSTER] or [min(sizes)]
    losses = {size: _held_out_loss(vectors, quality, size, seed) for size in able}
    size = min(able, key=lambda one: losses[one])
    centres = k_means(vectors, size, seed)
    costs = [row.cost for row in labelled.rows]
    priced = all(len(cost) == len(labelled.models) for cost in costs)
    cost = np.array(costs, dtype=np.float64) if priced else None
    nearest, alike = _nearest(vectors, centres)
    clusters = []
    for number in range(size):
        inside = nearest == number
        some = bool(inside.any())
        clusters.append(
            Cluster(
                prompts=int(inside.sum()),
                nearest=float(np.quantile(alike[inside], _NEAR_SHARE)) if some else 1.0,
                quality=tuple(map(float, _drawn(quality, inside))),
                cost=tuple(int(one) for one in cost[inside].mean(axis=0)) if cost is not None and some else (),
            )
        )
    card = {
        "labels": str(count),
        "data": labelled.digest,
        "seed": str(seed),
        "clusters": str(size),
        "embedder": embedder,
        "held_out_loss": ", ".join(f"{one}: {loss:.5f}" for one, loss in losses.items()),
        "method": "k-means on vectors of the first message; a cluster's mean quality, drawn towards the mean of all",
    }
    return ClusterTable(
        embedder=embedder,
        dimensions=vectors.shape[1],
        models=labelled.models,
        centres=pack(centres.astype("<f4").tobytes()),
        clusters=tuple(clusters),
        card=card,
    )


def k_means(vectors: Floats, size: int, seed: int) -> Floats:
    """Centres of unit length (spherical k-means from k-means++ seeds)."""
    random = np.random.default_rng(seed)
    chosen = [int(random.integers(len(vectors)))]
    near = vectors @ vectors[chosen[0]]
    while len(chosen) < size:
        gap = np.clip(1.0 - near, 1e-12, None)
        chosen.append(int(random.choice(len(vectors), p=gap / gap.sum())))
        near = np.maximum(near, vectors @ vectors[chosen[-1]])
    centres = vectors[chosen]
    before = np.full(len(vectors), -1)
    for _ in range(_ROUNDS):
        nearest, alike = _nearest(vectors, centres)
        if (nearest == before).all():
            break
        before = nearest
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, vectors)
        for empty in np.nonzero(np.bincount(nearest, minlength=size) == 0)[0]:
            sums[empty] = vectors[int(alike.argmin())]
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return centres


def _nearest(vectors: Floats, centres: Floats) -> tuple[Ints, Floats]:
    """(each row's centre, its cosine)."""
    alike = vectors @ centres.T
    nearest = alike.argmax(axis=1)
    return nearest.astype(np.int64), alike[np.arange(len(vectors)), nearest]


def _drawn(quality: Floats, inside: npt.NDArray[np.bool_]) -> Floats:
    drawn: Floats = (quality[inside].sum(axis=0) + PRIOR * quality.mean(axis=0)) / (inside.sum() + PRIOR)
    return drawn


def _held_out_loss(vectors: Floats, quality: Floats, size: int, seed: int) -> float:
    """Squared error of every model's lead over the average model, on prompts that the table has not seen."""
    order = np.random.default_rng(seed).permutation(len(vectors))
    total = 0.0
    for part in np.array_split(order, _FOLDS):
        rest = np.setdiff1d(order, part)
        centres = k_means(vectors[rest], size, seed)
        inside, _ = _nearest(vectors[rest], centres)
        table = np.array([_drawn(quality[rest], inside == number) for number in range(size)])
        found = table[_nearest(vectors[part], centres)[0]]
        lead = found - found.mean(axis=1, keepdims=True)
        truth = quality[part] - quality[part].mean(axis=1, keepdims=True)
        total += float(((lead - truth) ** 2).sum())
    return total / quality.size
