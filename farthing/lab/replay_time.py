"""Time for replay: an event loop that never waits.

Where a loop would sleep until its next timer, time jumps there. The pipeline runs on it unchanged, sleeps and
deadlines included, and always in the same order. It has no sockets and no threads: work for a thread is done at once.
"""

import asyncio
import contextvars
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar, cast

_MS = 1_000
ORDER_STEP = 1e-8
"""Seconds between two acts of the same millisecond, so that the order in which they happened is the order of time."""
ORDERS = 100_000
_T = TypeVar("_T")

Work = Coroutine[Any, Any, None] | None
"""Work that may wait; None: it is done, or goes on by :meth:`VirtualLoop.later`."""
_Timer = tuple[float, int, Callable[[Any], object], Any]
"""(loop time, number of its asking, what is called then, with what)."""
Arrival = tuple[float, Callable[[], Work]]
"""(loop time, what begins then)."""


class VirtualLoop:
    """An event loop whose clock starts at an instant and moves only when nothing is left to do before."""

    def __init__(self, start_ms: int) -> None:
        """``start_ms``: UTC milliseconds at which the loop's own clock reads zero."""
        self.start_ms = start_ms
        self.defect: BaseException | None = None
        """What a task raised that nobody awaits; it ends the run."""
        self._now = 0.0
        self._self = cast("asyncio.AbstractEventLoop", self)
        """It has what tasks and futures ask of a loop, and nothing else."""
        self._ready: deque[_Soon] = deque()
        self._seconds: dict[int, list[_Timer]] = {}
        """Timers of seconds to come, in any order: most are asked for long before, so that each is sorted once."""
        self._order: list[int] = []
        """These seconds, as a heap."""
        self._second = -1
        """The latest that has come."""
        self._due: list[_Timer] = []
        """What is left of it, the first last."""
        self._late: list[_Timer] = []
        """What was asked for since, for it or an earlier one; a heap."""
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # -- time

    def time(self) -> float:
        """Seconds since the start."""
        return self._now

    def now_ms(self) -> int:
        """UTC milliseconds; this makes the loop a ``Clock``."""
        return self.start_ms + int(self._now * _MS + 3e-6)

    def at(self, ms: int, order: int = 0) -> float:
        """The loop's time of an act in a millisecond; ``order`` is its number among all acts."""
        return (ms - self.start_ms) / _MS + (order % ORDERS) * ORDER_STEP

    async def until(self, when: float) -> None:
        """Returns when the clock has reached a loop time; at once when it has passed."""
        if when <= self._now:
            return
        future: asyncio.Future[None] = asyncio.Future(loop=self._self)
        self.later(when, _wake, future)
        await future

    def later(self, when: float, callback: Callable[[Any], object], argument: object) -> None:
        """Calls ``callback(argument)`` at a loop time; of two at the same time, the one that was asked for first."""
        self._count += 1
        self._push((when, self._count, callback, argument))

    def act(self, ms: int, order: int, callback: Callable[[Any], object], argument: object) -> None:
        """Calls ``callback(argument)`` at the time of an act (see :meth:`at`); at once when it has passed."""
        when = (ms - self.start_ms) / _MS + (order % ORDERS) * ORDER_STEP
        if when <= self._now:
            callback(argument)
            return
        self._count += 1
        second = int(when)
        if second in self._seconds:
            self._seconds[second].append((when, self._count, callback, argument))
        else:
            self._push((when, self._count, callback, argument))

    @property
    def tasks(self) -> int:
        """Tasks that have not ended."""
        return len(self._tasks)

    def jump(self, when: float) -> None:
        """Sets the clock, before anything has happened."""
        self._now = when

    def timers(self) -> list[tuple[float, Callable[..., object], object]]:
        """What is due, in order: (loop time, callback, argument)."""
        found = [timer for second in self._seconds.values() for timer in second]
        every = sorted((*self._due, *self._late, *found))
        return [(when, callback, argument) for when, _, callback, argument in every]

    # -- running

    def serve(self, arrivals: Iterator[Arrival]) -> None:
        """Begins each arrival at its time (they come in order), and returns when all have ended.

        Raises what a task raised, and ``RuntimeError`` when something waits for what will never happen.
        """
        self.serve_by(_begun, arrivals)

    def serve_by(self, begin: Callable[[_T], Work], arrivals: Iterator[tuple[float, _T]]) -> None:
        """The same for arrivals of one kind, which ``begin`` begins.

        Raises what a task raised, and ``RuntimeError`` when something waits for what will never happen.
        """
        before = events._get_running_loop()
        events._set_running_loop(self._self)
        try:
            self._serve(begin, arrivals)
        finally:
            events._set_running_loop(before)

    def _serve(self, begin: Callable[[_T], Work], arrivals: Iterator[tuple[float, _T]]) -> None:
        for at, what in arrivals:
            self._run_until(at)
            if at > self._now:
                self._now = at
            work = begin(what)
            if work is not None:
                self._tasks.add(asyncio.Task(self._watched(work), loop=self._self))
        self._run_until(float("inf"))
        if self.defect is not None:
            raise self.defect
        if self._tasks:
            raise RuntimeError(f"{len(self._tasks)} replayed requests wait for something that will never happen")

    def _run_until(self, at: float) -> None:
        """What is ready, and what is due before a loop time. Raises what a task raised."""
        ready = self._ready
        while True:
            if ready:
                self._run_ready()
            due = self._due
            if self._late or not due:
                due = self._next()
            if not due or due[-1][0] >= at:
                return
            when, _, callback, argument = due.pop()
            if when > self._now:
                self._now = when
            callback(argument)

    def _push(self, timer: "_Timer") -> None:
        second = int(timer[0])
        if second <= self._second:
            heapq.heappush(self._late, timer)
        elif second in self._seconds:
            self._seconds[second].append(timer)
        else:
            self._seconds[second] = [timer]
            heapq.heappush(self._order, second)

    def _next(self) -> list["_Timer"]:
        """What is due, the first last, where some came late or the second is over."""
        due, late = self._due, self._late
        if not due and not late and self._order:
            self._second = heapq.heappop(self._order)
            due = self._due = self._seconds.pop(self._second)
            due.sort(reverse=True)
        if late and not (due and due[-1] < late[0]):
            due.append(heapq.heappop(late))
        return due

    def _run_ready(self) -> None:
        ready = self._ready
        while ready:
            soon = ready.popleft()
            if soon.callback is not None:
                soon.context.run(soon.callback, *soon.args)
        if self.defect is not None:
            raise self.defect

    async def _watched(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except BaseException as error:  # noqa: BLE001  # a defect ends the replay, wherever it is
            self.defect = self.defect or error
        finally:
            task = asyncio.current_task(self._self)
            if task is not None:
                self._tasks.discard(task)

    def run_until_complete(self, future: Any) -> Any:
        """Runs one coroutine and what it starts."""
        made: list[Any] = []

        async def whole() -> None:
            made.append(await future)

        self.serve(iter([(self._now, whole)]))
        return made[0]

    # -- what asyncio asks of a loop

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        soon = _Soon(callback, args, context or contextvars.copy_context())
        self._ready.append(soon)
        return soon

    def call_later(self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        soon = _Soon(callback, args, context or contextvars.copy_context())
        self._count += 1
        self._push((when, self._count, self._ready.append, soon))
        return soon

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self._self)

    def create_task(self, coro: Any, **options: Any) -> "asyncio.Task[Any]":
        return asyncio.Task(coro, loop=self._self, **options)

    def run_in_executor(self, executor: Any, func: Callable[..., _T], *args: Any) -> "asyncio.Future[_T]":
        """Threads would decide the order; the work is done now."""
        future: asyncio.Future[_T] = asyncio.Future(loop=self._self)
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  # it belongs to whoever awaits the future
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.defect = self.defect or context.get("exception") or RuntimeError(str(context.get("message")))

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing to close."""


class _Soon:
    """A callback that may be cancelled."""

    __slots__ = ("args", "callback", "context")

    def __init__(self, callback: Any, args: tuple[Any, ...], context: contextvars.Context) -> None:
        self.callback = callback
        self.args = args
        self.context = context

    def cancel(self) -> None:
        self.callback = None

    def cancelled(self) -> bool:
        return self.callback is None


def _begun(arrival: Callable[[], Work]) -> Work:
    return arrival()


def _wake(future: Any) -> None:
    if not future.done():
        future.set_result(None)
