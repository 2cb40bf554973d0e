"""Batches of the providers' batch APIs while they run: whose they are, what they hold, and who looks after them.

The shelf is shared by all workers of an installation. It keeps no prompts but those of deferred calls, which wait in
it until they are sent.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import msgspec

from farthing.core.types import Dialect, Endpoint, Hold, Scope, Target
from farthing.ports.provider import HttpRequest

BatchState = Literal["sending", "open", "ended", "failed", "lost"]
"""``sending``: on its way to the provider. ``open``: the provider has it. ``ended``: its results are booked.
``failed``: the provider refused it. ``lost``: nobody knows whether the provider got it; it stays held."""
DeferredState = Literal["queued", "sent", "done", "failed", "cancelled"]


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """One request of a batch, without its text: what its ceiling is computed from."""

    custom_id: str
    model: str
    """As the caller named it."""
    provider: str
    sent_model: str
    """As it is sent."""
    input_tokens: int
    output_tokens: int
    choices: int = 1
    images: int = 0
    unbounded: bool = False
    cache_write: bool = False
    cache_ttl_long: bool = False
    hosted_tools: tuple[tuple[str, int], ...] = ()
    facets: tuple[tuple[str, str], ...] = ()


class Share(msgspec.Struct, frozen=True, array_like=True):
    """The most that one request can cost: its part of its group's holds."""

    group: int
    usd: int
    """Nano-USD that USD budgets hold for it."""
    input_tokens: int
    output_tokens: int


class Group(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Requests of one batch that count on the same counters."""

    scope: Scope
    target: Target
    model: str
    """As the caller named it."""
    at_ms: int
    """When they were taken on: decides windows and prices."""
    holds: tuple[Hold, ...] = ()
    """What all of them together may cost at most, posted to the counters when they were taken on."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a batch consists of."""

    endpoint: Endpoint
    policy_ref: str = ""
    groups: tuple[Group, ...] = ()
    shares: dict[str, Share] = {}
    """By ``custom_id``."""


class BatchFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file at a provider that belongs to a key."""

    id: str
    """The provider's."""
    provider: str
    owner: str
    """The id of the key that may see it; empty: a gateway without keys."""
    purpose: str
    created_ms: int
    shown: bytes
    """The provider's object, as last seen."""
    batch: str = ""
    """Of an output file: our id of its batch."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch, without what it consists of."""

    id: str
    """Ours."""
    upstream_id: str = ""
    """The provider's; empty until it has said one."""
    provider: str
    dialect: Dialect
    owner: str
    kind: Literal["caller", "queue"] = "caller"
    state: BatchState = "sending"
    created_ms: int
    shown: bytes = b""
    """The provider's object, as last seen."""


class DeferredCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that waits for a batch, is in one, or has its answer."""

    id: str
    owner: str
    provider: str
    dialect: Dialect
    endpoint: Endpoint
    created_ms: int
    body: bytes
    """Ready to be sent; empty once the answer is there."""
    group: Group
    share: Share
    state: DeferredState = "queued"
    batch: str = ""
    """Our id of its batch."""
    status: int = 0
    """Of the answer, as HTTP says it."""
    answer: bytes = b""


class BatchShelf(Protocol):
    """Shared by all workers; blocking; any thread. Raises ``StoreFailed``.

    * A file, batch or deferred call is found by its owner only.
    * ``claim`` and ``due`` lease a batch to one holder; a lease ends by itself. ``end`` succeeds for the holder,
      and once.
    * ``gather`` gives each queued call to one batch.
    """

    def add_file(self, file: BatchFile, asks: bytes = b"") -> None: ...

    def file(self, owner: str, id: str) -> BatchFile | None: ...

    def asks(self, file_id: str) -> bytes:
        """What was read of an uploaded file; empty: nothing."""
        ...

    def files(self, owner: str) -> tuple[BatchFile, ...]:
        """The newest first."""
        ...

    def forget_file(self, id: str) -> None: ...

    def begin(self, batch: Batch, manifest: bytes) -> None:
        """Write a batch down before the provider is asked."""
        ...

    def sent(self, id: str, upstream_id: str, shown: bytes, *, due_ms: int) -> None:
        """The provider has taken it."""
        ...

    def settled(self, id: str, state: BatchState) -> None:
        """It never ran (``failed``), or nobody knows (``lost``)."""
        ...

    def batch(self, owner: str, upstream_id: str) -> Batch | None: ...

    def batches(self, owner: str, dialect: Dialect) -> tuple[Batch, ...]:
        """Those that the provider has taken, the newest first."""
        ...

    def latest(self, limit: int) -> tuple[Batch, ...]:
        """Everybody's, those of the queue too, the newest first; for operators."""
        ...

    def by_id(self, id: str) -> Batch | None: ...

    def manifest(self, id: str) -> bytes: ...

    def saw(self, id: str, shown: bytes) -> None:
        """The provider's object, newer."""
        ...

    def forget(self, id: str) -> None:
        """Its owner has deleted it."""
        ...

    def claim(self, id: str, holder: str, *, now_ms: int, lease_ms: int) -> bool:
        """Lease one open batch. False: somebody is at it, or it is not open."""
        ...

    def due(self, holder: str, *, now_ms: int, lease_ms: int, most: int) -> tuple[Batch, ...]:
        """Lease the open batches that it is time to look at."""
        ...

    def leave(self, id: str, holder: str, *, due_ms: int) -> None:
        """End a lease early; it is time to look again at ``due_ms``."""
        ...

    def end(self, id: str, holder: str) -> bool:
        """Its results are booked. False: another holder has ended it, or the lease was lost."""
        ...

    def stuck(self, *, before_ms: int) -> tuple[Batch, ...]:
        """Batches that are on their way to the provider since before then."""
        ...

    def defer(self, call: DeferredCall) -> None: ...

    def deferred(self, owner: str, id: str) -> DeferredCall | None: ...

    def gather(
        self, manifest_of: Callable[[tuple[DeferredCall, ...]], bytes], *, now_ms: int, size: int, age_ms: int
    ) -> tuple[Batch, tuple[DeferredCall, ...]] | None:
        """Begin a batch of queued calls that go together, once there are ``size`` or the oldest is ``age_ms`` old.

        None: nothing to send yet.
        """
        ...

    def put_back(self, batch: str) -> None:
        """Its calls are queued again."""
        ...

    def answer(self, id: str, state: DeferredState, status: int, answer: bytes) -> bool:
        """A deferred call has its answer. False: it had one before."""
        ...

    def cancel(self, owner: str, id: str) -> bool:
        """False: it is not queued any more."""
        ...

    def prune(self, before_ms: int) -> int:
        """Forget ended batches, files and answers from before then; how many."""
        ...

    def close(self) -> None: ...


class BatchWire(Protocol):
    """How one provider's batch API is spoken to. Pure."""

    def request(
        self, method: str, path: str, *, body: bytes = b"", content_type: str = "", beta: Sequence[bytes] = ()
    ) -> HttpRequest:
        """``path`` comes after the provider's base URL, with its query."""
        ...
