"""Partitions of the semantic cache in memory: filled from the store at first use, kept level with other workers."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from farthing.core.guards import Reading, read
from farthing.core.semantic import Neighbour
from farthing.ports.cache import Selector
from farthing.ports.embed import Vector
from farthing.ports.semantic import QuestionSearch, Remembered, SemanticStore
from farthing.ports.vectors import VectorIndex

PARTITIONS_MAX: Final = 2_000
"""Kept in memory; the least recently used is read from the store again when it is asked for."""
SYNC_MS: Final = 1_000
"""How late a question that another worker stored is found here."""
SEARCHED_ABOVE: Final = 20_000
"""Questions of a partition from which a store that can search is asked, instead of holding them in every process."""
SEEN_MAX: Final = 4_096
"""Questions of a searched partition that a process knows the text of."""


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

    async def near(self, vector: Vector, count: int, *, now_ms: int) -> tuple[Neighbour, ...]:
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


class SearchedPartition:
    """A partition too large for memory: the store finds neighbours, and what it found lately is known here."""

    def __init__(self, name: str, search: QuestionSearch) -> None:
        self.name = name
        self.last = 0
        self._search = search
        self._seen: OrderedDict[str, Remembered] = OrderedDict()
        self._readings: dict[str, Reading] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, questions: Sequence[Remembered]) -> None:
        """The store has them; an answer that was gone may be there again."""
        for one in questions:
            self._gone.pop(one.key, None)

    def drop(self, key: str) -> None:
        """Its answer is gone; the question stays in the store until it expires."""
        self._forget(key)
        self._gone[key] = None
        while len(self._gone) > SEEN_MAX:
            self._gone.popitem(last=False)

    def find(self, key: str) -> Remembered | None:
        return self._seen.get(key)

    def reading(self, key: str) -> Reading | None:
        """What the guards see in that question."""
        found = self._readings.get(key)
        entry = self._seen.get(key)
        if found is None and entry is not None:
            found = self._readings[key] = read(entry.text)
        return found

    async def near(self, vector: Vector, count: int, *, now_ms: int) -> tuple[Neighbour, ...]:
        """As the store finds them. Raises ``StoreUnavailable``."""
        found: list[Neighbour] = []
        for one in await self._search.near(self.name, vector, count, now_ms=now_ms):
            key = one.question.key
            if key in self._gone:
                continue
            known = self._seen.get(key)
            if known is None or known.number != one.question.number:
                self._forget(key)
                self._seen[key] = one.question
            self._seen.move_to_end(key)
            found.append(
                Neighbour(key=key, similarity=one.similarity, cluster=one.question.cluster, members=one.members)
            )
        while len(self._seen) > SEEN_MAX:
            self._forget(next(iter(self._seen)))
        return tuple(found)

    def _forget(self, key: str) -> None:
        self._seen.pop(key, None)
        self._readings.pop(key, None)


class Partitions:
    """All of one process."""

    def __init__(
        self,
        store: SemanticStore,
        new_index: Callable[[], VectorIndex],
        *,
        search: QuestionSearch | None = None,
        searched_above: int = SEARCHED_ABOVE,
    ) -> None:
        """``search``: the store, where it can find neighbours itself in partitions above ``searched_above``."""
        self._store = store
        self._new_index = new_index
        self._search = search
        self._searched_above = searched_above
        self._open: OrderedDict[str, Partition | SearchedPartition] = OrderedDict()

    @property
    def entries(self) -> int:
        """In memory now."""
        return sum(map(len, self._open.values()))

    async def get(self, name: str, *, now_ms: int) -> Partition | SearchedPartition:
        """The partition as of at most ``SYNC_MS`` ago. Raises ``StoreUnavailable``."""
        found = self._open.get(name)
        if found is None:
            found = await self._opened(name, now_ms)
        elif isinstance(found, Partition) and now_ms - found.synced_ms >= SYNC_MS:
            found.synced_ms = now_ms
            found.add(await self._store.since(found.last, (name,), now_ms=now_ms))
            if self._search is not None and len(found) > self._searched_above:
                self._open.pop(name, None)
                found = await self._opened(name, now_ms)  # which has the store prepare for searching it
        self._open.move_to_end(name)
        while len(self._open) > PARTITIONS_MAX:
            self._open.popitem(last=False)
        return found

    async def _opened(self, name: str, now_ms: int) -> Partition | SearchedPartition:
        large = self._search is not None and await self._search.size(name, now_ms=now_ms) > self._searched_above
        if self._search is not None and large:
            return self._open.setdefault(name, SearchedPartition(name, self._search))
        questions = await self._store.partition(name, now_ms=now_ms)
        found = self._open.get(name)  # another request may have been quicker
        if found is None:
            made = Partition(name, self._new_index())
            made.add(questions)
            made.synced_ms = now_ms
            found = self._open[name] = made
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
