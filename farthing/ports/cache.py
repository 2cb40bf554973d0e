"""Caches of answers: exact ones behind ``ExactCache``, similar ones behind ``Recall``.

An answer is kept as the JSON that a caller without streaming would have received; streams are made again from it.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from farthing.core.policy_cache import CacheRoute
from farthing.core.types import PromptView, Request, Scope, Target, Usage

Evidence = tuple[tuple[str, str], ...]


def size_of(body: bytes) -> int:
    """Bytes that an answer with this body is counted with."""
    return len(body) + 1024


class StoredAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One complete answer of a provider, with what it cost and what it may be forgotten by."""

    key: str
    """Hex digest of the canonical request and of everything that divides callers; the answer's id."""
    partition: str = ""
    """Hex digest of all that lies outside the body: tenant, endpoint, target, headers."""
    created_at_ms: int
    """When the provider answered."""
    expires_at_ms: int
    route: str = ""
    tags: tuple[str, ...] = ()
    scope: Scope
    """Whose call made it."""
    dialect: str
    endpoint: str
    target: Target
    """What answered; decides what the call would cost now."""
    status: int = 200
    body: bytes
    """The whole JSON answer, as the provider wrote it or as its stream adds up."""
    usage: Usage
    """What that call consumed."""
    charge: int | None = None
    """What it cost then, nano-USD; None: unpriced."""
    entry_id: str = ""
    """The ledger entry of that call."""
    latency_ms: int = 0
    """How long the provider took, which a hit saves."""

    @property
    def size(self) -> int:
        """Bytes it is counted with: its body and a flat allowance for the rest."""
        return size_of(self.body)


class Selector(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which answers to forget: all conditions that are given must hold; none given: everything."""

    tag: str = ""
    route: str = ""
    model: str = ""
    """A model name pattern (``*`` and ``?``), against the model that answered."""
    prefix: str = ""
    """Beginning of the key; a whole key is one entry."""
    partition: str = ""
    before_ms: int | None = None
    """Answers created before."""


class CacheState(msgspec.Struct, frozen=True, kw_only=True):
    """How full a store is and what it has done since it was opened."""

    kind: str
    entries: int = 0
    bytes: int = 0
    stores: int = 0
    evictions: int = 0
    expired: int = 0
    forgotten: int = 0


class ExactCache(Protocol):
    """A store of answers. Sentences that every one keeps, tested by ``ExactCacheContract``:

    * An answer is found under its whole key until ``expires_at_ms``, never after; being read does not prolong it.
    * ``put`` replaces; the newest answer of a key wins. An answer is never changed in place.
    * Entries and bytes stay within the bounds; what goes first is what saves the least per byte.
    * What was forgotten is not served again: at once here, within ``SYNC_MS`` by other processes on the same store.
    * A claim is held by one owner until it is released or its time is over, also when the owner died.
    * A store that fails raises ``StoreUnavailable``; callers go on without it.
    """

    async def start(self) -> None: ...

    def peek(self, key: str, *, now_ms: int) -> StoredAnswer | None:
        """The answer if it is at hand in this process; never waits."""
        ...

    async def get(self, key: str, *, now_ms: int) -> StoredAnswer | None: ...

    async def put(self, answer: StoredAnswer, *, now_ms: int) -> None: ...

    async def claim(self, key: str, *, owner: str, ttl_ms: int, now_ms: int) -> bool:
        """True when nobody else is asking the provider for this key now; the owner may claim again."""
        ...

    async def release(self, key: str, *, owner: str) -> None: ...

    async def forget(self, selector: Selector, *, now_ms: int) -> int:
        """Deletes what is selected and says how many answers that were."""
        ...

    async def answers(self, selector: Selector, *, limit: int, now_ms: int) -> tuple[StoredAnswer, ...]:
        """The answers that are kept and selected, newest first; for people, never for requests."""
        ...

    async def state(self) -> CacheState: ...

    async def close(self) -> None: ...


class SharedCache(ExactCache, Protocol):
    """A store that several processes use, each with a memory of its own in front."""

    async def touch(self, uses: Mapping[str, int], *, now_ms: int) -> None:
        """Counts how often answers were served elsewhere, for eviction."""
        ...

    async def forgotten(self, after: int) -> tuple[int, tuple[Selector, ...] | None]:
        """(the number of the newest ``forget``, those after number ``after``); None: too many, forget everything."""
        ...


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One request as the caches see it."""

    request: Request
    route: CacheRoute
    target: Target
    """Whom the plan would ask first."""
    key: str
    """Of the exact cache."""
    partition: str
    """Hex digest of tenant, dialect, endpoint, target and meaningful headers: all that lies outside the body."""
    fields: dict[str, object]
    """The canonical body (as it would leave), without ``stream``, ``stream_options`` and the route's ignored fields.
    Decoded JSON, shared; never changed."""
    refreshes: bool = False
    """The caller wants a fresh answer: nothing may be served, the new answer is learned."""


class Asker(Protocol):
    """Who asks what."""

    @property
    def scope(self) -> Scope: ...
    @property
    def dialect(self) -> str: ...
    @property
    def view(self) -> PromptView: ...


class Asked(Protocol):
    """What is kept of a question with its answer."""

    @property
    def request(self) -> Asker: ...
    @property
    def route(self) -> CacheRoute: ...
    @property
    def target(self) -> Target: ...
    @property
    def key(self) -> str: ...
    @property
    def partition(self) -> str: ...


class RecallHit(msgspec.Struct, frozen=True, kw_only=True):
    """A similar question's answer may be served."""

    answer: StoredAnswer
    evidence: Evidence = ()
    """Similarity, score, bound, guards, neighbour: what an audit needs. Stands in the ledger entry."""
    shadow: bool = False
    """Serve it, and let the provider answer too, for ``learn``: the hit is being measured."""


class RecallMiss(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing similar may be served."""

    reason: str = "no_candidate"
    """A slug: ``no_candidate``, ``guard``, ``below_bound``, ``cold``, ``shadow_mode``, ``budget``, …"""
    evidence: Evidence = ()
    would_serve: StoredAnswer | None = None
    """Shadow mode: what would have been served."""
    token: object = None
    """Whatever ``learn`` wants back (the vector, the neighbours); the engine only carries it."""


class Recall(Protocol):
    """The semantic cache. The engine asks after the exact cache has missed, on routes whose semantic mode is not off.

    ``recall`` may take milliseconds and must not block the event loop; what it spends at providers it books itself
    (``farthing.engine.caching.book_lever``). Neither call raises: a failure is a miss, counted by the implementation.
    """

    async def start(self) -> None: ...

    async def recall(self, ask: Ask, *, now_ms: int) -> RecallHit | RecallMiss: ...

    async def learn(
        self, ask: Ask, answer: StoredAnswer, outcome: RecallHit | RecallMiss, *, stored: bool, now_ms: int
    ) -> None:
        """After the provider answered: on misses, and on hits with ``shadow``. Runs in the background, bounded.

        ``stored`` says whether the exact cache kept the answer; one that it did not keep must not be served either.
        """
        ...

    async def forget(self, selector: Selector, *, now_ms: int) -> int: ...

    async def close(self) -> None: ...


CacheWord = Literal["hit", "miss", "bypass", "shadow", "semantic", "refresh"]
"""Values of the answer header ``x-farthing-cache``."""

SYNC_MS = 1_000
"""How late other processes on the same store may learn that an answer was forgotten."""
