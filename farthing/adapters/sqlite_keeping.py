"""Keeping the rows of counters: up to date, in bounded number, and in the form that the company of workers needs.

What is booked on counters is logged in ``posts`` with the entries, and brought into other tables now and then, many
at once. A worker that is the only one needs no rows of its own: it knows what is left of every limit, writes what it
booked into runs or the common share, and may forget any counter that is not in use. When another worker registers, it
writes a row for what its calls in flight hold, and from then on takes authority like everybody else.
"""

import sqlite3
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Final

from farthing.adapters.memory import CounterKey
from farthing.adapters.sqlite_group import Account, Group, fold_shares, insert_post, replace_shares
from farthing.adapters.sqlite_room import Room
from farthing.adapters.sqlite_runs import Place, Runs, Sizes

SAMPLES: Final = 16
"""Counters looked at for each part, to find where it begins."""

ALONE_MAX: Final = 8_192
"""Counters in memory up to which a worker whose company has left changes its rows; all calls wait for that."""

_DELETE_SHARE: Final = 'DELETE FROM shares WHERE counter = ? AND "window" = ? AND unit = ? AND worker = ?'
_COMPANY: Final = "SELECT coalesce(max(version), 0) FROM changes WHERE name = 'company'"
_LAST_POST: Final = "SELECT coalesce(max(seq), 0) FROM posts"
_DELETE_POSTS: Final = "DELETE FROM posts WHERE worker = ? AND seq <= ?"
_DELETE_POST: Final = "DELETE FROM posts WHERE seq = ?"
_REGISTER: Final = "INSERT INTO changes VALUES ('company', 1) ON CONFLICT (name) DO UPDATE SET version = version + 1"


def note_company(connection: sqlite3.Connection) -> int:
    """A worker registers; the new ``company_version``."""
    connection.execute(_REGISTER)
    return company_version(connection)


def company_version(connection: sqlite3.Connection) -> int:
    """Counts up when a worker registers."""
    (version,) = connection.execute(_COMPANY).fetchone()
    return int(version)


def others_of(connection: sqlite3.Connection, worker: str) -> bool:
    """Whether any other worker is registered."""
    return connection.execute("SELECT 1 FROM workers WHERE worker <> ? LIMIT 1", (worker,)).fetchone() is not None


Item = tuple[str, str, str, Account, int]
"""Window, counter, unit, their account, what is logged. Items sort as they stand in the file; no key comes twice."""


class Fold:
    """Logged amounts on their way into runs and ``shares``, a part with each group.

    A part is taken back in ``posts`` in the same transaction, so that rows and log add up at any moment, for whoever
    reads them and after a crash; when all is there, what was logged and taken back is deleted.
    """

    __slots__ = ("_later", "_now", "count", "last", "runs", "undone")

    def __init__(self, items: list[Item], last: int, runs: Runs, part: int) -> None:
        """``part``: how many are put into order at once, about."""
        self.runs = runs
        self.count = len(items)
        """How many are still to come."""
        self._now: list[Item] = []
        """The next of them, in order."""
        self._later = _parted(items, part)
        self.last = last
        """The newest row of ``posts`` that has something of it."""
        self.undone: list[int] = []
        """Rows of ``posts`` that take back what has arrived."""

    def next(self, most: int) -> list[Item]:
        """What comes now, in the order of the file."""
        while len(self._now) < most and self._later:
            self._now += sorted(self._later.pop())
        return self._now[:most]

    def came(self, count: int) -> None:
        """So many are in the file now."""
        del self._now[:count]
        self.count -= count

    def left(self) -> Iterator[Item]:
        """All that are still to come, in no order."""
        return chain(self._now, *self._later)


def _parted(items: list[Item], part: int) -> list[list[Item]]:
    """Parts by place, the last one first. Sorting all of them at once would keep the event loop from running."""
    if len(items) <= 2 * max(part, SAMPLES):
        return [items]
    step = max(1, len(items) // (len(items) // part * SAMPLES))
    bounds = sorted(items[::step])[SAMPLES::SAMPLES]
    parts: list[list[Item]] = [[] for _ in range(len(bounds) + 1)]
    for item in items:
        parts[bisect_right(bounds, item)].append(item)
    parts.reverse()
    return parts


class Keeper:
    """Owned by the writer thread, like the accounts. What it does to them in memory needs the writer's lock."""

    def __init__(self, worker: str, accounts: dict[CounterKey, Account], room: Room, sizes: Sizes) -> None:
        self._worker = worker
        self._sizes = sizes
        self._accounts = accounts
        self._room = room
        self._dirty: dict[Account, None] = {}
        """Accounts with something logged."""
        self._dirty_since = 0.0
        self._logged = 0
        """Amounts logged since then."""
        self._fold: Fold | None = None
        """What is being brought there."""
        self.company_version = 0
        """``company_version`` when this worker last looked."""

    def note(self, group: Group) -> None:
        """The group is on disk: remember what it logged."""
        if group.logged:
            if not self._dirty:
                self._dirty_since = time.monotonic()
            self._logged += len(group.logged)
            for account, _ in group.logged:
                if account.logged:
                    self._dirty[account] = None

    def due(self) -> bool:
        """Enough is logged, or for long enough; or some of it is on its way already."""
        many = len(self._dirty)
        sizes = self._sizes
        if self._fold is not None or many >= sizes.fold_accounts or self._logged >= sizes.fold_logged:
            return True
        return many > 0 and time.monotonic() - self._dirty_since >= sizes.fold_s

    def fold(self, group: Group, most: int | None = None) -> None:
        """Bring some of what is logged into runs and ``shares`` with this group; it is logged there no more."""
        group.begin()
        fresh = dict(group.logged)
        fold = self._fold or self._begin(group, fresh)
        part = fold.next(most or self._sizes.slice)
        common: list[Item] = []
        told: list[tuple[Account, int, tuple[int, int, bool]]] = []
        for item in part:
            account, amount = item[3], item[4]
            if account.exact or not self._room.alone:
                told.append((account, amount, account.row(fresh.get(account, 0) - amount, self._room.recalled)))
                continue
            if account.others is None:
                self._room.look_in(account, group)
            common.append(item)
        fold_shares(group.connection, fold.runs.write(group.connection, [(*one[:3], one[4]) for one in common]))
        replace_shares(group.connection, [(*one.key, self._worker, row[0], row[1], +row[2]) for one, _, row in told])
        undone = 0
        if len(part) == fold.count:
            group.connection.execute(_DELETE_POSTS, (self._worker, fold.last))
            group.connection.executemany(_DELETE_POST, [(number,) for number in fold.undone])
        else:
            undone = insert_post(group.connection, self._worker, [(*one[3].key, -one[4]) for one in part])
        group.after.append(partial(self._folded, fold, common, told, undone))

    def _begin(self, group: Group, fresh: Mapping[Account, int]) -> Fold:
        """All that is logged now."""
        items: list[Item] = []
        common: Counter[Place] = Counter()
        for account in {**self._dirty, **fresh}:
            amount = account.logged + fresh.get(account, 0)
            if amount:
                counter, window, unit = account.key
                items.append((window, counter, unit, account, amount))
                if not account.exact:
                    common[window, unit] += 1
        (last,) = group.connection.execute(_LAST_POST).fetchone()
        runs = Runs(group.connection, common if self._room.alone else {}, self._sizes)
        return Fold(items, last, runs, self._sizes.part)

    def _folded(
        self,
        fold: "Fold",
        common: Sequence[Item],
        told: Sequence[tuple[Account, int, tuple[int, int, bool]]],
        undone: int,
        committed: bool,
    ) -> None:
        if not committed:
            return
        for _, _, _, account, amount in common:
            account.logged -= amount
            account.posted -= amount
            account.others = (account.others or 0) + amount
            account.moving = False
        for account, amount, row in told:
            account.logged -= amount
            account.written = row
            account.moving = False
        if self._room.known is not None:
            self._room.known.add((account.key, amount) for _, _, _, account, amount in common)
        fold.came(len(common) + len(told))
        fold.runs.written()
        if self._fold is None:
            self._logged = 0
            for item in fold.left():
                item[3].moving = True
        fold.undone.append(undone)
        self._fold = fold if fold.count else None
        if not fold.count:
            self._dirty = {account: None for account in self._dirty if account.logged}
            self._dirty_since = time.monotonic()

    def fold_idle(self, group: Group) -> bool:
        """Give the oldest idle accounts back when there are too many; True if the file changes with that."""
        if len(self._accounts) <= self._sizes.accounts:
            return False
        idle = []
        for account in self._accounts.values():
            used = account.held or account.logged or account.moving or account.folding
            if not used and account.group is None:
                idle.append(account)
                if len(idle) == self._sizes.evicted:
                    break
        if self._room.alone:
            for account in idle:
                if not account.posted and not account.exact:
                    account.dropped = True
                    del self._accounts[account.key]
            return False
        self._give_back(idle, group)
        return True

    def remove(self, accounts: Sequence[Account], group: Group) -> None:
        """Drop the rows of counters that count no more."""
        group.begin()
        gone = [account for account in accounts if not account.logged and not account.moving]
        for account in gone:
            account.folding = True
        for worker in (self._worker, ""):
            group.connection.executemany(_DELETE_SHARE, [(*account.key, worker) for account in gone])
        group.after.append(partial(self._forget, gone))

    def _give_back(self, accounts: Sequence[Account], group: Group) -> None:
        """Move what these accounts booked to the common share and drop their rows. Nothing of it is logged."""
        group.begin()
        for account in accounts:
            account.folding = True
        written = [account for account in accounts if account.written is not None]
        fold_shares(group.connection, sorted((*one.key, one.posted) for one in accounts if one.posted))
        group.connection.executemany(_DELETE_SHARE, sorted((*one.key, self._worker) for one in written))
        group.after.append(partial(self._forget, accounts))

    def _forget(self, accounts: Sequence[Account], committed: bool) -> None:
        for account in accounts:
            account.folding = False
            if committed:
                account.dropped = True
                self._accounts.pop(account.key, None)

    # Company

    def look(self, run: Callable[[], Group]) -> None:
        """See whether others have come or all have left, and change accordingly."""
        connection = run().connection
        company = others_of(connection, self._worker)
        version = company_version(connection)
        if company and self._room.alone:
            self._part(run)
        elif self._room.alone and version != self.company_version:
            self._doubt()
        elif not company and not self._room.alone and len(self._accounts) <= ALONE_MAX:
            self._stay(run)
        self.company_version = version

    def stay_alone(self) -> None:
        """This worker is the only one, and the file says so."""
        self._room.alone = True

    def _doubt(self) -> None:
        """Somebody has registered, and may have booked something before leaving again: look everything up anew."""
        for account in self._accounts.values():
            account.others = None
        if self._room.known is not None:
            self._room.known.forget()

    def _part(self, run: Callable[[], Group]) -> None:
        """Another worker has registered: say what calls in flight hold, and be one of many."""
        if self._room.known is not None:
            self._room.known.forget()
        self._clear(run)
        group = run()
        group.begin()
        group.connection.execute("DELETE FROM alone WHERE worker = ?", (self._worker,))
        kept: dict[CounterKey, Account] = {}
        for account in self._accounts.values():
            if account.exact or account.held:
                kept[account.key] = account
                if not account.exact:
                    group.touch(account)
                    account.authority, account.limit = account.held, None
        group.after.append(partial(self._parted, kept))
        self._finish(group, alone=False)

    def _parted(self, kept: dict[CounterKey, Account], committed: bool) -> None:
        if committed:
            self._keep(kept)
            self._room.alone, self._room.cleared = False, True

    def _stay(self, run: Callable[[], Group]) -> None:
        """All other workers have left: give up the rows, and decide alone."""
        self._clear(run)
        group = run()
        group.begin()
        if others_of(group.connection, self._worker):
            group.roll_back()
            return
        ours = [account for account in self._accounts.values() if not account.exact]
        fold_shares(group.connection, sorted((*one.key, one.posted) for one in ours if one.posted))
        written = sorted((*one.key, self._worker) for one in ours if one.written is not None)
        group.connection.executemany(_DELETE_SHARE, written)
        group.connection.execute("INSERT OR REPLACE INTO alone VALUES (1, ?)", (self._worker,))
        group.after.append(self._stayed)
        self._finish(group, alone=True)

    def _stayed(self, committed: bool) -> None:
        if committed:
            for account in self._accounts.values():
                if not account.exact:
                    account.posted, account.authority, account.limit, account.written = 0, 0, None, None
            self._keep({one.key: one for one in self._accounts.values() if one.exact or one.held})
            self.stay_alone()

    def _keep(self, kept: dict[CounterKey, Account]) -> None:
        for account in self._accounts.values():
            account.dropped = True
        for account in kept.values():
            account.others, account.dropped = None, False
        self._accounts.clear()
        self._accounts.update(kept)

    def close(self, run: Callable[[], Group], *, clean: bool, group: Group) -> None:
        """Write the group, give everything back but what open reservations hold, and leave. ``run`` makes a group."""
        self._finish(group, alone=self._room.alone)
        if self._room.alone:
            self._part(run)
        self._clear(run)
        self._room.recalled = set()
        group = run()
        group.begin()
        for account in self._accounts.values():
            if account.held:
                group.touch(account)
                account.authority = account.held
        self._give_back([account for account in self._accounts.values() if not account.held], group)
        for table in ("workers", "recalls") if clean else ("recalls",):
            group.connection.execute(f"DELETE FROM {table} WHERE worker = ?", (self._worker,))
        self._finish(group, alone=False)

    def _clear(self, run: Callable[[], Group]) -> None:
        """Nothing is logged any more."""
        while self._dirty or self._fold is not None:
            group = run()
            self.fold(group, self._sizes.part)
            self._finish(group, alone=self._room.alone)

    def _finish(self, group: Group, *, alone: bool) -> None:
        try:
            group.write(self._worker, self._room.recalled, alone=alone)
            group.commit()
        except BaseException:
            group.roll_back()
            raise
        group.settled()
