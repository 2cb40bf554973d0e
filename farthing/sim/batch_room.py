"""What a simulated account keeps of batches and files."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(slots=True)
class Item:
    """One request of a batch and what became of it."""

    custom_id: str
    path: str
    body: bytes
    status: int = 0
    """0: not answered."""
    answer: bytes = b""


@dataclass(slots=True)
class SimBatch:
    """A batch of either API."""

    id: str
    key: str
    """The key's hash: who may see it."""
    created_ms: int
    items: list[Item]
    headers: list[tuple[bytes, bytes]]
    about: dict[str, Any] = field(default_factory=dict)
    """What its own API keeps of it."""
    cancelled_ms: int | None = None
    ended_ms: int | None = None
    ending: Literal["", "completed", "cancelled", "expired"] = ""

    def count(self, wanted: Callable[[Item], bool]) -> int:
        """Items of a kind."""
        return sum(map(wanted, self.items))

    @property
    def succeeded(self) -> int:
        """Items that were answered well."""
        return self.count(lambda item: item.status == 200)

    @property
    def failed(self) -> int:
        """Items that were refused."""
        return self.count(lambda item: item.status not in (0, 200))

    @property
    def left(self) -> int:
        """Items without an answer."""
        return self.count(lambda item: not item.status)


@dataclass(slots=True)
class StoredFile:
    """An uploaded file, or a batch's output."""

    id: str
    key: str
    name: str
    purpose: str
    created_ms: int
    data: bytes


@dataclass(slots=True)
class BatchRoom:
    """The batches and files of one account."""

    batches: dict[str, SimBatch] = field(default_factory=dict)
    files: dict[str, StoredFile] = field(default_factory=dict)
