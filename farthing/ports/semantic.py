"""What the semantic cache remembers between restarts: questions with their vectors, what it learned, and evidence."""

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import msgspec

from farthing.ports.cache import Selector
from farthing.ports.embed import Vector


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """A question whose answer is in the exact cache under ``key``."""

    number: int = 0
    """Given by the store, ascending."""
    key: str
    partition: str
    """Of the semantic cache: digest of all that must be equal."""
    text: str
    vector: Vector
    embedder: str
    """Identity of what made the vector."""
    cluster: str
    compared: bool = True
    """The answer was compared with its neighbours' when it was stored."""
    caller: str = ""
    """The exact cache's partition, to forget by."""
    route: str = ""
    model: str = ""
    tags: tuple[str, ...] = ()
    created_at_ms: int
    expires_at_ms: int


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence: two questions whose answers were compared, for review."""

    id: str
    """Of the request that asked."""
    at_ms: int
    family: str
    route: str = ""
    asked: str
    cached: str
    cached_key: str
    similarity: float
    risk: float
    served: bool
    """The cached answer was really given."""
    wrong: bool
    """As the judge found."""
    answer: str = ""
    cached_answer: str = ""
    label: Literal["", "same", "different"] = ""
    """What a person says."""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """One family's learned state, as it was last kept."""

    family: str
    state: bytes
    updated_at_ms: int


class SemanticStore(Protocol):
    """Sentences that every store keeps: what ``add`` returned from is found after a restart; an expired question is
    never given; a failing store raises ``StoreUnavailable`` and the cache goes on without it."""

    async def start(self) -> None: ...

    async def partition(self, partition: str, *, now_ms: int) -> Sequence[Remembered]: ...

    async def since(self, number: int, partitions: Sequence[str], *, now_ms: int) -> Sequence[Remembered]:
        """What was added after ``number``, by whomever, to these partitions."""
        ...

    async def add(self, question: Remembered) -> int:
        """Its number."""
        ...

    async def forget(self, selector: Selector) -> int: ...

    async def state(self, family: str) -> bytes | None: ...

    async def keep(self, family: str, state: bytes, *, now_ms: int) -> None: ...

    async def note(self, comparison: Comparison) -> None: ...

    async def close(self) -> None: ...


class Nearest(msgspec.Struct, frozen=True, kw_only=True):
    """A neighbour that the store found; its question comes without the vector."""

    question: Remembered
    similarity: float
    """Cosine."""
    members: int
    """Compared questions in its cluster."""


class QuestionSearch(Protocol):
    """A store that finds neighbours itself, for partitions too large to be held in every process."""

    async def size(self, partition: str, *, now_ms: int) -> int:
        """Questions that have not expired."""
        ...

    async def near(self, partition: str, vector: Vector, count: int, *, now_ms: int) -> Sequence[Nearest]:
        """At most ``count``, nearest first, equal ones by number; none that has expired."""
        ...


class SemanticRecords(Protocol):
    """Reading the same from the command line; blocking."""

    def overview(self) -> Sequence[Overview]: ...

    def comparisons(self, *, since_ms: int = 0, only_wrong: bool = False) -> Iterator[Comparison]:
        """Newest first."""
        ...

    def label(self, id: str, label: Literal["", "same", "different"]) -> bool:
        """False when there is no such comparison."""
        ...
