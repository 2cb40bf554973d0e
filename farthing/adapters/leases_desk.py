"""The desk of one worker: its open reservations and accounts, and what it may decide without asking the store.

Pure bookkeeping in memory, owned by the event loop; ``leases_books`` does the waiting, ``LeaseStore`` the sharing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from farthing.adapters.journal import Post
from farthing.adapters.leases import ALL_ANSWERED, SLICE, Account, Grant, Posted, Share, Want
from farthing.adapters.leases_calls import Flight, Need, Terms, Tombstone, Waiting
from farthing.adapters.memory import CounterKey, Expiries, counted_keys
from farthing.core.errors import Conflict
from farthing.core.types import Denied, Held, Hold, Reservation
from farthing.ports.books import Settlement

TOMBSTONES_MAX: Final = 8_192
ACCOUNTS_MAX: Final = 50_000
"""Counters kept in memory; idle ones beyond that are given back soon."""

IDLE_S: Final = 30.0
"""Authority on a counter that was not used for so long is given back."""

_LATE_MS: Final = 3_600_000
"""How long after its window's end a counter still gets what settles late."""

_SPANNING_MS: Final = 100 * 86_400_000
"""The same where its window counts against the limits of later ones."""


class Desk:
    """Open reservations, accounts, and what has ended."""

    def __init__(self) -> None:
        self.open: dict[str, Flight] = {}
        self.accounts: dict[CounterKey, Account] = {}
        self.recalled: dict[CounterKey, int] = {}
        """Counters on which some worker is short: no slices there, and what is not in use goes back."""
        self.urgent = False
        """More is in use somewhere than the store knows of."""
        self.now_s = 0.0
        """A coarse clock, set by the owner."""
        self._dirty: dict[CounterKey, Account] = {}
        self._tombstones: dict[str, Tombstone] = {}
        self._older: dict[str, Tombstone] = {}
        """Two generations: the older one is forgotten as a whole."""
        self._expiries = Expiries()
        self.any_due: Callable[[int], bool] = self._expiries.any_due
        """``expire`` may have something to do."""

    # Deciding

    def known(self, reservation: Reservation) -> bool:
        """It was seen before, with the same content. Raises ``Conflict`` when the content was another."""
        id = reservation.id
        ended = self.open.get(id) or self._tombstones.get(id) or self._older.get(id)
        if ended is None:
            return False
        known = ended.reservation
        if known is not reservation and known != reservation:
            raise Conflict(f"Reservation {reservation.id} already exists with other content.")
        return True

    def decide(
        self,
        reservation: Reservation,
        fresh: Mapping[Terms, Grant],
        recalls: Mapping[Terms, int],
        *,
        patient: bool,
        late: bool = False,
    ) -> Held | Denied | list[Need]:
        """Held, denied, or what must be asked of the store first. ``fresh``: its answers of this moment.

        ``recalls`` says which recall must have been answered by everybody before a refusal is certain; it is certain
        without when patience has ended. ``late``: others wait already; what they claim is not given away.
        """
        needed: dict[CounterKey, int] = {}
        over: list[Denied] = []
        needs: list[Need] = []
        for hold in reservation.holds:
            key = (hold.counter, hold.window, hold.unit)
            account = self.accounts.get(key)
            before = needed.get(key, 0)
            need = before + hold.amount
            if account is None or not _covers(account, hold, need) or (late and account.claims):
                terms = (key, hold.limit, hold.also)
                grant = fresh.get(terms)
                if grant is None:
                    needs.append(Need(hold, terms, need, account))
                else:
                    left = self._left(grant, hold, needed)
                    if hold.amount > left:
                        asked = recalls.get(terms)
                        sure = grant.answered == ALL_ANSWERED or (asked is not None and asked <= grant.answered)
                        if not hold.hard:
                            over.append(Denied(id=reservation.id, hold=hold, left=max(0, left)))
                        elif not sure and patient:
                            needs.append(Need(hold, terms, need, account, recall=asked is None))
                        elif not needs:
                            return Denied(id=reservation.id, hold=hold, left=max(0, left))
                    elif account is None or account.held + account.pending + need > account.authority:
                        needs.append(Need(hold, terms, need, account))
            needed[key] = need
        if needs and len(needed) < len(reservation.holds):
            needs += self._beside(needs, reservation, fresh)
        return needs or Held(id=reservation.id, over=tuple(over))

    def _beside(self, needs: Sequence[Need], reservation: Reservation, fresh: Mapping[Terms, Grant]) -> list[Need]:
        """Other limits of the call on counters that it lacks authority on.

        They must be asked for together: an account knows one limit, so each answer makes the other unknown again.
        """
        asked = {need.terms for need in needs}
        keys = {terms[0] for terms in asked}
        needed: dict[CounterKey, int] = {}
        found = []
        for hold in reservation.holds:
            key = (hold.counter, hold.window, hold.unit)
            terms = (key, hold.limit, hold.also)
            needed[key] = need = needed.get(key, 0) + hold.amount
            if key in keys and terms not in asked and terms not in fresh:
                found.append(Need(hold, terms, need, self.accounts.get(key)))
        return found

    def claim(self, waiting: Waiting, needs: Iterable[Need]) -> None:
        """Who comes later shall not pass by on these counters."""
        claims = []
        for need in needs:
            account = need.account
            if account is None:
                account = self.account(need.terms[0])
            account.claims += 1
            claims.append(account)
        waiting.claims = claims

    def unclaim(self, waiting: Waiting) -> None:
        """It is answered, or waits for others than this worker."""
        for account in waiting.claims:
            account.claims -= 1
        waiting.claims = ()

    def want(self, need: Need) -> Want:
        """What to ask of the store; the account is busy until ``granted``."""
        hold, key = need.hold, need.terms[0]
        account = need.account
        if account is None or account.dropped:
            account = need.account = self.account(key)
        account.busy = True
        resets_at_ms = hold.resets_at_ms
        also: tuple[CounterKey, ...] = ()
        elsewhere = 0
        if hold.also:
            also = counted_keys(hold)[1:]
            elsewhere = sum([self.accounts[other].used for other in also if other in self.accounts])
        return Want(
            key,
            hold.limit - elsewhere,
            account.held + account.pending,
            need.ask,
            0 if also or account.exact else SLICE * max(1, hold.amount),
            also,
            # Windows that count against later ones too live on; how long is not known here.
            0 if resets_at_ms is None else resets_at_ms + (_SPANNING_MS if also else _LATE_MS),
            need.recall,
        )

    def make_exact(self, hold: Hold) -> None:
        """A limit over several windows is only exact while authority on all of them is what is in use."""
        for key in counted_keys(hold):
            account = self.accounts.get(key)
            if account is not None:
                account.exact = True
                self._trim(account)

    def granted(self, needs: Sequence[Need], grants: Sequence[Grant]) -> None:
        """The store has answered. Of several limits on one counter, the widest decided the authority."""
        for need, grant in zip(needs, grants, strict=True):
            account = need.account
            assert account is not None
            if account.busy or grant.authority > account.authority:
                account.authority = grant.authority
                account.limit = None if need.hold.also else need.hold.limit
                account.busy = False
                account.answered = 0
        for need in needs:
            known = need.account
            if known is not None and known.authority < known.held + known.pending:
                self.cover(known)

    def covering(self, reservation: Reservation) -> tuple[list[Account], list[Need]] | None:
        """The accounts of all holds, and what those lack that do not surely cover theirs, as ``decide`` says it.

        None: two holds are on one counter, and ``decide`` must look.
        """
        known = self.accounts
        accounts: list[Account] = []
        needs: list[Need] = []
        for hold in reservation.holds:
            key = (hold.counter, hold.window, hold.unit)
            if key in known:
                account = known[key]
                free = account.authority - account.held - account.pending
                if (
                    free < hold.amount
                    or free <= 0
                    or account.limit != hold.limit
                    or account.busy
                    or account.claims
                    or hold.also
                ):
                    needs.append(Need(hold, (key, hold.limit, hold.also), hold.amount, account))
            else:
                account = known[key] = Account(key, self.now_s)
                needs.append(Need(hold, (key, hold.limit, hold.also), hold.amount, account))
            accounts.append(account)
        return None if len(set(accounts)) < len(accounts) else (accounts, needs)

    def covers(self, reservation: Reservation, accounts: Sequence[Account]) -> bool:
        """The accounts that ``covering`` has found surely cover the holds now."""
        for hold, account in zip(reservation.holds, accounts, strict=True):
            free = account.authority - account.held - account.pending
            if (
                free < hold.amount
                or free <= 0
                or account.limit != hold.limit
                or account.busy
                or hold.also
                or account.dropped
            ):
                return False
        return True

    def hold(self, reservation: Reservation, accounts: Sequence[Account] = ()) -> None:
        """Set everything aside; ``accounts`` are those of the holds, where they are at hand and cover them."""
        if accounts:
            for account, hold in zip(accounts, reservation.holds, strict=True):
                account.held += hold.amount
        else:
            accounts = [self.account((hold.counter, hold.window, hold.unit)) for hold in reservation.holds]
            for account, hold in zip(accounts, reservation.holds, strict=True):
                account.held += hold.amount
                if account.authority < account.held + account.pending:
                    self.cover(account)
        id = reservation.id
        flight = self.open[id] = Flight(id, reservation.expires_at_ms, reservation, accounts)
        self._expiries.add(flight, self.open)

    def release(self, flight: Flight) -> None:
        """Set nothing aside any more."""
        del self.open[flight.id]
        now_s, recalled = self.now_s, self.recalled
        for account, hold in zip(flight.accounts, flight.reservation.holds, strict=True):
            account.held -= hold.amount
            account.used_at = now_s
            if account.exact or (recalled and account.key in recalled):
                self._trim(account)

    # Settling

    def tombstone(self, reservation_id: str) -> Tombstone | None:
        """How a reservation ended, if that was not long ago."""
        return self._tombstones.get(reservation_id) or self._older.get(reservation_id)

    def bury(self, tombstone: Tombstone) -> None:
        """Remember how a reservation ended."""
        if len(self._tombstones) >= TOMBSTONES_MAX // 2:
            self._older, self._tombstones = self._tombstones, {}
        self._tombstones[tombstone.reservation.id] = tombstone

    def post(self, posts: Iterable[Post]) -> None:
        """Money was spent: it counts from now on, whether there was authority for it or not."""
        now_s = self.now_s
        for post in posts:
            account = self.account((post.counter, post.window, post.unit))
            account.pending += post.amount
            account.used_at = now_s
            if account.authority < account.held + account.pending:
                self.cover(account)

    def exchange(self, flight: Flight, posts: Sequence[Post]) -> None:
        """What an open reservation held is free, what was spent instead counts: ``release`` and ``post`` in one."""
        accounts = flight.accounts
        if len(posts) != len(accounts):
            self.release(flight)
            self.post(posts)
            return
        del self.open[flight.id]
        now_s, recalled = self.now_s, self.recalled
        for account, post in zip(accounts, posts, strict=True):
            if account.dropped:  # nothing was held on it
                account = self.account((post.counter, post.window, post.unit))
            held = account.held = account.held - post.held
            pending = account.pending = account.pending + post.amount
            account.used_at = now_s
            if account.authority < held + pending:
                self.cover(account)
            elif account.exact or (recalled and account.key in recalled):
                self._trim(account)

    def booked(self, posts: Mapping[CounterKey, int]) -> None:
        """The ledger has these amounts now: they need no authority any more."""
        find, dirty = self.accounts.get, self._dirty
        for key, amount in posts.items():
            account = find(key) or self.account(key)
            pending = account.pending = account.pending - amount
            authority, used = account.authority - amount, account.held + pending
            account.authority = authority if authority > used else used
            dirty[key] = account

    def unbooked(self, posts: Mapping[CounterKey, int]) -> None:
        """Undo ``booked``: the store could not be told."""
        for key, amount in posts.items():
            account = self.account(key)
            account.pending += amount
            account.authority += max(0, amount)
            self.cover(account)

    def expire(self, now_ms: int) -> list[Reservation]:
        """Release what is past its time; a call that still settles is booked all the same."""
        if not self._expiries.any_due(now_ms):
            return []
        found = []
        for reservation_id in self._expiries.due(now_ms, self.open):
            flight = self.open.get(reservation_id)
            if flight is not None:
                self.release(flight)
                self.bury(Tombstone(flight.reservation, (), None))
                found.append(flight.reservation)
        return found

    # Sharing

    def account(self, key: CounterKey) -> Account:
        """This worker's side of a counter."""
        account = self.accounts.get(key)
        if account is None:
            account = self.accounts[key] = Account(key, self.now_s)
        return account

    def cover(self, account: Account) -> None:
        """What was spent or held anyway is covered, and the store learns it."""
        if account.authority < account.held + account.pending:
            account.authority = account.held + account.pending
            self.urgent = True
            self._mark(account)

    def answer(self, recalls: Mapping[CounterKey, tuple[int, int]]) -> list[Reservation]:
        """Give back what is not in use on recalled counters; what has expired on the way."""
        self.recalled = {key: number for key, (number, _) in recalls.items()}
        expired: list[Reservation] = []
        for key, (number, now_ms) in recalls.items():
            account = self.accounts.get(key)
            if account is not None and account.answered < number and not account.busy:
                expired += self.expire(now_ms)
                account.authority = account.used
                account.answered = number
                self._mark(account)
        return expired

    def shares(self, booked: Mapping[CounterKey, Posted]) -> list[Share]:
        """What the store does not know yet, with what is booked there.

        Accounts that a grant is on its way for are told by that.
        """
        marked, self._dirty = self._dirty, {}
        self.urgent = False
        find = booked.get
        return [Share(key, one.authority, one.answered, find(key)) for key, one in marked.items()]

    def untold(self, told: Iterable[Share | Want]) -> None:
        """What the store has made of this is not known: it is told how things are, later."""
        for one in told:
            self._mark(self.account(one.key))

    def in_use(self) -> list[Share]:
        """All that is in use, for a store that has forgotten; more than that is given up."""
        self._dirty = {}
        for account in self.accounts.values():
            account.authority = account.used
            account.limit = None
            account.answered = 0
        return [Share(key=one.key, authority=one.used) for one in self.accounts.values() if one.used]

    def drop_idle(self) -> bool:
        """Give back what nobody uses; forget what was given back. True: there are too many, look again soon."""
        many = len(self.accounts) > ACCOUNTS_MAX
        due = self.now_s - (1.0 if many else IDLE_S)
        for account in list(self.accounts.values()):
            if (
                account.held == 0 == account.pending
                and account.used_at < due
                and not account.busy
                and not account.claims
            ):
                if account.authority:
                    account.authority = 0
                    self._mark(account)
                elif account.key not in self._dirty:
                    account.dropped = True
                    del self.accounts[account.key]
        return many

    @property
    def news(self) -> bool:
        """The store does not know everything."""
        return bool(self._dirty)

    def _trim(self, account: Account) -> None:
        if account.authority > account.used and not account.busy:
            account.authority = account.used
            self._mark(account)

    def _mark(self, account: Account) -> None:
        self._dirty[account.key] = account

    def _left(self, grant: Grant, hold: Hold, needed: Mapping[CounterKey, int]) -> int:
        """What is left of the limit; the room is the limit less what is booked and what others have authority for."""
        left = grant.room
        for key in counted_keys(hold):
            account = self.accounts.get(key)
            left -= needed.get(key, 0) + (0 if account is None else account.used)
        return left


def _covers(account: Account, hold: Hold, need: int) -> bool:
    """Authority that is surely there is enough."""
    if account.busy or hold.also or account.limit != hold.limit:
        return False
    free = account.authority - account.held - account.pending
    return need <= free and free > 0


def posts_of(settlement: Settlement, deltas: Sequence[int]) -> tuple[Post, ...]:
    """What a settlement adds to each counter."""
    if settlement.reservation is None:
        return ()
    posts = []
    for hold, delta in zip(settlement.reservation.holds, deltas, strict=True):
        if delta:
            resets_at_ms = hold.resets_at_ms
            ends_at_ms = 0 if resets_at_ms is None else resets_at_ms + (_SPANNING_MS if hold.also else _LATE_MS)
            posts.append(Post(hold.counter, hold.window, hold.unit, delta, hold.amount, ends_at_ms))
    return tuple(posts)
