"""Partitions of the semantic cache in memory: filled from the store at first use, kept level with other workers."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from farthing.core.guards import Reading, read
from farthing.core.semantic import Neighbour
from farthing.ports.cache import Selector
from farthing.ports.embed import Vector
from farthing.ports.semantic import Remembered, SemanticStore
from farthing.ports.vectors import VectorIndex

PARTITIONS_MAX: Final = 2_000
"""Kept in memory; the least recently used is read from the store again when it is asked for."""
SYNC_MS: Final = 1_000
"""How late a question that another worker stored is found here."""


class Partition:
    """Questions that may share answers."""

    def __init__(self, name: str, index: VectorIndex) -> None:
        self.name = name
        self.index = index
        self.synced_ms = 0
        self.last = 0
        self._entries: dict[int, Remembered] = {}
        self._numbers: dict[str, int] = {}
        self._members: Counter[str] = Counter()
        self._readings: dict[str, Reading] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, questions: Sequence[Remembered]) -> None:
        """Takes questions in; one that is there under the same key is replaced."""
        for one in questions:
            if one.number not in self._entries:
                self.drop(one.key)
                self._entries[one.number] = msgspec.structs.replace(one, vector=b"")
                self._numbers[one.key] = one.number
                self._members[one.cluster] += one.compared
            self.last = max(self.last, one.number)
        self.index.add([(one.number, one.vector) for one in questions])

    def drop(self, key: str) -> None:
        """Its answer is gone."""
        number = self._numbers.pop(key, None)
        if number is None:
            return
        gone = self._entries.pop(number)
        self._members[gone.cluster] -= gone.compared
        self._readings.pop(key, None)
        self.index.remove([number])

    def find(self, key: str) -> Remembered | None:
        number = self._numbers.get(key)
        return None if number is None else self._entries[number]

    def reading(self, key: str) -> Reading | None:
        """What the guards see in that question."""
        found = self._readings.get(key)
        if found is None:
            entry = self.find(key)
            if entry is None:
                return None
            found = self._readings[key] = read(entry.text)
        return found

    def near(self, vector: Vector, count: int, *, now_ms: int) -> tuple[Neighbour, ...]:
        """Neighbours that have not expired, nearest first."""
        found: list[Neighbour] = []
        for number, similarity in self.index.search(vector, count):
            entry = self._entries[number]
            if entry.expires_at_ms <= now_ms:
                self.drop(entry.key)
                continue
            members = self._members[entry.cluster]
            found.append(
                Neighbour(key=entry.key, similarity=similarity, cluster=entry.cluster, members=max(0, members))
            )
        return tuple(found)


class Partitions:
    """All of one process."""

    def __init__(self, store: SemanticStore, new_index: Callable[[], VectorIndex]) -> None:
        self._store = store
        self._new_index = new_index
        self._open: OrderedDict[str, Partition] = OrderedDict()

    @property
    def entries(self) -> int:
        """In memory now."""
        return sum(map(len, self._open.values()))

    async def get(self, name: str, *, now_ms: int) -> Partition:
        """The partition as of at most ``SYNC_MS`` ago. Raises ``StoreUnavailable``."""
        found = self._open.get(name)
        if found is None:
            questions = await self._store.partition(name, now_ms=now_ms)
            found = self._open.get(name)  # another request may have been quicker
            if found is None:
                found = self._open[name] = Partition(name, self._new_index())
                found.add(questions)
                found.synced_ms = now_ms
        elif now_ms - found.synced_ms >= SYNC_MS:
            found.synced_ms = now_ms
            found.add(await self._store.since(found.last, (name,), now_ms=now_ms))
        self._open.move_to_end(name)
        while len(self._open) > PARTITIONS_MAX:
            self._open.popitem(last=False)
        return found

    async def add(self, question: Remembered) -> None:
        """Stores a question, then knows it here too. Raises ``StoreUnavailable``."""
        number = await self._store.add(question)
        partition = self._open.get(question.partition)
        if partition is not None:
            last = partition.last
            partition.add([msgspec.structs.replace(question, number=number)])
            partition.last = last  # what others stored in between is still to be read

    async def forget(self, selector: Selector) -> int:
        """Forgets in the store and everything that is in memory, which is read again when needed."""
        gone = await self._store.forget(selector)
        self._open.clear()
        return gone
