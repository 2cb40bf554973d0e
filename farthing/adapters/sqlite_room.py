"""Room on counters: the authority this worker takes for its calls, gives back to others, and asks them for."""

import heapq
import sqlite3
import time
from functools import cache, partial
from typing import Final

from farthing.adapters.memory import CounterKey, counted_keys
from farthing.adapters.sqlite_group import Account, Group, Reserve
from farthing.adapters.sqlite_known import KnownCounters
from farthing.adapters.sqlite_recovery import Recovery
from farthing.adapters.sqlite_runs import in_runs, in_runs_by_window
from farthing.core.errors import StoreUnavailable
from farthing.core.types import Hold

PART_KEPT_MS: Final = 3_600_000
"""How long a part of a rolling window is kept after it counts no more, for calls that settle late."""

RECALL_WAIT_S: Final = 4.0
"""How long a call waits for other living workers to give back what they do not need, before it is refused."""

_SELECT_OTHERS: Final = """
    SELECT worker, posted, authority, tight FROM shares
    WHERE counter = ? AND "window" = ? AND unit = ? AND worker <> ?
"""
_SELECT_SUM: Final = """
    SELECT coalesce(sum(posted + authority), 0) FROM shares
    WHERE counter = ? AND "window" = ? AND unit = ? AND worker <> ?
"""
_SELECT_WINDOWS: Final = """
    SELECT "window", worker, posted, authority, tight FROM shares
    WHERE counter = ? AND "window" IN ({marks}) AND unit = ? AND worker <> ?
"""


class Room:
    """This worker's authority over all counters. Owned by the writer thread, like the desk whose accounts it uses."""

    def __init__(self, worker: str, accounts: dict[CounterKey, Account], recovery: Recovery) -> None:
        self.recalled: set[CounterKey] = set()
        """Counters on which other workers are short: no slices there, and what is not held goes back."""
        self._worker = worker
        self._accounts = accounts
        self._recovery = recovery
        self._asked: set[CounterKey] = set()
        """Counters for which this worker has a row in ``recalls``."""
        self._parts: list[tuple[int, CounterKey]] = []
        """Parts of rolling windows, a heap by the time from which on nobody asks for them."""
        self.alone = False
        """This worker is the only one, and stands in the file as such."""
        self.cleared = False
        """No other worker stands there as the only one, and none will while this one is registered."""
        self.reader: sqlite3.Connection | None = None
        """Looks up counters on the event loop."""
        self.known: KnownCounters | None = None
        """Alone: what stands in the file, so that counters need no look-up."""

    # Company

    def may_decide(self, group: Group) -> bool:
        """False while another worker still decides alone; one that has died is recovered."""
        if self.alone or self.cleared:
            return True
        group.begin()
        row = group.connection.execute("SELECT worker FROM alone WHERE worker <> ?", (self._worker,)).fetchone()
        if row is None or self._recovery.of_dead({row[0]}, group):
            group.after.append(self._clear)
            return True
        return False

    def take_over(self, group: Group) -> bool:
        """Recover workers that have died, with this group; True if there were any."""
        rows = group.connection.execute("SELECT worker FROM workers WHERE worker <> ?", (self._worker,)).fetchall()
        return self._recovery.of_dead({worker for (worker,) in rows}, group)

    def _clear(self, committed: bool) -> None:
        self.cleared = self.cleared or committed

    def stuck(self) -> StoreUnavailable:
        """What to answer when the worker that was alone does not react."""
        return StoreUnavailable(
            "Another worker on this ledger decides budgets alone and does not answer.",
            hint="Is it stopped or swapped out? End it, and its budgets are taken over.",
        )

    def look(self, account: Account) -> int:
        """Alone: what all others have booked on a counter; called on the event loop under the writer's lock."""
        if self.known is not None:
            found = self.known.booked(account.key)
            if found is not None:
                account.others = found
                return found
        assert self.reader is not None
        return self._looked(account, self.reader)

    def look_in(self, account: Account, group: Group) -> int:
        """The same, on the writer's thread."""
        if account.others is None:
            group.begin()
            return self._looked(account, group.connection)
        return account.others

    def _looked(self, account: Account, connection: sqlite3.Connection) -> int:
        (found,) = connection.execute(_SELECT_SUM, (*account.key, self._worker)).fetchone()
        account.others = others = int(found) + in_runs(connection, account.key)
        return others

    # Room

    def make(self, account: Account, hold: Hold, needed: dict[Account, int], group: Group) -> int | None:
        """Make room for a hold on top of what is held and ``needed``; None: done, else what is left of the limit."""
        if hold.also:
            return self._acquire_rolling(account, hold, needed, group)
        before = needed.get(account, 0)
        need = before + hold.amount
        if self.alone and not account.exact:
            left = hold.limit - self.look_in(account, group) - account.posted - account.held
            return None if need <= left else left - before
        free = account.authority - account.held
        if hold.limit == account.limit and need <= free and free > 0 and (hold.hard or account.fits(need)):
            return None
        lacks = self._acquire(account, hold, need, group)
        return None if lacks is None else lacks - before

    def _acquire(self, account: Account, hold: Hold, need: int, group: Group) -> int | None:
        """Take authority for ``need``, and some more where there is plenty; None: done, else what is left."""
        group.begin()
        rows = group.connection.execute(_SELECT_OTHERS, (*account.key, self._worker)).fetchall()
        others = sum(posted + authority for _, posted, authority, _ in rows)
        others += in_runs(group.connection, account.key)
        left: int = hold.limit - others - account.posted - account.held
        if need > left and self._recovery.of_dead({row[0] for row in rows} - {""}, group):
            return self._acquire(account, hold, need, group)
        group.touch(account)
        account.limit = hold.limit
        account.authority = account.held
        if need > left:
            return left
        scarce = account.exact or account.key in self.recalled
        extra = 0 if scarce else max(0, min(255 * max(1, need), (left - need) // 8))
        account.authority += need + extra
        return None

    def _acquire_rolling(self, account: Account, hold: Hold, needed: dict[Account, int], group: Group) -> int | None:
        """Take authority for one hold on a limit that spans several windows; None: done, else what is left.

        No slices: a sum over many windows is only exact while each worker's authority is what its calls hold. So
        every such hold looks into the file, inside the transaction that writes it.
        """
        group.begin()
        rows = self._others(hold, group)
        left: int = hold.limit - sum(posted + authority for _, _, posted, authority, _ in rows)
        for key in counted_keys(hold):
            mine = self._accounts.get(key)
            if mine is not None:
                left -= mine.posted + mine.held + needed.get(mine, 0)
                if mine.authority > mine.held:
                    group.touch(mine)
                    mine.authority = mine.held
        if hold.amount > left and self._recovery.of_dead({row[1] for row in rows} - {""}, group):
            return self._acquire_rolling(account, hold, needed, group)
        group.touch(account)
        if not account.exact and hold.resets_at_ms is not None:
            heapq.heappush(self._parts, (hold.resets_at_ms + PART_KEPT_MS, account.key))
        account.exact = True
        account.limit = hold.limit
        account.authority = account.held
        if hold.amount > left:
            return left
        account.authority += needed.get(account, 0) + hold.amount
        return None

    def _others(self, hold: Hold, group: Group) -> list[tuple[str, str, int, int, int]]:
        """(window, worker, posted, authority, tight) of other workers on what counts against a hold's limit."""
        windows = (hold.window, *hold.also)
        found: list[tuple[str, str, int, int, int]] = group.connection.execute(
            _select_windows(len(windows)), (hold.counter, *windows, hold.unit, self._worker)
        ).fetchall()
        in_runs = in_runs_by_window(group.connection, hold.counter, windows, hold.unit)
        return [*found, *((window, "", posted, 0, 1) for window, posted in in_runs)]

    def recall(self, hold: Hold, act: Reserve, group: Group) -> bool:
        """True while another worker may still give authority back and this act may still wait for it."""
        if self.alone:
            return False
        loose = {row[0] for row in self._others(hold, group) if row[3] > 0 and not row[4]}
        if not loose:
            return False
        if not self.patient(act):
            return False
        for key in sorted({(hold.counter, window, hold.unit) for window in loose} - self._asked):
            group.connection.execute("INSERT OR IGNORE INTO recalls VALUES (?, ?, ?, ?)", (*key, self._worker))
            self._asked.add(key)
            group.after.append(partial(self._ask_again, key))
        return True

    def patient(self, act: Reserve) -> bool:
        """The act may still wait for other workers."""
        now = time.monotonic()
        if act.deadline == 0.0:
            act.deadline = now + RECALL_WAIT_S
        return now < act.deadline

    def _ask_again(self, key: CounterKey, committed: bool) -> None:
        if not committed:
            self._asked.discard(key)

    def stop_asking(self, group: Group) -> None:
        """Withdraw this worker's recalls; called when nothing waits any more."""
        if self._asked:
            group.begin()
            asked, self._asked = self._asked, set()
            group.connection.execute("DELETE FROM recalls WHERE worker = ?", (self._worker,))
            group.after.append(lambda committed: None if committed else self._asked.update(asked))

    def answer_recalls(self, connection: sqlite3.Connection) -> bool:
        """Read what others ask for; True when this worker has something to give back, or may take slices again."""
        rows = connection.execute(
            'SELECT DISTINCT counter, "window", unit FROM recalls WHERE worker <> ?', (self._worker,)
        ).fetchall()
        self.recalled = set(rows)
        return any(self._surplus(key) for key in self.recalled)

    def give_back(self, group: Group) -> None:
        """Reduce the authority on recalled counters to what is held; the group's shares say so to the others."""
        for key in self.recalled:
            if self._surplus(key):
                account = self._accounts[key]
                group.begin()
                group.touch(account)
                account.authority = account.held

    def _surplus(self, key: CounterKey) -> bool:
        account = self._accounts.get(key)
        if account is None or account.limit is None:
            return False
        return account.authority != account.held or (account.written is not None and not account.written[2])

    def parts_over(self, now_ms: int, most: int) -> list[Account]:
        """Accounts of parts that count no more; each counter has a new one every few seconds."""
        over: list[Account] = []
        while self._parts and self._parts[0][0] <= now_ms and len(over) < most:
            account = self._accounts.get(heapq.heappop(self._parts)[1])
            if account is not None and account.held == 0 and account.group is None:
                over.append(account)
        return over


@cache
def _select_windows(count: int) -> str:
    return _SELECT_WINDOWS.format(marks=", ".join("?" * count))
