"""Leases: a worker's authority over a part of a counter's room, and what a store of leases must do.

For each counter the store keeps what is booked, and every worker's *authority*: the most that this worker may have in
use (held by calls in flight, or spent and not booked yet). Σ booked + Σ authority ≤ limit, so each worker decides in
memory while its own use stays within its authority. When the room is used up, the store *recalls* what others do not
need, and a call is refused only when every other worker has answered with exactly what it uses.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec

from farthing.adapters.memory import CounterKey
from farthing.core.errors import StoreUnavailable

LEASE_S: Final = 10.0
"""A worker that the store has not heard of for so long may spend nothing more; a half later its lease ends."""

GRACE: Final = 1.5
"""The store waits so many times ``LEASE_S`` before it gives a silent worker's authority to others."""

SLICE: Final = 255
"""Extra authority taken beyond a need, in needs; never more than an eighth of the room."""

ALL_ANSWERED: Final = -1
"""``Grant.answered`` when no other worker has any authority on the counter."""


class LeaseLost(StoreUnavailable):
    """The store has forgotten this worker (it was silent too long) or everything (data lost): declare anew."""


class Rebuilding(StoreUnavailable):
    """The store lost its data and waits for all living workers to declare what they use."""


class Want(msgspec.Struct, frozen=True, gc=False):
    """What a worker asks for on one counter: authority for what it uses now and ``ask`` more."""

    key: CounterKey
    limit: int
    used: int
    ask: int
    slice: int
    """What it would like to have beyond that while there is plenty."""
    also: tuple[CounterKey, ...] = ()
    """Other windows whose use counts against the limit too."""
    ends_at_ms: int = 0
    """When the counter counts for nothing any more; 0: never."""
    recall: bool = False
    """Ask the other workers to give back what they do not use."""


class Grant(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """The answer to a :class:`Want`."""

    authority: int
    """Never less than ``used``."""
    room: int
    """The limit less what is booked and what other workers have authority for; may be negative."""
    answered: int
    """The oldest recall that some other worker with authority has answered last; ``ALL_ANSWERED``: there is none."""
    recall: int = 0
    """The number of the recall that this want has started."""


class Posted(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """What the ledger has booked on a counter, at a version of that counter."""

    key: CounterKey
    amount: int
    version: int
    ends_at_ms: int = 0


class Share(msgspec.Struct, frozen=True, gc=False):
    """This worker's authority on a counter as it is from now on; 0 gives up the lease."""

    key: CounterKey
    authority: int
    answers: int = 0
    """The recall that this answers: authority is exactly what is in use."""
    booked: Posted | None = None
    """What the ledger has booked on it, where that is news too."""


class LeaseStore(Protocol):
    """The store's side; one act at a time. Raises ``StoreUnavailable`` and its children.

    Every method may be repeated when its outcome is unknown.
    """

    in_ledger: bool
    """It reads what is booked where the ledger writes it: shipping lowers the leases in the same transaction."""

    async def declare(self, shares: Sequence[Share]) -> None:
        """Join, or come back after ``LeaseLost``: this is what I use, whether there is room for it or not."""
        ...

    async def renew(self, shares: Sequence[Share]) -> Mapping[CounterKey, tuple[int, int]]:
        """I live; my authority and the ledger's figures have changed so. The recalls: counter → (number, now_ms)."""
        ...

    async def grant(self, wants: Sequence[Want], *, now_ms: int) -> Sequence[Grant]: ...

    async def leave(self) -> None:
        """Give everything back."""
        ...

    async def drop(self, worker: str, posted: Sequence[Posted]) -> None:
        """End another worker's lease; it is dead, and the ledger knows all that it will ever know of it."""
        ...

    async def leased(self, worker: str) -> Sequence[CounterKey]:
        """Counters on which a worker has authority."""
        ...

    async def silent(self, workers: Sequence[str]) -> Sequence[str]:
        """Those of the workers whose lease has run out."""
        ...

    def close(self) -> None: ...


class Account:
    """This worker's side of one counter. A plain class: fields of one are set ten times for each that is made."""

    __slots__ = (
        "answered", "authority", "busy", "claims", "dropped", "exact", "held", "key", "limit", "pending", "used_at",
    )  # fmt: skip

    def __init__(self, key: CounterKey, used_at: float = 0.0) -> None:
        self.key = key
        self.used_at = used_at
        self.held = 0
        """Set aside by calls in flight."""
        self.pending = 0
        """Spent, and not known to be booked by the store yet."""
        self.authority = 0
        self.limit: int | None = None
        """The limit under which the authority was granted; None: there is none, or it counts other windows too."""
        self.busy = False
        """A grant is on its way: nothing is decided without it."""
        self.exact = False
        """A limit over several windows counts it: authority is never more than what is in use."""
        self.answered = 0
        """The last recall that was answered."""
        self.dropped = False
        """Forgotten; a call that held nothing on it may still know it."""
        self.claims = 0
        """How many calls wait for what they lack on it: what is left is not given to one that came later."""

    @property
    def used(self) -> int:
        """What must be covered by authority."""
        return self.held + self.pending
