"""The writer: one thread that decides and commits whatever has queued up, one transaction for all of it.

Callers wait for the commit that carries their act; while one commit is on its way to the disk the next group gathers.
A group that fails because the file cannot be written is undone and every caller is told; one that fails over its
content is repeated act by act, so that only the act at fault gets the error.
"""

import asyncio
import collections
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from pathlib import Path
from typing import Final, cast

from farthing.adapters.memory import CounterKey, counter_key
from farthing.adapters.sqlite_desk import Desk
from farthing.adapters.sqlite_group import Act, Group, Reserve, Settle, Task
from farthing.adapters.sqlite_journal import HoldJournal
from farthing.adapters.sqlite_rows import Row
from farthing.adapters.sqlite_schema import Durability, store_error
from farthing.core.errors import FarthingError, StoreUnavailable
from farthing.core.types import Denied, Held, Reservation

POLL_S: Final = 0.02
"""How often the writer looks for recalls by other workers, busy or idle."""

WAITING_POLL_S: Final = 0.002
ECHO_S: Final = 0.005
"""How long the writer waits, at most, for callers that it has just answered to go on: what they ask for next belongs
into the group that is gathering. Else callers fall into two halves, each waiting for the commit of the other."""

LINGER_S: Final = 0.05
"""Relaxed durability: how long acts gather before they are written."""

RECOVERY_S: Final = 1.0
"""How often a worker looks whether others have died, and books what they had in flight."""

RETRY_S: Final = 0.25
"""Pause before acts that were answered already are tried again on a file that cannot be written."""

_log: Final = logging.getLogger("farthing.books")

GROUP_MAX: Final = 2_048
_CONTENT: Final = (
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    OverflowError,
    ValueError,
)
"""Failures of what is written, not of where: the same act would fail again."""


class Writer:
    """Takes acts from the event loop, answers them after their commit."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        desk: Desk,
        journal: HoldJournal,
        *,
        durability: Durability,
        name: str,
    ) -> None:
        self.lock = threading.Lock()
        """Held while accounts change in memory; never during a commit."""
        self.unwritten = 0
        """Acts that are answered but not yet on disk."""
        self.healthy = True
        """The last group could be written; while it could not, nothing is held without asking the file."""
        self._path = path
        self._connection = connection
        self._desk = desk
        self._journal = journal
        self._relaxed = durability == "relaxed"
        self._loop = asyncio.get_running_loop()
        self._queue: collections.deque[Act] = collections.deque()
        self._asked: collections.Counter[CounterKey] = collections.Counter()
        """Counters of which reservations that wait for their answer are short, with how many of them."""
        self._kicked = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._answering = False
        """Callers were answered and have not gone on yet."""
        self._stopping = False
        self._failure: BaseException | None = None
        self._group = Group(connection)
        self._group_since = 0.0
        self._waiting: list[Act] = []
        self._retry: list[Act] = []
        self._version = -1
        self._crowded = False
        """Other workers have come or gone while a group was gathering."""
        self._look_at = 0.0
        self._recover_at = 0.0
        self._inode = path.stat().st_ino
        self._thread = threading.Thread(target=self._run, name=f"farthing-books-{name}", daemon=True)

    # On the event loop

    def start(self) -> None:
        self._thread.start()

    def submit(self, act: Act) -> None:
        """Queue an act. Acts queued in one turn of the loop go into one group. Raises ``StoreUnavailable``."""
        if self._failure is not None or self._stopping:
            raise StoreUnavailable(
                f"The ledger {self._path} is closed.", hint="Restart Farthing; its log says why the writer stopped."
            ) from self._failure
        self._queue.append(act)
        if not self._kicked:
            self._kicked = True
            self._loop.call_soon(self._kick)

    async def ask(self, act: Reserve, future: "asyncio.Future[object]") -> Held | Denied:
        """Queue a reservation. Until it is answered, what it is short of is not given to one that comes later."""
        with self.lock:
            short = {*self._desk.short_of(act.reservation), *self._asked_of(act.reservation)}
        self.submit(act)
        self._asked.update(short)
        try:
            return cast(Held | Denied, await future)
        finally:
            for key in short:
                self._asked[key] -= 1
                if not self._asked[key]:
                    del self._asked[key]

    def _asked_of(self, reservation: Reservation) -> set[CounterKey]:
        """Counters of which somebody who came earlier is short."""
        return {counter_key(hold) for hold in reservation.holds} & self._asked.keys()

    def hold(self, reservation: Reservation, row: Row, now_ms: int) -> bool:
        """Hold at once if that is surely right, with its evidence in the journal; False: ask for it instead."""
        if not self.healthy or self._failure is not None or self._stopping:
            return False
        if self._asked and self._asked_of(reservation):
            return False
        with self.lock:
            try:
                if not self._desk.hold_at_once(reservation, row, now_ms):
                    return False
            except sqlite3.Error as error:
                raise self._unavailable(error) from error
            try:
                self._journal.hold(reservation.id, row)
            except OSError as error:
                self._desk.take_back(reservation)
                raise self._unavailable(error) from error
            except ValueError:  # text that is no UTF-8
                self._desk.take_back(reservation)
                raise
        return True

    async def stop(self) -> None:
        """Write what is queued, then end the thread. Raises ``StoreUnavailable`` when answered acts are lost."""
        self._stopping = True
        self._wake.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        if self._retry:
            raise StoreUnavailable(
                f"{len(self._retry)} acts could not be written to {self._path} before the end.",
                hint="See the log for the cause; reconcile with the provider's invoice.",
            )

    def _kick(self) -> None:
        self._kicked = False
        if self._queue and self._wake.empty():
            self._wake.put(None)

    def _resolve(self, answers: list[tuple[asyncio.Future[object], object]]) -> None:
        """Answer callers; they go on in the loop's next turn, and the writer after them."""
        for future, answer in answers:
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        self._loop.call_soon(self._echo)

    def _echo(self) -> None:
        self._answering = False
        self._wake.put(None)

    # On the writer's thread

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:
            self._failure = error
            raise
        finally:
            closed = StoreUnavailable(f"The ledger {self._path} was closed.", hint="Restart Farthing.")
            leftover = [*self._group.acts, *self._waiting, *self._retry, *self._queue]
            self._answer([(act, closed) for act in leftover if not act.answered])

    def _turn(self) -> bool:
        """Wait for acts, decide and commit them; False when stopped and everything is written."""
        last = self._stopping
        if self._answering and not last:
            self._let_them_go_on()
        if (self._retry or not self._queue) and not last:
            with contextlib.suppress(queue.Empty):
                self._wake.get(timeout=self._patience())
        if self._retry and not last and time.monotonic() < self._group_since:
            return True
        acts = [*self._retry, *self._waiting]
        self._retry, self._waiting = [], []
        while self._queue:
            acts.append(self._queue.popleft())
        self._serve(acts)
        return not (last and not self._queue and not self._waiting)

    def _let_them_go_on(self) -> None:
        end = time.monotonic() + ECHO_S
        with contextlib.suppress(queue.Empty):
            while self._answering and (left := end - time.monotonic()) > 0:
                self._wake.get(timeout=left)
        self._answering = False

    def _patience(self) -> float:
        if self._waiting:
            return WAITING_POLL_S
        if self._group.acts or self._retry:
            return max(0.001, self._group_since - time.monotonic())
        return POLL_S

    def _serve(self, acts: list[Act]) -> None:
        group = self._group
        if not group.acts:
            self._group_since = time.monotonic() + LINGER_S
        group.acts += acts
        try:
            self._look_around(group)
            if acts and not self._relaxed:
                group.begin()
            with self.lock:
                self._desk.room.give_back(group)
                self._desk.write_lasting(group)
                for act in acts:
                    self._decide(act, group)
            if not self._waiting:
                self._desk.room.stop_asking(group)
            if self._may_linger(group):
                self._answer_early(group)
                return
            self._finish(group)
        except _CONTENT as error:
            self._fail(group, error, by_content=True)
        except (sqlite3.Error, StoreUnavailable, OSError) as error:
            self._fail(group, error, by_content=False)

    def _finish(self, group: Group) -> None:
        """Write and commit the group, answer its callers, start the next one."""
        if not (group.acts or group.began):
            self.unwritten = 0
            return
        keeper = self._desk.keeper
        group.begin()
        self._journal_over(group.voided)
        group.write(self._desk.worker, self._desk.room.recalled, alone=self._desk.room.alone)
        moves = False
        if keeper.due():
            # Alone, what a fold reads changes in this thread only: calls are held meanwhile.
            with contextlib.nullcontext() if self._desk.room.alone else self.lock:
                keeper.fold(group)
            with self.lock:
                moves = keeper.fold_idle(group)
        # What moves from memory to the file must be seen in one place by who reads both.
        with self.lock if moves else contextlib.nullcontext():
            group.commit()
            if moves:
                self._settled(group)
        if not moves:
            with self.lock:
                self._settled(group)
        self._journal_over(group.over)
        self.healthy = True
        self._group = Group(self._connection)
        self._answer(group.answers)
        self.unwritten = 0

    def _settled(self, group: Group) -> None:
        group.settled()
        self._desk.keeper.note(group)

    def _journal_over(self, reservation_ids: list[str]) -> None:
        """Failing to write that a hold is over costs nothing but a look at the ledger when this worker has died."""
        try:
            with self.lock:
                self._journal.ended(reservation_ids)
        except OSError as error:
            _log.error("The hold journal beside %s cannot be written: %s", self._path, error)

    def _decide(self, act: Act, group: Group) -> None:
        """What the act comes to, as an answer; acts that must wait for other workers are kept for the next turn."""
        try:
            if isinstance(act, Settle):
                self._desk.settle(act, group)
                group.answers.append((act, None))
            elif isinstance(act, Reserve):
                answer = self._desk.reserve(act, group)
                if answer is None:
                    group.acts.remove(act)
                    self._waiting.append(act)
                else:
                    group.answers.append((act, answer))
            elif isinstance(act, Task):
                group.begin()
                group.answers.append((act, act.run(self._connection)))
        except FarthingError as error:
            if isinstance(error, StoreUnavailable):
                raise
            group.answers.append((act, error))

    def _may_linger(self, group: Group) -> bool:
        """Relaxed durability gathers longer, unless the group is open in the file, full, or late."""
        return (
            self._relaxed
            and not self._crowded
            and not self._stopping
            and not group.began
            and len(group.acts) < GROUP_MAX
            and time.monotonic() < self._group_since
            and all(act.answered or isinstance(act, Reserve) for act in group.acts)
        )

    def _answer_early(self, group: Group) -> None:
        early = [(act, answer) for act, answer in group.answers if not act.answered]
        group.answers = []
        self._answer(early)
        self.unwritten = len(group.acts)

    def _fail(self, group: Group, error: Exception, *, by_content: bool) -> None:
        """Undo the group; repeat it act by act when its content is at fault, else tell everybody."""
        acts = [*group.acts, *self._waiting]
        self._waiting = []
        self._group = Group(self._connection)
        try:
            with self.lock:
                group.roll_back()
        except sqlite3.Error as worse:
            error, by_content = worse, False
        if by_content:
            for act in acts:
                self._serve_alone(act)
            return
        self.healthy = False
        told = error if isinstance(error, StoreUnavailable) else self._unavailable(error)
        self._retry += [act for act in acts if act.answered]
        if self._retry:
            _log.error("%s %s %d acts wait to be written.", told.message, told.hint, len(self._retry))
        self.unwritten = len(self._retry)
        self._group_since = time.monotonic() + RETRY_S
        self._answer([(act, told) for act in acts if not act.answered])

    def _serve_alone(self, act: Act) -> None:
        group = Group(self._connection, careful=True)
        group.acts.append(act)
        try:
            group.begin()
            with self.lock:
                self._decide(act, group)
            self._journal_over(group.voided)
            group.write(self._desk.worker, self._desk.room.recalled, alone=self._desk.room.alone)
            group.commit()
            with self.lock:
                self._settled(group)
            self._journal_over(group.over)
        except _CONTENT as error:
            with self.lock:
                group.roll_back()
            self._answer([(act, ValueError(f"This cannot be booked: {error}."))])
        except (sqlite3.Error, StoreUnavailable, OSError) as error:
            self._fail(group, error, by_content=False)
        else:
            self._answer(group.answers)

    def _look_around(self, group: Group) -> None:
        """Every ``POLL_S``, and always while something waits: is the file still there, are other workers short?"""
        now = time.monotonic()
        if now < self._look_at and not self._waiting:
            return
        self._check_file()
        room = self._desk.room
        if room.known is not None and room.known.wanted and room.alone and not group.began:
            with self.lock:
                room.known.load()
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._crowded = group.began or bool(group.accounts)
            if self._crowded:  # first finish what was decided under the present company
                return
            with self.lock:
                self._desk.keeper.look(lambda: Group(self._connection))
            if self._desk.room.answer_recalls(self._connection):
                group.begin()
            self._version = version
        if not room.alone and now >= self._recover_at:
            self._recover_at = now + RECOVERY_S
            if room.take_over(group):
                group.after.append(self._look_again)
        self._look_at = now + POLL_S

    def _look_again(self, committed: bool) -> None:
        """The company has changed by this worker's own doing."""
        self._version = -1

    def _check_file(self) -> None:
        try:
            same = self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            same = False
        if not same:
            raise StoreUnavailable(
                f"The ledger {self._path} was deleted or replaced while Farthing runs.",
                hint="Put the file back, or restart Farthing to begin a new one.",
            )

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        if isinstance(error, sqlite3.Error):
            return store_error(self._path, error)
        return StoreUnavailable(
            f"The ledger {self._path} cannot be used: {error}.", hint="Check disk and permissions."
        )

    def _answer(self, answers: list[tuple[Act, object]]) -> None:
        """Resolve futures on the loop, all of a group in one call."""
        waiting = []
        for act, answer in answers:
            if not act.answered and act.future is not None:
                act.answered = True
                waiting.append((act.future, answer))
            elif isinstance(answer, Exception):
                _log.error("An act that was answered already cannot be booked: %s", answer)
        if waiting:
            self._answering = True
            try:
                self._loop.call_soon_threadsafe(self._resolve, waiting)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self._stopping = True
