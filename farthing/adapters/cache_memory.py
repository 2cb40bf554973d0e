"""Answers in this process's memory: the reference of the contract, and the layer in front of shared stores."""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, KeysView
from fnmatch import fnmatchcase
from operator import itemgetter

import msgspec

from farthing.core.caching import first_worth, worth
from farthing.ports.cache import CacheState, Selector, StoredAnswer

ENTRIES_MAX = 10_000
BYTES_MAX = 64 * 1024 * 1024
_PARTS = 4
_worth = itemgetter(0)


def selects(selector: Selector, answer: StoredAnswer) -> bool:
    """Every condition that is given holds."""
    return (
        (not selector.tag or selector.tag in answer.tags)
        and (not selector.route or selector.route == answer.route)
        and (not selector.model or fnmatchcase(answer.target.model, selector.model))
        and answer.key.startswith(selector.prefix)
        and (not selector.partition or selector.partition == answer.partition)
        and (selector.before_ms is None or answer.created_at_ms < selector.before_ms)
    )


class _Kept(msgspec.Struct):
    """One answer with what eviction must know."""

    known: StoredAnswer | Callable[[], StoredAnswer]
    """The answer; it may be made when somebody wants it."""
    charge: int | None
    size: int
    expires_at_ms: int
    clock: float
    worth: float
    uses: int = 1
    counted: int = 1

    @property
    def answer(self) -> StoredAnswer:
        """What is served."""
        found = self.known
        if not isinstance(found, StoredAnswer):
            found = self.known = found()
        return found

    def weighed(self) -> float:
        """What it is worth now: changes when it is used."""
        return worth(self.clock, cost=self.charge, uses=self.uses, size=self.size)


class _Marks:
    """What answers were worth when that was written down, the least first; of equal ones by key.

    A part of them only, those up to an edge, is kept in order. The others are sorted when these are used up: that
    costs a full cache a quarter of what a heap of all of them does.
    """

    __slots__ = ("_edge", "_far", "_late", "_least")

    def __init__(self, marks: Iterable[tuple[float, str]] = ()) -> None:
        self._edge = -math.inf
        self._far = list(marks)
        """Those beyond the edge, in any order."""
        self._least: list[tuple[float, str]] = []
        """Those up to it, the least last."""
        self._late: list[tuple[float, str]] = []
        """Those up to it that came since, as a heap."""

    def __len__(self) -> int:
        return len(self._far) + len(self._least) + len(self._late)

    def push(self, recorded: float, key: str) -> None:
        """Writes down what an answer is worth."""
        if recorded > self._edge:
            self._far.append((recorded, key))
        else:
            heapq.heappush(self._late, (recorded, key))

    def pop(self) -> tuple[float, str]:
        """The least of them."""
        least, late = self._least, self._late
        if late:
            if not least or late[0] < least[-1]:
                return heapq.heappop(late)
        elif not least:
            least = self._sorted()
        return least.pop()

    def _sorted(self) -> list[tuple[float, str]]:
        """Moves the edge on, past a part of those that are beyond it; those, the least last."""
        far = self._far
        far.sort(key=_worth, reverse=True)
        place = len(far) - 1 - len(far) // _PARTS
        self._edge = edge = far[place][0]
        while place and far[place - 1][0] == edge:
            place -= 1
        least = self._least = far[place:]
        least.sort(reverse=True)  # of equal ones by key; numbers alone are sorted in a third of the time
        del far[place:]
        return least


class MemoryCache:
    """``ExactCache`` without I/O. Nothing in it suspends, so it needs no lock."""

    def __init__(self, *, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._kept: dict[str, _Kept] = {}
        self._marks = _Marks()
        self._claims: dict[str, tuple[str, int]] = {}
        self._bytes = 0
        self._clock = 0.0
        self._stores = self._evictions = self._expired = self._forgotten = 0

    async def start(self) -> None:
        """Nothing to open."""

    def peek(self, key: str, *, now_ms: int) -> StoredAnswer | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.expires_at_ms <= now_ms:
            self._drop(key)
            self._expired += 1
            return None
        kept.uses += 1
        kept.clock = self._clock
        kept.worth = kept.weighed()
        return kept.answer

    async def get(self, key: str, *, now_ms: int) -> StoredAnswer | None:
        return self.peek(key, now_ms=now_ms)

    def keys(self) -> KeysView[str]:
        """The keys of all answers that are kept, those whose time is over among them; a live view."""
        return self._kept.keys()

    def add(self, answer: StoredAnswer, *, now_ms: int) -> None:
        """``put`` for callers that do not wait."""
        self.add_later(answer.key, answer, answer.charge, answer.size, answer.expires_at_ms, now_ms)

    def add_later(
        self,
        key: str,
        answer: StoredAnswer | Callable[[], StoredAnswer],
        charge: int | None,
        size: int,
        expires_at_ms: int,
        now_ms: int,
    ) -> None:
        """The same for an answer with these facts, which may be made when it is served for the first time."""
        if expires_at_ms <= now_ms or size > self._bytes_max:
            return
        kept, clock = self._kept, self._clock
        recorded = first_worth(clock, charge, size)
        if key in kept:
            self._drop(key)
        kept[key] = _Kept(answer, charge, size, expires_at_ms, clock, recorded)
        self._bytes += size
        self._stores += 1
        self._marks.push(recorded, key)
        if len(kept) > self._entries_max or self._bytes > self._bytes_max:
            self._shrink(now_ms)
        elif len(self._marks) > 2 * len(kept) + 64:  # what was replaced or forgotten left its mark behind
            self._marks = _Marks((one.worth, name) for name, one in kept.items())

    async def put(self, answer: StoredAnswer, *, now_ms: int) -> None:
        self.add(answer, now_ms=now_ms)

    async def claim(self, key: str, *, owner: str, ttl_ms: int, now_ms: int) -> bool:
        held = self._claims.get(key)
        if held is not None and held[0] != owner and held[1] > now_ms:
            return False
        self._claims[key] = (owner, now_ms + ttl_ms)
        return True

    async def release(self, key: str, *, owner: str) -> None:
        if self._claims.get(key, ("", 0))[0] == owner:
            del self._claims[key]

    def drop(self, selector: Selector) -> int:
        """``forget`` for callers that do not wait."""
        found = [key for key, kept in self._kept.items() if selects(selector, kept.answer)]
        for key in found:
            self._drop(key)
        self._forgotten += len(found)
        return len(found)

    async def forget(self, selector: Selector, *, now_ms: int) -> int:
        return self.drop(selector)

    async def answers(self, selector: Selector, *, limit: int, now_ms: int) -> tuple[StoredAnswer, ...]:
        live = (kept.answer for kept in self._kept.values() if kept.expires_at_ms > now_ms)
        return tuple(newest(selector, live, limit))

    async def state(self) -> CacheState:
        return CacheState(
            kind="memory",
            entries=len(self._kept),
            bytes=self._bytes,
            stores=self._stores,
            evictions=self._evictions,
            expired=self._expired,
            forgotten=self._forgotten,
        )

    def take_uses(self) -> dict[str, int]:
        """How often answers were served since the last time this was asked."""
        found: dict[str, int] = {}
        for key, kept in self._kept.items():
            if kept.uses > kept.counted:
                found[key] = kept.uses - kept.counted
                kept.counted = kept.uses
        return found

    def snapshot(self) -> tuple[float, tuple[tuple[StoredAnswer, float, int], ...]]:
        """(age of the cache, every answer with its own age and how often it was used), for :meth:`restore`."""
        return self._clock, tuple([(kept.answer, kept.clock, kept.uses) for kept in self._kept.values()])

    def restore(self, clock: float, answers: Iterable[tuple[StoredAnswer, float, int]]) -> None:
        """As it was at a snapshot; for a cache that is empty."""
        self._clock = clock
        for answer, age, uses in answers:
            kept = _Kept(answer, answer.charge, answer.size, answer.expires_at_ms, age, 0.0, uses, uses)
            kept.worth = kept.weighed()
            self._kept[answer.key] = kept
            self._bytes += kept.size
            self._marks.push(kept.worth, answer.key)

    async def close(self) -> None:
        """Nothing to close; what was kept is gone with the process."""

    def _drop(self, key: str) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= kept.size

    def _shrink(self, now_ms: int) -> None:
        """Evicts what is worth least until there is room."""
        every, marks = self._kept, self._marks
        while True:
            recorded, key = marks.pop()
            kept = every.get(key)
            if kept is None:
                continue
            present = kept.worth
            if present > recorded and kept.expires_at_ms > now_ms:  # served since: look at it again later
                marks.push(present, key)
                continue
            if recorded > self._clock:
                self._clock = recorded
            del every[key]
            self._bytes -= kept.size
            self._evictions += 1
            if len(every) <= self._entries_max and self._bytes <= self._bytes_max:
                return


def newest(selector: Selector, answers: Iterator[StoredAnswer], limit: int) -> list[StoredAnswer]:
    """The selected answers, newest first."""
    found = [answer for answer in answers if selects(selector, answer)]
    return sorted(found, key=lambda answer: (-answer.created_at_ms, answer.key))[:limit]
