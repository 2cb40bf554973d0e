"""Random act scripts for books: thousands of short ones, each act answered as the reference answers it.

A script is made from its seed alone. Scripts of one batch run side by side, on counters of their own, in lockstep on
one clock, so that a store may gather their acts into one commit or one round trip. After each act: the same answer,
counters and open reservations as the reference; each counter is what was posted plus what open calls hold; and no
call was let in past a hard limit.
"""

import asyncio
import random
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from farthing.adapters.memory import CounterKey, MemoryBooks, counted_keys, counter_key
from farthing.core.errors import Conflict
from farthing.core.types import Denied, Held, Hold, LedgerQuery, LimitUnit, Reservation
from farthing.ports.books import Settlement
from farthing.testing.records import AT_MS, FAR_MS, a_hold, a_reservation, an_entry
from farthing.testing.stores import BooksUnderTest

BATCH: Final = 64
"""Scripts that run side by side."""

STEPS: Final = 12
"""Acts of a script."""

BATCH_MS: Final = 100_000
WINDOW_MS: Final = 100
REACH: Final = 3
"""Windows on either side that count against a rolling limit."""

_ADVANCES: Final = (0, 0, 10, 40, 100, 250)
_KINDS: Final = ("reserve",) * 5 + ("post",) * 3 + ("void", "again", "twist", "book")
_COUNTERS: Final = ("team", "user", "rolling", "rolling", "changing", "mixed", "soft", "soft rolling")


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """One act on the books: a reservation to hold (``settlement`` None), or a settlement."""

    reservation: Reservation | None = None
    settlement: Settlement | None = None
    worker: int = 0
    """Who performs it, modulo the number of workers: a reservation is settled by the worker that made it."""

    def holds(self) -> tuple[Hold, ...]:
        """The holds that it is about."""
        reservation = self.reservation or (self.settlement.reservation if self.settlement else None)
        return () if reservation is None else reservation.holds


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an act: ``held``, ``denied``, ``booked`` or ``conflict``, with what the store told."""

    what: str
    told: Held | Denied | None = None


def times(batch: int) -> tuple[int, ...]:
    """The instant of each step of a batch; later batches are later, so that one store serves all."""
    chance = random.Random(f"times {batch}")
    now_ms, found = AT_MS + batch * BATCH_MS, []
    for _ in range(STEPS):
        now_ms += chance.choice(_ADVANCES)
        found.append(now_ms)
    return tuple(found)


def script(seed: int, *, expiring: bool = True) -> tuple[Act, ...]:
    """The acts of one script, one for each step of its batch."""
    return _Author(seed, expiring).acts()


class _Author:
    """Draws a script."""

    def __init__(self, seed: int, expiring: bool) -> None:
        self._seed = seed
        self._chance = random.Random(seed)
        self._expiring = expiring
        self._drawn: dict[int, Reservation] = {}
        self._honest = self._chance.random() < 0.7
        """No call costs more than was held for it."""

    def acts(self) -> tuple[Act, ...]:
        return tuple(self._act(step, now_ms) for step, now_ms in enumerate(times(self._seed // BATCH)))

    def _act(self, step: int, now_ms: int) -> Act:
        chance = self._chance
        kind = chance.choice(_KINDS)
        fresh = kind == "reserve" or not self._drawn
        number = len(self._drawn) if fresh else chance.choice(list(self._drawn))
        if fresh:
            self._drawn[number] = self._reservation(number, now_ms)
        reservation = self._drawn[number]
        if kind == "twist":
            reservation = msgspec.structs.replace(reservation, request_id="another")
        if kind in ("reserve", "again") or (kind == "twist" and chance.random() < 0.5):
            return Act(reservation=reservation, worker=number)
        if kind == "book":
            entry = an_entry(f"{self._seed}-book-{step % 5}", step % 3, received_at_ms=now_ms - step)
            return Act(settlement=Settlement(reservation=None, entries=(entry,)), worker=step)
        if kind == "void":
            return Act(settlement=Settlement(reservation=reservation), worker=number)
        amounts = tuple(self._cost(hold) for hold in reservation.holds)
        entry = an_entry(
            f"{reservation.id}-{chance.choice('aab')}", sum(amounts), received_at_ms=times_base(self._seed)
        )
        return Act(settlement=Settlement(reservation=reservation, amounts=amounts, entries=(entry,)), worker=number)

    def _cost(self, hold: Hold) -> int:
        return self._chance.randint(0, hold.amount) if self._honest else self._chance.randint(-5, 90)

    def _reservation(self, number: int, now_ms: int) -> Reservation:
        chance = self._chance
        holds = [self._hold(chance.choice(_COUNTERS), now_ms) for _ in range(chance.choice((0, 1, 1, 2, 2, 3)))]
        soon = self._expiring and chance.random() < 0.4
        expires_at_ms = now_ms + chance.choice((50, 120, 300)) if soon else FAR_MS
        return a_reservation(f"{self._seed}-{number}", *holds, expires_at_ms=expires_at_ms)

    def _hold(self, kind: str, now_ms: int) -> Hold:
        chance = self._chance
        # One clock is a little behind another, and calls are reserved after they came in.
        now = now_ms // WINDOW_MS - chance.choice((0, 0, 0, 1))
        windowed = kind in ("user", "rolling", "mixed", "soft rolling")
        reach = REACH if kind.endswith("rolling") or (kind == "mixed" and chance.random() < 0.5) else 0
        units: tuple[LimitUnit, ...] = ("usd", "usd", "usd", "tokens")
        return a_hold(
            f"{self._seed} {kind}",
            chance.randint(0, 45),
            limit=chance.choice((60, 100, 140)) if kind == "changing" else 100,
            hard=not kind.startswith("soft"),
            unit=chance.choice(units),
            window=f"w{now}" if windowed else "all",
            also=tuple(f"w{other}" for other in range(now - reach, now + reach + 1) if other != now),
        )


def times_base(seed: int) -> int:
    """The instant at which the batch of a script begins."""
    return AT_MS + seed // BATCH * BATCH_MS


async def perform(act: Act, books: BooksUnderTest, now_ms: int) -> Answer:
    """Run an act; the answer in words."""
    try:
        if act.settlement is not None:
            await books.settle(act.settlement, now_ms=now_ms)
            return Answer(what="booked")
        assert act.reservation is not None
        told = await books.reserve(act.reservation, now_ms=now_ms)
    except Conflict:
        return Answer(what="conflict")
    return Answer(what="held" if isinstance(told, Held) else "denied", told=told)


async def run_scripts(workers: Sequence[BooksUnderTest], seeds: Iterable[int]) -> int:
    """Run scripts on one store, opened once for each worker; the number of acts compared.

    Raises ``AssertionError`` with the seed to run again: ``run_scripts(workers, [seed])`` repeats it alone. With
    several workers nothing expires, because a worker only tells of its own reservations that they have expired.
    """
    batches: dict[int, list[int]] = {}
    for seed in seeds:
        batches.setdefault(seed // BATCH, []).append(seed)
    acts = 0
    for batch, members in sorted(batches.items()):
        acts += await _Run(workers, members).run(times(batch))
    return acts


class _Run:
    """One batch on one store and on the reference."""

    def __init__(self, workers: Sequence[BooksUnderTest], seeds: Sequence[int]) -> None:
        self._workers = workers
        self._reference = MemoryBooks()
        self._seeds = seeds
        self._scripts = [script(seed, expiring=len(workers) == 1) for seed in seeds]
        self._posted: dict[str, Settlement] = {}
        """What was booked on counters, by reservation: kept here a third time, as simply as can be."""
        self._held: set[str] = set()

    async def run(self, instants: Sequence[int]) -> int:
        for step, now_ms in enumerate(instants):
            acts = [script[step] for script in self._scripts]
            expected = [await perform(act, self._reference, now_ms) for act in acts]
            answers = await asyncio.gather(*(perform(act, self._worker(act), now_ms) for act in acts))
            told = zip(self._seeds, acts, expected, answers, strict=True)
            for seed, act, wanted, answer in told:
                where = f"script {seed}, step {step}: {act}"
                assert self._same(answer, wanted), f"{where}\n  expected {wanted}\n  got      {answer}"
                if answer.what == "booked" and act.settlement and act.settlement.reservation:
                    self._posted[act.settlement.reservation.id] = act.settlement
            self._check(step, acts, answers)
        await self._clean_up(instants[-1])
        return len(instants) * len(self._scripts)

    def _worker(self, act: Act) -> BooksUnderTest:
        return self._workers[act.worker % len(self._workers)]

    def _same(self, answer: Answer, wanted: Answer) -> bool:
        if len(self._workers) > 1 and answer.what == wanted.what == "held":
            return True  # what soft limits tell may err between workers
        return answer == wanted

    def _check(self, step: int, acts: Sequence[Act], answers: Sequence[Answer]) -> None:
        seen = self._workers[step % len(self._workers)]
        open_now = seen.open_reservations()
        assert open_now == self._reference.open_reservations(), f"scripts {self._seeds}, step {step}"
        fresh = [reservation for reservation in open_now if reservation.id not in self._held]
        self._held |= {reservation.id for reservation in fresh}
        counters: dict[CounterKey, list[int]] = {}
        for settlement in self._posted.values():
            assert settlement.reservation is not None
            for hold, amount in zip(settlement.reservation.holds, settlement.amounts, strict=False):
                counters.setdefault(counter_key(hold), [0, 0])[0] += amount
        for hold in (hold for reservation in open_now for hold in reservation.holds):
            counters.setdefault(counter_key(hold), [0, 0])[1] += hold.amount
        keys = sorted({counter_key(hold) for act in acts for hold in act.holds()})
        found = {(b.counter, b.window, b.unit): [b.posted, b.held] for b in seen.balances([key[:2] for key in keys])}
        for key in keys:
            assert found.get(key, [0, 0]) == counters.get(key, [0, 0]), f"step {step}, counter {key}"
        for act, answer in zip(acts, answers, strict=True):
            if answer.what == "held" and act.reservation in fresh:
                self._check_limits(act.reservation.holds, counters)

    def _check_limits(self, holds: Sequence[Hold], counters: dict[CounterKey, list[int]]) -> None:
        """A hard hold that was just made has room; later holds of the same reservation were not there yet."""
        for place, hold in enumerate(holds):
            keys = counted_keys(hold)
            later = sum(other.amount for other in holds[place + 1 :] if counter_key(other) in keys)
            used = sum(sum(counters.get(key, (0, 0))) for key in keys) - later
            assert not hold.hard or used <= hold.limit, f"{hold} was let in at {used}"

    async def _clean_up(self, now_ms: int) -> None:
        """Ledgers are equal; then nothing stays open, so that the next batch finds the store as small as this one."""
        since_ms = times_base(self._seeds[0]) - STEPS
        books = self._workers[0]
        booked = {entry.id: entry for entry in books.entries(since_ms=since_ms)}
        expected = {entry.id: entry for entry in self._reference.entries()}
        assert {id: booked.get(id) for id in expected} == expected
        query = LedgerQuery(group_by=("team",), since_ms=since_ms)
        assert books.totals(query) == self._reference.totals(query)
        left = self._reference.open_reservations()
        acts = [Act(settlement=Settlement(reservation=one), worker=int(one.id.split("-")[1])) for one in left]
        await asyncio.gather(*(perform(act, self._worker(act), now_ms) for act in acts))
