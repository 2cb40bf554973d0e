"""Texts as vectors."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from farthing.core.types import Target, Usage

Vector = bytes
"""Little-endian float32 numbers of unit length."""


class Embedded(msgspec.Struct, frozen=True, kw_only=True):
    """Vectors in the order of their texts, and what they cost when somebody bills them."""

    vectors: tuple[Vector, ...]
    usage: Usage | None = None
    """None: made here, nothing is billed."""
    target: Target | None = None


class Embedder(Protocol):
    """Makes vectors. Sentences that every one keeps, tested by ``EmbedderContract``:

    * The same text gives the same vector, alone or among others (to 1e-3 in cosine).
    * Vectors have ``dimensions`` numbers and unit length; texts longer than the model reads are cut, never refused.
    * The event loop is never blocked; more than a bounded number of waiting texts is ``StoreUnavailable`` at once.
    """

    @property
    def identity(self) -> str:
        """Name and content hash: vectors of different identities are never compared."""
        ...

    @property
    def dimensions(self) -> int: ...

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Raises ``StoreUnavailable`` when too much waits or the embedder fails."""
        ...

    async def close(self) -> None: ...


class EmbedderState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether similar questions can be found here, and why not."""

    ready: bool
    kind: str
    where: str
    problem: str = ""
    hint: str = ""
