"""Neighbours of a question, and what they say together about serving one of their answers.

Answers that a judge found equal form a cluster; the nearest neighbours vote for clusters with the kernel
``exp(20 · similarity)``. The winning cluster's nearest member is the candidate; a handful of numbers describe how
sure the neighbourhood is. What risk these numbers mean is learned (``farthing.core.semantic_risk``).
"""

import math
from collections.abc import Sequence
from typing import Final

import msgspec

SIMILARITY_MIN: Final = 0.6
"""Cosine below which a neighbour is no candidate for any answer."""
FEATURES: Final = ("bias", "similarity", "vote", "margin", "members", "share", "density")
_SHARPNESS: Final = 20.0
_NEAR: Final = 0.1
"""A neighbour whose answer was never compared counts only when no compared one is this near."""


class Neighbour(msgspec.Struct, frozen=True, kw_only=True):
    """A cached question near the one asked."""

    key: str
    similarity: float
    """Cosine, −1 to 1."""
    cluster: str
    """Equal for entries whose answers a judge found equal."""
    members: int = 0
    """Entries in the cluster, at least 1; 0: this answer was never compared with another."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster that the neighbourhood votes for."""

    cluster: str
    keys: tuple[str, ...]
    """Its members among the neighbours, nearest first."""
    similarity: float
    """Of the nearest of them."""
    features: tuple[float, ...]
    """One number for each of ``FEATURES``."""


def candidate(neighbours: Sequence[Neighbour]) -> Candidate | None:
    """What the neighbours, nearest first, suggest; None when none is near enough."""
    near = [one for one in neighbours if one.similarity >= SIMILARITY_MIN]
    if not near:
        return None
    compared = [one for one in near if one.members]
    if compared and len(compared) < len(near) and compared[0].similarity >= near[0].similarity - _NEAR:
        near = compared
    top = near[0].similarity
    votes: dict[str, float] = {}
    best: dict[str, Neighbour] = {}
    for one in near:
        votes[one.cluster] = votes.get(one.cluster, 0.0) + math.exp(_SHARPNESS * (one.similarity - top))
        best.setdefault(one.cluster, one)
    winner = max(votes, key=lambda name: (votes[name], best[name].similarity))
    chosen = best[winner]
    share = votes[winner] / sum(votes.values())
    rivals = [one.similarity for name, one in best.items() if name != winner]
    margin = chosen.similarity - (max(rivals) if rivals else near[-1].similarity)
    keys = tuple(one.key for one in near if one.cluster == winner)
    first = near[:3]
    features = (
        1.0,
        (chosen.similarity - 0.8) * 10,
        math.log(share + 0.02) - math.log(1.02 - share),
        max(-0.1, min(0.2, margin)) * 10,
        math.log1p(chosen.members),
        2 * len(keys) / len(near) - 1,
        (sum(one.similarity for one in first) / len(first) - 0.75) * 10,
    )
    return Candidate(cluster=winner, keys=keys, similarity=chosen.similarity, features=features)


def rivals(neighbours: Sequence[Neighbour], chosen: str, *, most: int) -> tuple[Neighbour, ...]:
    """The nearest member of each other cluster, at most ``most``: whom a judge asks after it has said "different"."""
    seen = {chosen}
    found: list[Neighbour] = []
    for one in neighbours:
        if one.similarity < SIMILARITY_MIN or len(found) == most:
            break
        if one.cluster not in seen:
            seen.add(one.cluster)
            found.append(one)
    return tuple(found)
