"""A small language for tests of books: one act a line, the expected answer after ``=>``.

::

    let r1 until 1000 team:100:60 user:50:10      a reservation: counter:limit:amount, ``~limit`` is a soft limit,
                                                  counter@window, counter@window+other+other for a rolling one
    at 500                                        the time from here on
    reserve r1                  => held           or: held over <counter> <left>, denied <counter> <left>, conflict
    post r1 25 10 as e1         => booked         amounts per hold; ``as`` names the entries, amount of the first
    void r1                     => booked
    book e2 7                   => booked         an entry without any reservation
    balance team@w1             => 25 0           posted, held
    open                        => r1             ids of open reservations
    entries                     => e1 e2
"""

from typing import Final

from farthing.core.errors import Conflict
from farthing.core.types import Denied, Hold, Reservation
from farthing.ports.books import Settlement
from farthing.testing.records import FAR_MS, a_hold, a_reservation, an_entry
from farthing.testing.stores import BooksUnderTest


class BooksScript:
    """Runs scripts against one store and says which line went wrong."""

    __test__ = False

    def __init__(self, books: BooksUnderTest) -> None:
        self._books = books
        self._now_ms = 0
        self._reservations: dict[str, Reservation] = {}

    async def run(self, script: str) -> None:
        """Raises ``AssertionError`` naming the first line whose answer is not the expected one."""
        for number, line in enumerate(script.strip().splitlines(), 1):
            act, _, expected = (part.strip() for part in line.split("#")[0].partition("=>"))
            if act:
                answer = await self._answer(act.split())
                assert answer == expected, f"line {number}: {act}\n  expected {expected}\n  got      {answer}"

    async def _answer(self, words: list[str]) -> str:
        match words:
            case ["let", id, "until", until, *holds]:
                self._reservations[id] = a_reservation(id, *map(_hold, holds), expires_at_ms=int(until))
            case ["let", id, *holds]:
                self._reservations[id] = a_reservation(id, *map(_hold, holds), expires_at_ms=FAR_MS)
            case ["at", now]:
                self._now_ms = int(now)
            case ["reserve", id]:
                return await self._reserve(self._reservations[id])
            case ["post", id, *rest]:
                amounts, _, names = " ".join(rest).partition(" as ")
                return await self._settle(
                    id, [int(amount) for amount in amounts.split()], names.split() or [f"{id}-e"]
                )
            case ["void", id]:
                return await self._settle(id, [], [])
            case ["book", name, amount]:
                return await self._settle("", [int(amount)], [name])
            case ["balance", counter]:
                name, _, window = counter.partition("@")
                found = self._books.balances([(name, window or "all")])
                return f"{found[0].posted} {found[0].held}" if found else "0 0"
            case ["open"]:
                return " ".join(sorted(r.id for r in self._books.open_reservations()))
            case ["entries"]:
                return " ".join(sorted(entry.id for entry in self._books.entries()))
            case _:
                raise ValueError(f"not an act: {' '.join(words)}")
        return ""

    async def _reserve(self, reservation: Reservation) -> str:
        try:
            answer = await self._books.reserve(reservation, now_ms=self._now_ms)
        except Conflict:
            return "conflict"
        if isinstance(answer, Denied):
            return f"denied {answer.hold.counter} {answer.left}"
        return " ".join(["held", *(f"over {denied.hold.counter} {denied.left}" for denied in answer.over)])

    async def _settle(self, id: str, amounts: list[int], names: list[str]) -> str:
        reservation = self._reservations[id] if id else None
        entries = tuple(an_entry(name, amounts[0] if amounts else 0) for name in names)
        settlement = Settlement(reservation=reservation, amounts=tuple(amounts) if id else (), entries=entries)
        try:
            await self._books.settle(settlement, now_ms=self._now_ms)
        except Conflict:
            return "conflict"
        return "booked"


def _hold(text: str) -> Hold:
    place, limit, amount = text.split(":")
    counter, _, windows = place.partition("@")
    window, *also = windows.split("+")
    return a_hold(
        counter,
        int(amount),
        limit=int(limit.lstrip("~")),
        hard=not limit.startswith("~"),
        window=window or "all",
        also=tuple(also),
    )


TABLES: Final = {
    "a hold becomes a booking": """
        let r1 team:100:60
        reserve r1         => held
        balance team       => 0 60
        open               => r1
        post r1 25         => booked
        balance team       => 25 0
        open               =>
        entries            => r1-e
    """,
    "a hold that would pass the limit is denied and holds nothing": """
        let r1 team:100:60
        let r2 team:100:41
        let r3 team:100:40
        reserve r1         => held
        reserve r2         => denied team 40
        balance team       => 0 60
        reserve r3         => held
        balance team       => 0 100
    """,
    "all holds or none": """
        let r1 team:100:10 user:20:5
        let r2 team:100:10 user:20:16
        reserve r1         => held
        reserve r2         => denied user 15
        balance team       => 0 10
        balance user       => 0 5
        open               => r1
    """,
    "two holds on one counter add up": """
        let r1 team:100:60 team:100:41
        let r2 team:100:60 team:100:40
        reserve r1         => denied team 40
        reserve r2         => held
        balance team       => 0 100
        post r2 1 2        => booked
        balance team       => 3 0
    """,
    "a denied reservation may ask again": """
        let r1 team:100:60
        let r2 team:100:41
        reserve r1         => held
        reserve r2         => denied team 40
        void r1            => booked
        reserve r2         => held
    """,
    "the same reservation again is held once": """
        let r1 team:100:60
        reserve r1         => held
        reserve r1         => held
        balance team       => 0 60
        let r1 team:100:61
        reserve r1         => conflict
        post r1 10         => conflict
        balance team       => 0 60
    """,
    "settling twice books once": """
        let r1 team:100:60
        reserve r1         => held
        post r1 25         => booked
        post r1 25         => booked
        balance team       => 25 0
        entries            => r1-e
        post r1 26         => conflict
        post r1 25 as e2   => conflict
        void r1            => conflict
        balance team       => 25 0
    """,
    "a settled reservation is held no more": """
        let r1 team:100:60
        reserve r1         => held
        post r1 25         => booked
        reserve r1         => held
        balance team       => 25 0
        open               =>
    """,
    "post before reserve leaves no hold": """
        let r1 team:100:60
        post r1 25         => booked
        reserve r1         => held
        balance team       => 25 0
        open               =>
    """,
    "post after void counts": """
        let r1 team:100:60
        reserve r1         => held
        void r1            => booked
        void r1            => booked
        balance team       => 0 0
        post r1 25         => booked
        balance team       => 25 0
        entries            => r1-e
    """,
    "money spent is booked past the limit": """
        let r1 team:100:60
        let r2 team:100:1
        let r3 team:100:0
        reserve r1         => held
        post r1 250        => booked
        balance team       => 250 0
        reserve r2         => denied team 0
        reserve r3         => denied team 0
    """,
    "spending exactly the limit leaves room for nothing more": """
        let r1 team:100:100
        let r2 team:100:1
        let r3 team:100:0
        reserve r1         => held
        post r1 100        => booked
        reserve r2         => denied team 0
        reserve r3         => held
    """,
    "a soft limit counts and refuses nothing": """
        let r1 team:~100:60
        let r2 team:~100:60
        let r3 team:100:1
        reserve r1         => held
        reserve r2         => held over team 40
        reserve r2         => held
        balance team       => 0 120
        post r1 70         => booked
        balance team       => 70 60
        reserve r3         => denied team 0
    """,
    "a limit that changes binds from the next call": """
        let r1 team:100:60
        let r2 team:50:1
        let r3 team:200:140
        reserve r1         => held
        reserve r2         => denied team 0
        reserve r3         => held
        balance team       => 0 200
    """,
    "a limit that was raised for a while binds again when the raise is over": """
        let r1 team:150:120
        let r2 team:100:1
        let r3 team:150:30
        let r4 team:150:31
        reserve r1         => held
        reserve r2         => denied team 0
        reserve r4         => denied team 30
        reserve r3         => held
        post r1 60         => booked
        post r3 30         => booked
        reserve r2         => held
        balance team       => 90 1
    """,
    "a rolling limit counts the windows beside it and holds on its own": """
        let r1 team@w1+w0+w2:100:60
        let r2 team@w2+w1+w3:100:41
        let r3 team@w2+w1+w3:100:40
        let r4 team@w3+w2+w4:100:61
        let r5 team@w3+w2+w4:100:60
        reserve r1         => held
        reserve r2         => denied team 40
        reserve r3         => held
        balance team@w1    => 0 60
        balance team@w2    => 0 40
        reserve r4         => denied team 60
        reserve r5         => held
        post r3 10         => booked
        balance team@w2    => 10 0
        balance team@w3    => 0 60
    """,
    "a late call counts what came after it": """
        let r1 team@w2+w1+w3:100:60
        let r2 team@w1+w0+w2:100:41
        reserve r1         => held
        reserve r2         => denied team 40
        post r1 59         => booked
        reserve r2         => held
    """,
    "holds of one reservation count against each other's rolling limit": """
        let r1 team@w1:100:60 team@w2+w1:100:41
        let r2 team@w1:100:60 team@w2+w1:100:40
        reserve r1         => denied team 40
        reserve r2         => held
        balance team@w1    => 0 60
    """,
    "a soft rolling limit tells that it is passed": """
        let r1 team@w1+w0:~100:60
        let r2 team@w2+w1:~100:60 user:100:10
        reserve r1         => held
        reserve r2         => held over team 40
        balance team@w2    => 0 60
        balance user       => 0 10
    """,
    "a rolling limit and a plain one share a counter": """
        let r1 team@w1:100:10
        let r2 team@w1+w0:100:90
        let r3 team@w1:100:1
        reserve r1         => held
        reserve r2         => held
        reserve r3         => denied team 0
        post r2 50         => booked
        reserve r3         => held
    """,
    "an expired hold is released and its call still booked": """
        let r1 until 1000 team:100:60
        let r2 until 9000 team:100:100
        at 500
        reserve r1         => held
        reserve r2         => denied team 40
        at 1000
        reserve r2         => held
        open               => r2
        reserve r1         => held
        open               => r2
        post r1 25         => booked
        balance team       => 25 100
        post r1 25         => booked
        balance team       => 25 100
    """,
    "entries without a reservation are booked once": """
        book e1 7          => booked
        book e1 7          => booked
        book e1 8          => conflict
        entries            => e1
    """,
    "an entry id that is taken stops the whole settlement": """
        let r1 team:100:60
        book e1 7          => booked
        reserve r1         => held
        post r1 25 as e2 e1 => conflict
        entries            => e1
        balance team       => 0 60
        post r1 25 as e2   => booked
        balance team       => 25 0
    """,
    "an adjustment may lower a counter": """
        let r1 team:100:60
        let r2 team:100:0
        let r3 team:100:85
        let r4 team:100:1
        reserve r1         => held
        post r1 25         => booked
        post r2 -10        => booked
        balance team       => 15 0
        reserve r3         => held
        reserve r4         => denied team 0
    """,
}
"""The contract in examples; each runs on fresh books."""
