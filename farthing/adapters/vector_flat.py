"""Exact search over small partitions: one matrix of half floats, one multiplication a question."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from farthing.ports.embed import Vector

_GROWTH = 1.5
_FIRST_ROWS = 64


class FlatIndex:
    """Every vector is compared; right up to some ten thousand entries."""

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions
        self._rows: NDArray[np.float32] = np.zeros((0, dimensions), dtype=np.float32)
        self._ids: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    @property
    def bytes(self) -> int:
        """Allocated for vectors and ids."""
        return self._rows.nbytes + self._ids.nbytes

    def add(self, items: Iterable[tuple[int, Vector]]) -> None:
        """Appends, or replaces an id's vector."""
        for number, vector in items:
            place = self._places.setdefault(number, len(self._places))
            if place == len(self._rows):
                self._grow()
            self._rows[place] = np.frombuffer(vector, dtype="<f4")
            self._ids[place] = number

    def remove(self, ids: Iterable[int]) -> None:
        """The last row takes the place of a removed one."""
        for number in ids:
            place = self._places.pop(number, None)
            if place is None:
                continue
            last = len(self._places)
            if place != last:
                self._rows[place] = self._rows[last]
                self._ids[place] = self._ids[last]
                self._places[int(self._ids[place])] = place

    def search(self, vector: Vector, count: int) -> Sequence[tuple[int, float]]:
        """The nearest by cosine; equal ones by id."""
        size = len(self._places)
        if not size or count < 1:
            return ()
        found = self._rows[:size] @ np.frombuffer(vector, dtype="<f4")
        return ranked(self._ids[:size], found, count)

    def vectors(self) -> Iterable[tuple[int, Vector]]:
        """Everything that is in it, to move it elsewhere."""
        for number, place in self._places.items():
            yield number, self._rows[place].tobytes()

    def _grow(self) -> None:
        rows = max(_FIRST_ROWS, int(len(self._rows) * _GROWTH))
        larger = np.zeros((rows, self._dimensions), dtype=np.float32)
        larger[: len(self._rows)] = self._rows
        self._rows = larger
        self._ids = np.concatenate([self._ids, np.zeros(rows - len(self._ids), dtype=np.int64)])


def ranked(ids: NDArray[np.int64], similarities: NDArray[np.float32], count: int) -> Sequence[tuple[int, float]]:
    """The ``count`` highest, equal ones by the smaller id."""
    if len(ids) > count:
        border = np.partition(similarities, len(ids) - count)[len(ids) - count]
        keep = np.nonzero(similarities >= border)[0]
        ids, similarities = ids[keep], similarities[keep]
    best = np.lexsort((ids, -similarities))[:count]
    return list(zip(ids[best].tolist(), similarities[best].tolist(), strict=True))
