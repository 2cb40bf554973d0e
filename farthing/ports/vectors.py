"""Nearest neighbours by cosine."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from farthing.ports.embed import Vector


class VectorIndex(Protocol):
    """Unit vectors under integer ids, in one process. Sentences that every one keeps (``VectorIndexContract``):

    * ``search`` gives the nearest first, by cosine; equal cosines by the smaller id. It never gives removed ids, and
      no id twice.
    * Similarities are of the stored vectors, within 0.01 of float32's, whatever structure found them.
    * Adding an id again replaces its vector; removing an unknown id changes nothing.
    """

    def add(self, items: Iterable[tuple[int, Vector]]) -> None: ...

    def remove(self, ids: Iterable[int]) -> None: ...

    def search(self, vector: Vector, count: int) -> Sequence[tuple[int, float]]:
        """At most ``count`` (id, cosine) pairs."""
        ...

    def __len__(self) -> int: ...

    @property
    def bytes(self) -> int:
        """Memory of the vectors and what finds them."""
        ...
