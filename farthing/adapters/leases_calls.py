"""What a worker remembers of calls: of those that wait for the lease store, are in flight, or have ended."""

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from farthing.adapters.leases import Account
from farthing.adapters.memory import CounterKey
from farthing.adapters.sqlite_rows import Row
from farthing.core.types import Denied, Held, Hold, Reservation

Terms = tuple[CounterKey, int, tuple[str, ...]]
"""A counter, the limit on it and the other windows that count: what one grant is about."""

_NO_RECALLS: Final[Mapping[Terms, int]] = MappingProxyType({})


class Need(msgspec.Struct, gc=False):
    """What a reservation lacks on one counter."""

    hold: Hold
    terms: Terms
    ask: int
    account: Account | None = None
    """This worker's side of the counter, where it was looked up already."""
    recall: bool = False


class Tombstone(msgspec.Struct, frozen=True, gc=False):
    """A reservation that is held no more; ``entry_ids`` is None while it has expired but was never settled."""

    reservation: Reservation
    amounts: tuple[int, ...]
    entry_ids: tuple[str, ...] | None


class Flight(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A reservation in flight, with its accounts by hold."""

    id: str
    expires_at_ms: int
    reservation: Reservation
    accounts: Sequence[Account]


class Waiting:
    """A reservation that needs the store's answer."""

    __slots__ = (
        "accounts", "claims", "deadline", "future", "needs", "now_ms", "number", "recalls", "reservation", "row",
        "short",
    )  # fmt: skip

    def __init__(
        self, reservation: Reservation, row: Row, now_ms: int, number: int, future: "asyncio.Future[Held | Denied]"
    ) -> None:
        self.reservation = reservation
        self.row = row
        self.now_ms = now_ms
        self.number = number
        """How many acts had come when this one came."""
        self.future = future
        self.recalls: Mapping[Terms, int] = _NO_RECALLS
        """The recall that was started for this reservation, by terms."""
        self.accounts: Sequence[Account] = ()
        """Of its holds, where they were looked up when it came."""
        self.needs: list[Need] | None = None
        """What it lacked when it came, until the store was asked for it."""
        self.claims: Sequence[Account] = ()
        """Counters of which it is short: what is left of them is not given to one that came later."""
        self.short: frozenset[Terms] = frozenset()
        """Terms on which a recall must be started."""
        self.deadline = 0.0
        """Monotonic time until which others may still give back; 0: nobody was asked yet."""
