"""The lookup-table router: prompts by the nearest of a few centres of meaning, and what models made of each kind.

The table travels inside the policy's artefact as text; vectors come from the installation's embedder, and a table is
only ever used with the embedder it was made with. Training is in ``farthing.lab.route_clusters``.
"""

import hashlib
from array import array
from math import isfinite
from operator import mul
from typing import NamedTuple

import msgspec

from farthing.core.errors import PolicyError
from farthing.core.route_model import inflate

FEATURES = "clusters-1"
"""Changes whenever the same vector would be judged otherwise."""


class Cluster(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of prompts."""

    prompts: int
    """Training prompts of this kind: the support of its figures."""
    nearest: float
    """Cosine to the centre that 19 of 20 of its training prompts have at least; farther off nothing is judged."""
    quality: tuple[float, ...]
    """Mean quality of each model, drawn towards the mean of all prompts where there are few."""
    cost: tuple[int, ...] = ()
    """Mean nano-USD of each model; empty when unknown."""


class ClusterTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trained lookup table as it is stored."""

    features: str = FEATURES
    embedder: str
    """Identity of the embedder: name and content hash."""
    dimensions: int
    models: tuple[str, ...]
    centres: str
    """Little-endian float32, one unit vector a cluster, zlib, base64."""
    clusters: tuple[Cluster, ...]
    prompts_min: int = 10
    """A cluster with fewer training prompts is not judged: its prompts go to the strong model."""
    card: dict[str, str] = {}

    @property
    def ref(self) -> str:
        """First 12 hex digits of the SHA-256 of the table's canonical JSON."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:12]


class ClusterScores(NamedTuple):
    """What the table says of one prompt."""

    quality: tuple[tuple[str, float], ...]
    cluster: int
    similarity: float
    prompts: int
    supported: bool
    """The prompt is near enough to a cluster that has enough training prompts."""


class ClusterModel:
    """A table, unpacked. Raises :class:`PolicyError` for a damaged one or one of another version."""

    def __init__(self, table: ClusterTable) -> None:
        raw = _checked(table)
        self.table = table
        self.ref = table.ref
        self.models = table.models
        self.embedder = table.embedder
        width = table.dimensions
        numbers = array("f")
        numbers.frombytes(raw)
        self._centres = tuple(tuple(numbers[at : at + width]) for at in range(0, len(numbers), width))

    def scores(self, vector: bytes) -> ClusterScores:
        """The nearest cluster's figures: under a millisecond for 64 centres of 384 numbers."""
        numbers = tuple(memoryview(vector).cast("f"))
        alike = [sum(map(mul, centre, numbers)) for centre in self._centres]
        best = max(range(len(alike)), key=alike.__getitem__)
        found = self.table.clusters[best]
        supported = found.prompts >= self.table.prompts_min and alike[best] >= found.nearest
        return ClusterScores(
            tuple(zip(self.models, found.quality, strict=True)), best, alike[best], found.prompts, supported
        )


def _checked(table: ClusterTable) -> bytes:
    problems = []
    if table.features != FEATURES:
        problems.append(f"features is '{table.features}', this version reads '{FEATURES}'; train it again")
    if len(set(table.models)) < 2 or len(set(table.models)) != len(table.models):
        problems.append("models: two or more different ones are needed")
    if table.dimensions < 1 or not table.clusters:
        problems.append("there are no clusters")
    for number, cluster in enumerate(table.clusters):
        figures = (cluster.nearest, *cluster.quality)
        if len(cluster.quality) != len(table.models) or not all(map(isfinite, figures)):
            problems.append(f"cluster {number}: one finite quality for each model is expected")
    if problems:
        raise PolicyError(problems, source="route table")
    raw = inflate(table.centres, 4 * table.dimensions * len(table.clusters))
    numbers = array("f")
    numbers.frombytes(raw)
    if not all(map(isfinite, numbers)):
        raise PolicyError(["the table is damaged: a centre is not finite"], source="route table")
    return raw
