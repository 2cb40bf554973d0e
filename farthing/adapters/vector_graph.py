"""Search over large partitions: usearch's graph over 8-bit vectors, and a small exact index that becomes one."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from farthing.adapters.vector_flat import FlatIndex, ranked
from farthing.ports.embed import Vector
from farthing.ports.vectors import VectorIndex

GRAPH_ABOVE = 4_000
"""Entries up to which comparing all of them costs no more than a millisecond or two."""
_CONNECTIVITY = 8
_EXPANSION_ADD = 64
_EXPANSION_SEARCH = 96


class GraphIndex:
    """HNSW over 8-bit vectors. Neighbours are found in the graph and ranked by the stored vectors' cosine."""

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions
        self._index = Index(
            ndim=dimensions,
            metric="cos",
            dtype="i8",
            connectivity=_CONNECTIVITY,
            expansion_add=_EXPANSION_ADD,
            expansion_search=_EXPANSION_SEARCH,
        )

    def __len__(self) -> int:
        return len(self._index)

    @property
    def bytes(self) -> int:
        """What the graph has allocated."""
        return int(self._index.memory_usage)

    def add(self, items: Iterable[tuple[int, Vector]]) -> None:
        """Many at once are quicker than one by one."""
        pairs = list({number: vector for number, vector in items}.items())
        if not pairs:
            return
        self.remove(number for number, _ in pairs)
        ids = np.array([number for number, _ in pairs], dtype=np.uint64)
        self._index.add(ids, np.stack([_small(vector) for _, vector in pairs]), threads=1)

    def remove(self, ids: Iterable[int]) -> None:
        """Unknown ids are no error."""
        for number in ids:
            if number in self._index:
                self._index.remove(number)

    def search(self, vector: Vector, count: int) -> Sequence[tuple[int, float]]:
        """The nearest that the graph finds: about 95 of 100 at a million entries."""
        if not len(self._index) or count < 1:
            return ()
        found = self._index.search(_small(vector), min(count, len(self._index)), threads=1)
        ids = np.asarray(found.keys, dtype=np.int64)
        return ranked(ids, (1 - np.asarray(found.distances)).astype(np.float32), count)


def _small(vector: Vector) -> NDArray[np.int8]:
    """In 255 steps between plus and minus its largest number: a cosine does not mind the scale."""
    values = np.frombuffer(vector, dtype="<f4")
    largest = float(np.abs(values).max()) or 1.0
    return np.asarray(np.rint(values * (127 / largest)), dtype=np.int8)


class GrowingIndex:
    """Exact while small, a graph from ``above`` entries on."""

    def __init__(self, dimensions: int, *, above: int = GRAPH_ABOVE) -> None:
        self._dimensions = dimensions
        self._above = above
        self._flat: FlatIndex | None = FlatIndex(dimensions)
        self._index: VectorIndex = self._flat

    def __len__(self) -> int:
        return len(self._index)

    @property
    def bytes(self) -> int:
        """Of whichever structure is in use."""
        return self._index.bytes

    def add(self, items: Iterable[tuple[int, Vector]]) -> None:
        """Moves to the graph once there are too many."""
        self._index.add(items)
        if self._flat is not None and len(self._flat) > self._above:
            graph = GraphIndex(self._dimensions)
            graph.add(self._flat.vectors())
            self._flat, self._index = None, graph

    def remove(self, ids: Iterable[int]) -> None:
        """As the structure in use does."""
        self._index.remove(ids)

    def search(self, vector: Vector, count: int) -> Sequence[tuple[int, float]]:
        """As the structure in use does."""
        return self._index.search(vector, count)
