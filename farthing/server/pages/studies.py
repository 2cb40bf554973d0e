"""Questions that read a whole traffic log or bill: each in a process of its own, one at a time, the answer kept.

A page waits for a moment, then says that the answer is being worked out; it asks again by itself. The process has a
low priority, a limit of CPU and no way to write anything but its answer.
"""

import logging
import multiprocessing
import os
import resource
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final, cast

import msgspec

from farthing.core.bill import Reconciliation
from farthing.core.errors import BadRequest, FarthingError, RequestError, StoreFailed
from farthing.insight.billed import Kind
from farthing.insight.gathering import Gathered
from farthing.lab.checkup import Checkup
from farthing.lab.optimize import Examined
from farthing.lab.route_use import Use
from farthing.server.pages.state import Where

WAIT_S: Final = 2.5
"""How long a page waits before it says that it goes on."""
WAITS_MAX: Final = 2
"""Waits begun within :data:`CALM_S`: beyond, and beyond two at once, nobody waits, so that a flood of questions
leaves threads to the other pages."""
CALM_S: Final = 10.0
KEEP_S: Final = 300.0
REFUSED_S: Final = 10.0
"""How long it is remembered that nothing came out: a page that asks again at once must be told the same."""
STEP_MS: Final = 300_000
CPU_S: Final = 600
ANSWERS_MAX: Final = 32
WAITING_MAX: Final = 6

_LOG = logging.getLogger("farthing.server.pages")


class AskOpportunities(msgspec.Struct, frozen=True, kw_only=True):
    """What could cost less."""

    since_ms: int
    until_ms: int | None
    where: Where


class AskCheckup(msgspec.Struct, frozen=True, kw_only=True):
    """Why prompts were not read from the provider's cache."""

    since_ms: int
    until_ms: int | None
    where: Where


class AskRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """What routes did."""

    since_ms: int
    until_ms: int | None
    where: Where


class AskBill(msgspec.Struct, frozen=True, kw_only=True):
    """A bill beside the ledger."""

    kind: Kind
    file: str
    since_ms: int
    until_ms: int
    columns: Where = ()
    where: Where = ()


class AskProof(msgspec.Struct, frozen=True, kw_only=True):
    """What was saved, measured, exact and modelled."""

    since_ms: int
    until_ms: int | None
    where: Where
    experiment: str = ""
    """Only this one; empty: all of the period."""


Question = AskOpportunities | AskCheckup | AskRoutes | AskBill | AskProof
Work = Callable[[Question, int], object]
"""(question, now) -> answer; it is sent to another process, so it is a function of a module."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came out, and when it was asked."""

    found: object
    at_ms: int


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing came out."""

    message: str
    hint: str = ""
    callers: bool = False
    """The question was wrong, not the machine."""


class Studies:
    """Any thread may ask."""

    def __init__(self, work: Work, now_ms: Callable[[], int]) -> None:
        self._work = work
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._one = threading.Lock()
        self._kept: OrderedDict[Question, tuple[float, Answer | Refused]] = OrderedDict()
        self._waiting: dict[Question, threading.Event] = {}
        self._waits: deque[float] = deque(maxlen=WAITS_MAX)
        self._seats = threading.Semaphore(2)

    def opportunities(self, question: AskOpportunities) -> tuple[Examined, int] | None:
        """(what could cost less, when that was asked); None: it is being worked out. Raises ``FarthingError``."""
        answer = self._ask(question)
        return None if answer is None else (cast(Examined, answer.found), answer.at_ms)

    def checkup(self, question: AskCheckup) -> tuple[Checkup, int] | None:
        """The cache doctor's; see :meth:`opportunities`."""
        answer = self._ask(question)
        return None if answer is None else (cast(Checkup, answer.found), answer.at_ms)

    def routes(self, question: AskRoutes) -> tuple[tuple[Use, ...], int] | None:
        """What routes did; see :meth:`opportunities`."""
        answer = self._ask(question)
        return None if answer is None else (cast(tuple[Use, ...], answer.found), answer.at_ms)

    def bill(self, question: AskBill) -> tuple[Reconciliation, int] | None:
        """A bill beside the ledger; see :meth:`opportunities`."""
        answer = self._ask(question)
        return None if answer is None else (cast(Reconciliation, answer.found), answer.at_ms)

    def proof(self, question: AskProof) -> tuple[Gathered, int] | None:
        """What was saved; see :meth:`opportunities`."""
        answer = self._ask(question)
        return None if answer is None else (cast(Gathered, answer.found), answer.at_ms)

    def _ask(self, question: Question) -> Answer | None:
        question = _steady(question)
        with self._lock:
            known = self._known(question)
            if known is None:
                ended = self._waiting.get(question)
                if ended is None and len(self._waiting) < WAITING_MAX:
                    ended = self._waiting[question] = threading.Event()
                    threading.Thread(target=self._study, args=(question, ended), name="study", daemon=True).start()
        if known is None and ended is not None and self._waited(ended):
            with self._lock:
                known = self._known(question)
        if isinstance(known, Refused):
            raise (BadRequest if known.callers else StoreFailed)(known.message, hint=known.hint)
        return known

    def _waited(self, ended: threading.Event) -> bool:
        """Waits a moment, unless many do; True: it has ended."""
        now = time.monotonic()
        busy = len(self._waits) == WAITS_MAX and now - self._waits[0] < CALM_S
        if busy or not self._seats.acquire(blocking=False):
            return ended.is_set()
        try:
            self._waits.append(now)
            return ended.wait(WAIT_S)
        finally:
            self._seats.release()

    def _known(self, question: Question) -> Answer | Refused | None:
        found = self._kept.get(question)
        if found is None or found[0] < time.monotonic():
            return None
        return found[1]

    def _study(self, question: Question, ended: threading.Event) -> None:
        result: Answer | Refused = Refused(message="This could not be worked out.", hint="See the gateway's log.")
        try:
            with self._one:
                result = self._in_process(question)
        except OSError as error:
            _LOG.error("a study could not be started: %s", error)
        finally:
            with self._lock:
                keep_s = REFUSED_S if isinstance(result, Refused) else KEEP_S
                self._kept[question] = (time.monotonic() + keep_s, result)
                self._kept.move_to_end(question)
                while len(self._kept) > ANSWERS_MAX:
                    self._kept.popitem(last=False)
                self._waiting.pop(question, None)
            ended.set()

    def _in_process(self, question: Question) -> Answer | Refused:
        at_ms = self._now_ms()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(theirs, self._work, question, at_ms), daemon=True)
        process.start()
        theirs.close()
        try:
            answer = ours.recv()
        except EOFError:
            process.join()
            _LOG.error("a study ended without an answer, exit code %s: %r", process.exitcode, question)
            return Refused(message="This took more than it may, or failed.", hint="Choose a shorter period.")
        finally:
            ours.close()
            process.join()
        return answer if isinstance(answer, Refused) else Answer(found=answer, at_ms=at_ms)


def _steady(question: Question) -> Question:
    """The question with its ends on steps of time, so that the last 24 hours are the same question a moment later."""
    since_ms, until_ms = question.since_ms, question.until_ms
    return msgspec.structs.replace(
        question,
        since_ms=since_ms - since_ms % STEP_MS,
        until_ms=None if until_ms is None else until_ms - until_ms % STEP_MS,
    )


def _child(pipe: Connection, work: Work, question: Question, now_ms: int) -> None:
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    try:
        pipe.send(work(question, now_ms))
    except FarthingError as error:
        pipe.send(Refused(message=error.message, hint=error.hint, callers=isinstance(error, RequestError)))
    finally:
        pipe.close()
