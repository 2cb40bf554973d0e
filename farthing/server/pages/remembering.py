"""Answers that are kept for a while; who asks the same at the same time waits for the one who asked first."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

LIVE_S: Final = 2.0
"""How long the answer about today is kept, or this many times what it took:"""
LIVE_FACTOR: Final = 20
LIVE_MAX_S: Final = 30.0
ANSWERS_MAX: Final = 512

Question = TypeVar("Question", bound=Hashable)
Answer = TypeVar("Answer")


class Remembering(Generic[Question, Answer]):
    """Any thread."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Question, tuple[float, Answer]] = OrderedDict()
        self._asking: dict[Question, threading.Lock] = {}
        self._lock = threading.Lock()

    def ask(self, question: Question, read: Callable[[], Answer], *, keep_s: float | None = None) -> Answer:
        """The answer, read unless it is known. ``keep_s``: how long it is kept; None: the longer the more it took."""
        with self._lock:
            known = self._answers.get(question)
            asking = self._asking.setdefault(question, threading.Lock())
        if known is not None and known[0] > time.monotonic():
            return known[1]
        with asking:
            with self._lock:
                known = self._answers.get(question)
            if known is not None and known[0] > time.monotonic():
                return known[1]
            began = time.monotonic()
            answer = read()
            took = time.monotonic() - began
        keep = min(LIVE_MAX_S, max(LIVE_S, LIVE_FACTOR * took)) if keep_s is None else keep_s
        with self._lock:
            self._answers[question] = (time.monotonic() + keep, answer)
            self._answers.move_to_end(question)
            while len(self._answers) > ANSWERS_MAX:
                self._asking.pop(self._answers.popitem(last=False)[0], None)
        return answer
