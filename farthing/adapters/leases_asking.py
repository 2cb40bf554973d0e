"""Holding calls: in memory while the lease covers them, else by asking the store."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Mapping, Sequence
from functools import cached_property

import msgspec

from farthing.adapters.leases import LEASE_S, Account, Grant, LeaseLost, Posted, Want
from farthing.adapters.leases_calls import Flight, Need, Terms, Tombstone, Waiting
from farthing.adapters.leases_state import (
    IDLE_TICK_S,
    NEWS_S,
    QUIET_AFTER_S,
    QUIET_TICK_S,
    RECALL_WAIT_S,
    RETRY_S,
    STORE_WAIT_S,
    TICK_S,
    Answer,
    State,
    log,
)
from farthing.adapters.memory import CounterKey, counter_key
from farthing.adapters.sqlite_rows import Row, held_record
from farthing.core.errors import Conflict, OutageAllowanceSpent, StoreUnavailable
from farthing.core.types import Denied, Held, Hold, LedgerEntry, Reservation


class Asked:
    """What the store was asked in a round, and its answers."""

    def __init__(self, needs: Sequence[Need] = (), wants: Sequence[Want] = (), grants: Sequence[Grant] = ()) -> None:
        self._told = needs, wants, grants

    @cached_property
    def fresh(self) -> Mapping[Terms, Grant]:
        """The answers as ``Desk.decide`` reads them; most calls are answered without."""
        found = {}
        for need, want, grant in zip(*self._told, strict=True):
            if want.also:  # it was asked for less than the limit: what this worker uses in other windows was left out
                grant = msgspec.structs.replace(grant, room=grant.room + need.hold.limit - want.limit)
            found[need.terms] = grant
        return found


class Asking(State):
    """Holding calls: in memory while the lease covers them, else by asking the store."""

    async def reserve(self, reservation: Reservation, now_ms: int, stub: LedgerEntry | None) -> Held | Denied:
        desk = self.desk
        self._enter(now_ms)
        if desk.known(reservation):
            return Held(id=reservation.id)
        row = held_record(reservation, worker=self._name, now_ms=now_ms, stub=stub)
        needs: list[Need] | None = None
        accounts: Sequence[Account] = ()
        if self._may_spend():
            covered = desk.covering(reservation)
            if covered is None:
                verdict = desk.decide(reservation, {}, {}, patient=True, late=True)
                covered = [], verdict if isinstance(verdict, list) else []
            accounts, needs = covered
            if not needs:
                self._take(reservation, row, accounts)
                return Held(id=reservation.id)
        elif self.books._allowance is not None:
            return self._take_on_allowance(reservation, row)
        waiting = Waiting(reservation, row, now_ms, self._acts, self._loop.create_future())
        if needs:
            waiting.needs, waiting.accounts = needs, accounts
            desk.claim(waiting, needs)
        self._waiting[waiting] = None
        self._asking = True
        self._pump_kick.set()
        try:
            return await waiting.future
        except asyncio.CancelledError:
            self._give_up(waiting)
            raise

    def _may_spend(self) -> bool:
        """The lease is surely valid: the store has heard of this worker not long ago."""
        return self._joined and time.monotonic() - self._renewed_s < LEASE_S

    def _take(self, reservation: Reservation, row: Row, accounts: Sequence[Account] = ()) -> None:
        self.desk.hold(reservation, accounts)
        try:
            self._holds.hold(reservation.id, row)
        except OSError as error:
            self.desk.release(self.desk.open[reservation.id])
            raise StoreUnavailable(
                f"The hold journal in {self._folder} cannot be written: {error.strerror}.", hint="Free some space."
            ) from error
        self._unwritten[reservation.id] = (row, time.monotonic())

    def _take_on_allowance(self, reservation: Reservation, row: Row) -> Held:
        """The lease store is away and policy lets a little through."""
        allowance, need = self.books._allowance, reservation.ceiling or 0
        assert allowance is not None
        if self.books.allowance_held + need > allowance:
            raise OutageAllowanceSpent(
                "The store of budgets is away, and what may be spent without it is used up.",
                hint="Bring it back, or raise store.allowance.",
            )
        self.books.allowance_held += need
        self._take(reservation, row)
        return Held(id=reservation.id)

    def _give_up(self, waiting: Waiting) -> None:
        """The caller is gone and may never settle: whatever was held is given back."""
        if waiting in self._waiting:
            self._leave(waiting)
        elif waiting.future.done() and not waiting.future.cancelled() and self.desk.open.get(waiting.reservation.id):
            self._release(self.desk.open[waiting.reservation.id])
            self.desk.bury(Tombstone(waiting.reservation, (), ()))

    def _leave(self, waiting: Waiting) -> None:
        """It waits no more."""
        del self._waiting[waiting]
        self.desk.unclaim(waiting)

    def _release(self, flight: Flight) -> None:
        self.desk.release(flight)
        self._over(flight.id)

    def _over(self, reservation_id: str) -> None:
        """It is in flight no more: in the hold journal, and in the database if it has a row there."""
        if self._unwritten.pop(reservation_id, None) is None:
            self._ended_rows.append(reservation_id)
        self._over_ids.append(reservation_id)
        if len(self._over_ids) == 1:
            self._loop.call_soon(self._note_over)

    def _note_over(self) -> None:
        """All of one turn of the loop at once; before anything of it can be shipped and forgotten."""
        ids, self._over_ids = self._over_ids, []
        if ids:
            with contextlib.suppress(OSError):
                self._holds.ended(ids)

    def _enter(self, now_ms: int) -> None:
        self._acts += 1
        if now_ms > self._now_ms:
            self._now_ms = now_ms
        if self.desk.any_due(now_ms):
            self._expire(now_ms)

    def _expire(self, now_ms: int) -> None:
        for reservation in self.desk.expire(now_ms):
            self._over(reservation.id)

    # Asking the store

    async def _pump_loop(self) -> None:
        while True:
            if not self._waiting:
                self._pump_kick.clear()
                await self._pump_kick.wait()
            batch = list(self._waiting)
            began = time.monotonic()
            try:
                settled = await self._round(batch)
            except StoreUnavailable as error:
                self._refuse_late(batch, error)
                settled = False
            self._asking = False
            if self._gathering is not None:
                self._loop.call_soon(self._gathered)  # with what those settle at once who have just been answered
            if not settled:
                await asyncio.sleep(max(0.0, 0.003 - (time.monotonic() - began)))

    async def _round(self, batch: list[Waiting]) -> bool:
        """Ask once for all that wait; True when somebody got an answer."""
        if not self._may_spend() and not await self._declare():
            raise StoreUnavailable("The store of budgets is away or being rebuilt.", hint="Try again.")
        async with self._lease_lock:
            asked = await self._ask(batch)
        return self._answer_all(batch, asked)

    async def _ask(self, batch: list[Waiting]) -> Asked:
        desk = self.desk
        sums: dict[Terms, Need] = {}
        now_ms = 0
        for waiting in batch:
            if waiting.now_ms > now_ms:
                now_ms = waiting.now_ms
            needs, waiting.needs = waiting.needs, None
            if needs is None:
                verdict = desk.decide(waiting.reservation, {}, {}, patient=True)
                needs = verdict if isinstance(verdict, list) else []
            for need in needs:
                if waiting.short:
                    need.recall = need.terms in waiting.short
                known = sums.setdefault(need.terms, need)
                if known is not need:
                    known.ask += need.ask
                    known.recall = known.recall or need.recall
        self._expire(now_ms)
        asks = list(sums.values())
        for need in asks:
            if need.hold.also:
                desk.make_exact(need.hold)
        if self._untold():
            self._process(await self._tell())
        return await self._grants(asks, now_ms) if asks else Asked()

    async def _grants(self, needs: list[Need], now_ms: int) -> Asked:
        wants = list(map(self.desk.want, needs))
        grants: Sequence[Grant] | None = None
        try:
            grants = await self._lease_call(self._leases.grant(wants, now_ms=now_ms))
        except StoreUnavailable:
            self.desk.untold(wants)  # it may have been granted all the same: what nobody holds here goes back
            raise
        finally:
            if grants is None:
                for need in needs:
                    if need.account is not None:
                        need.account.busy = False
        self.desk.granted(needs, grants)
        return Asked(needs, wants, grants)

    def _answer_all(self, batch: list[Waiting], asked: Asked) -> bool:
        answered = False
        now_s = time.monotonic()
        passed: set[CounterKey] = set()
        self._soon = None
        for waiting in batch:
            if waiting not in self._waiting:
                continue
            if passed and not passed.isdisjoint(map(counter_key, waiting.reservation.holds)):
                continue  # one that came earlier is not answered yet
            if waiting.short:
                fresh = asked.fresh
                begun = {terms: fresh[terms].recall for terms in waiting.short if terms in fresh}
                waiting.recalls = {**waiting.recalls, **{terms: one for terms, one in begun.items() if one}}
                waiting.short = frozenset()
            if self._answer_one(waiting, asked, now_s):
                answered = True
                self._leave(waiting)
            else:
                passed.update([account.key for account in waiting.claims])
        return answered

    def _answer_one(self, waiting: Waiting, asked: Asked, now_s: float) -> bool:
        reservation, accounts = waiting.reservation, waiting.accounts
        try:
            if self.desk.known(reservation):
                waiting.future.set_result(Held(id=reservation.id))
                return True
            verdict: Held | Denied | list[Need]
            if accounts and self.desk.covers(reservation, accounts):
                verdict = Held(id=reservation.id)
            else:
                accounts = ()
                patient = waiting.deadline == 0.0 or now_s < waiting.deadline
                verdict = self.desk.decide(reservation, asked.fresh, waiting.recalls, patient=patient)
            if isinstance(verdict, list):
                waiting.short = frozenset([need.terms for need in verdict if need.recall])
                if waiting.short and waiting.deadline == 0.0:
                    waiting.deadline = now_s + RECALL_WAIT_S
                    self.desk.unclaim(waiting)  # other workers may take their time
                return False
            if isinstance(verdict, Denied) and self._settled_soon(waiting, verdict.hold):
                return False
            if isinstance(verdict, Held):
                self._take(reservation, waiting.row, accounts)
                late = self._acts > waiting.number  # others came later, and maybe after its end
                if late and self.desk.any_due(self._now_ms):
                    self._expire(self._now_ms)
            waiting.future.set_result(verdict)
        except (Conflict, StoreUnavailable) as error:
            waiting.future.set_exception(error)
        return True

    def _settled_soon(self, waiting: Waiting, hold: Hold) -> bool:
        """A settlement that came earlier is still being written, and may make room."""
        if self._soon is None:
            self._soon = {}
            for one in (*self._group, *self._lines):
                for account in one.flight.accounts if one.flight and one.future else ():
                    self._soon.setdefault(account.key, one.number)
        return self._soon.get(counter_key(hold), waiting.number) < waiting.number

    def _refuse_late(self, batch: list[Waiting], error: StoreUnavailable) -> None:
        """Who has waited long enough is told; the first wait begins with the first failure."""
        now_s = time.monotonic()
        for waiting in batch:
            if waiting not in self._waiting:
                continue
            if self.books._allowance is not None and not self._may_spend():
                self._leave(waiting)
                try:
                    waiting.future.set_result(self._take_on_allowance(waiting.reservation, waiting.row))
                except StoreUnavailable as spent:
                    waiting.future.set_exception(spent)
            elif waiting.deadline == 0.0:
                waiting.deadline = now_s + STORE_WAIT_S
                self.desk.unclaim(waiting)
            elif now_s >= waiting.deadline:
                self._leave(waiting)
                waiting.future.set_exception(error)

    def _untold(self) -> bool:
        """The store must hear something before it can answer a question; the clock does not let it wait long."""
        due_s = min(self._news_due_s, self._renewed_s + 2 * QUIET_TICK_S)
        return bool(self.desk.urgent or self.desk.recalled) or time.monotonic() >= due_s

    async def _tell(self) -> Mapping[CounterKey, tuple[int, int]]:
        """Tell the store what is booked and what authority is left; the lease lock is held. The recalls."""
        now_s = time.monotonic()
        desk = self.desk
        hurry = 0 < self._hurry_seq <= self._shipped_seq
        if now_s < self._news_due_s and not (desk.urgent or desk.recalled or self._closing or hurry):
            recalls = await self._lease_call(self._leases.renew([]))
            self._renewed_s = now_s
            return recalls
        self._news_due_s = now_s + NEWS_S
        if hurry:
            self._hurry_seq = 0
        booked = [self._booked.popleft() for _ in range(len(self._booked))]
        newest: dict[CounterKey, Posted] = {}
        for posts, posted in booked:
            desk.booked(posts)
            for one in posted:
                newest[one.key] = one
        shares = desk.shares(newest)
        asked_s = time.monotonic()
        try:
            recalls = await self._lease_call(self._leases.renew(shares))
        except StoreUnavailable:
            sums: dict[CounterKey, int] = {}
            for posts, _ in booked:
                for key, amount in posts.items():
                    sums[key] = sums.get(key, 0) + amount
            desk.unbooked(sums)
            desk.untold(shares)
            self._booked.extendleft(reversed(booked))
            raise
        self._renewed_s = asked_s
        return recalls

    async def _lease_call(self, act: Awaitable[Answer]) -> Answer:
        try:
            answer = await act
        except LeaseLost:
            self._joined = False
            raise
        except StoreUnavailable as error:
            if self._leases_ok:
                self._outages += 1
                log.error("The store of budgets is away: %s", error)
            self._leases_ok = False
            raise
        self._leases_ok = True
        return answer

    def _process(self, recalls: Mapping[CounterKey, tuple[int, int]]) -> None:
        if recalls:
            self._short_s = time.monotonic()
        for reservation in self.desk.answer(recalls):
            self._over(reservation.id)

    async def _tick_loop(self) -> None:
        idle_s = 0.0
        while True:
            quiet = self.desk.now_s - self._short_s > QUIET_AFTER_S and not self._waiting
            await asyncio.sleep(QUIET_TICK_S if quiet else TICK_S)
            self.desk.now_s = now_s = time.monotonic()
            if now_s > idle_s:
                idle_s = now_s + (1.0 if self.desk.drop_idle() else IDLE_TICK_S)
            try:
                if not self._joined:
                    if not await self._declare():
                        await asyncio.sleep(RETRY_S)
                    continue
                async with self._lease_lock:
                    self._process(await self._tell())
                    if self.desk.news and self.desk.recalled:  # answers to recalls: others wait for them
                        self._process(await self._tell())
            except LeaseLost:
                continue
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)
