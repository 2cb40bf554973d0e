"""The books: reservations and the ledger behind one port, so that releasing a hold and booking are one act."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol, runtime_checkable

import msgspec

from farthing.core.types import (
    Denied,
    Exchange,
    Held,
    KeyRecord,
    LedgerEntry,
    LedgerQuery,
    Reservation,
    Totals,
)

AGE: Final = "age_ms"
"""The evidence in which settlements that are alike differ."""


class Alike:
    """What settlements have in common that differ in nothing but ids, times and the ``AGE`` in their last decision.

    Each has one entry and an exchange of the same request, whose id needs no escape in JSON.
    """

    __slots__ = ("made",)

    def __init__(self) -> None:
        self.made: object = None
        """A store may leave here what it made of the first, for the others."""


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """How a reservation ends: ``amounts[i]`` is what its i-th hold really cost, in that hold's unit.

    ``entries`` may be empty (nothing was billed: the reservation is voided) and ``reservation`` may be None
    (nothing was held: the entries are simply booked). ``exchange`` rides in the same transaction.
    """

    reservation: Reservation | None
    amounts: tuple[int, ...] = ()
    entries: tuple[LedgerEntry, ...] = ()
    exchange: Exchange | None = None
    alike: Alike | None = None
    """Shared by all settlements that repeat one another; the records say it all without it."""


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """A counter in one window: what is booked and what is set aside, in the counter's unit."""

    counter: str
    window: str
    unit: str
    posted: int
    held: int


class Books(Protocol):
    """Holds and ledger. Sentences that every store keeps, tested by ``BooksContract``:

    * ``reserve`` makes all holds or none; a hard hold that would pass its limit denies the reservation.
    * What counts against a hold's limit is what is posted and held on its counter and unit in ``window`` and in every
      window of ``also``, and what earlier holds of the same reservation set aside there. Only ``window`` is held and
      posted to. The limit is that of the hold: it may differ from call to call and binds from that call on.
    * A soft hold is never refused; when it passes its limit, ``Held.over`` says so with what was left, in the order
      of the holds. With several workers that may err where others hold authority that they do not need.
    * The same reservation id again with the same content answers as the first time; other content: ``Conflict``.
      A denied reservation leaves nothing behind: asking again is a new question.
    * ``settle`` ends a reservation exactly once and books its entries in the same act; when it returns under
      strict durability, entries survive a crash. Settling again with the same content changes nothing, with other
      content it is a ``Conflict``; only a voided reservation (settled without entries) may still be booked.
    * A reservation that was settled first is never held afterwards; one past ``expires_at_ms`` is held no longer.
    * Money spent is always booked: past an expired hold, past a limit, and without any reservation.
    * An entry id is booked at most once; other content under the same id is a ``Conflict``.
    * A ``settle`` or ``reserve`` that raises has changed nothing; it may be tried again.
    """

    async def reserve(
        self, reservation: Reservation, *, now_ms: int, stub: LedgerEntry | None = None
    ) -> Held | Denied:
        """Set the holds aside. ``stub`` is what is known of the entry to come (scope, provider, model…).

        A durable store keeps the stub with the reservation, so that a call whose worker died can still be booked.
        """
        ...

    async def settle(self, settlement: Settlement, *, now_ms: int) -> None:
        """End the reservation, count ``amounts`` on its counters, book ``entries``: one act.

        ``amounts`` is empty (all zero) or has one number per hold. Raises ``Conflict``, ``StoreUnavailable``.
        """
        ...

    def balances(self, counters: Sequence[tuple[str, str]]) -> tuple[Balance, ...]: ...

    def open_reservations(self) -> tuple[Reservation, ...]: ...

    async def close(self) -> None: ...


class Ledger(Protocol):
    """Reading the books; blocking calls, for the CLI, reports and pages (never the hot path)."""

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]: ...

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]: ...

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]: ...


@runtime_checkable
class RolledUp(Protocol):
    """A ledger that keeps sums ready."""

    def answers(self, query: LedgerQuery) -> bool:
        """True where these sums answer the query, so that a long period costs hardly more than a short one."""
        ...


@runtime_checkable
class Ranked(RolledUp, Protocol):
    """Sums that are so many that only the largest groups are asked for in full."""

    def cells(self, query: LedgerQuery) -> int | None:
        """About how many sums, or entries, the answer is added up from; None where all entries must be read."""
        ...

    def amounts(self, query: LedgerQuery) -> Mapping[tuple[str, ...], tuple[int, int]]:
        """(amount, entries) of every group that has any: what ``totals`` says of them, in a third of the time."""
        ...

    def some(self, query: LedgerQuery, groups: Sequence[tuple[str, ...]]) -> tuple[Totals, ...]:
        """The rows of ``totals`` of these groups."""
        ...


@runtime_checkable
class Steady(Protocol):
    """A ledger that is opened once for all that a page asks, which is then answered as of one moment."""

    def steady(self) -> AbstractContextManager[None]:
        """What is asked inside, by the thread that entered, is of one moment."""
        ...

    def gather(self, query: LedgerQuery) -> None:
        """Inside :meth:`steady`: reads the entries that match once. Questions that no sums answer, about the same
        filters, within its period and about its dimensions, are then answered from them. They must fit in memory."""
        ...


class Newest(Protocol):
    """Looking at the newest records of the books, page by page; blocking, for pages."""

    def newest_entries(self, query: LedgerQuery, *, before: str, limit: int) -> tuple[tuple[LedgerEntry, ...], str]:
        """Entries that match ``query`` (its groups mean nothing), last booked first, before a cursor.

        "" starts at the newest. With them the cursor of the next page, "" at the end. A page may hold fewer than
        ``limit`` although there are more: work per page is bounded, and the cursor goes on from where it ended.
        """
        ...

    def newest_unbooked(self, query: LedgerQuery, *, before: str, limit: int) -> tuple[tuple[Exchange, ...], str]:
        """Calls of the traffic log that nothing was booked of (refused, failed, broken off), newest first.

        As :meth:`newest_entries`, with cursors of its own.
        """
        ...

    def exchange(self, request_id: str) -> Exchange | None:
        """One request of the traffic log; None when it is not there (any more)."""
        ...


class Keys(Protocol):
    """Virtual keys."""

    def find(self, secret_hash: str) -> KeyRecord | None: ...

    def all(self) -> tuple[KeyRecord, ...]: ...

    def add(self, record: KeyRecord) -> None: ...

    def revoke(self, key_id: str, *, at_ms: int) -> bool: ...


class Importer(Protocol):
    """Booking many entries of elsewhere at once; blocking, for the CLI.

    One transaction: all of it is booked or none. An entry or exchange whose id is already there is left as it was
    first booked, whatever the new one says. Nothing is reserved and no limit is checked, but counters of budgets
    are not touched either: imported spend is history.
    """

    def import_batch(self, entries: Iterable[LedgerEntry], exchanges: Iterable[Exchange]) -> tuple[int, int]:
        """Books the entries with their exchanges; returns how many entries were (new, already there)."""
        ...
