"""What is remembered of questions that were answered from memory, so that the next equal one costs little.

Everything here can be worked out again; the memo is bounded and begins anew when it is full. A question is known by
all that its key is made of, bytes for bytes, so that nothing can be found under it that its key would not find.
"""

from dataclasses import dataclass
from typing import Final

from farthing.core.caching_key import telling_headers
from farthing.core.money import Nusd
from farthing.core.policy_cache import CacheRoute
from farthing.core.types import Scope, Target
from farthing.engine.caching_books import Fidelity, avoided_cost
from farthing.engine.call import Call
from farthing.engine.record import Prints
from farthing.ports.cache import StoredAnswer

QUESTIONS_MAX: Final = 2_048
BODY_MAX: Final = 16 * 1024
Question = tuple[str, str, Scope, Target, tuple[tuple[bytes, bytes], ...], bytes]


@dataclass(slots=True)
class Known:
    """A question that was answered from memory before."""

    partition: str
    key: str
    prints: Prints
    """What the traffic log keeps of its body."""
    answer: StoredAnswer | None = None
    second: int = -1
    avoided: Nusd | None = None
    fidelity: Fidelity = "unknown"
    """What ``answer`` saves in the second ``second``: prices change at whole seconds."""
    events: tuple[bytes, bytes] | None = None
    """``answer`` as a stream, when it is small and was asked for as one."""

    def saves(self, call: Call, answer: StoredAnswer) -> tuple[Nusd | None, Fidelity]:
        """``avoided_cost``, worked out once a second."""
        second = call.request.received_at_ms // 1000
        if answer is not self.answer or second != self.second:
            self.avoided, self.fidelity = avoided_cost(call, answer)
            if answer is not self.answer:
                self.events = None
            self.answer, self.second = answer, second
        return self.avoided, self.fidelity


class Memo:
    """Known questions by all that tells them apart."""

    def __init__(self) -> None:
        self._known: dict[Question, Known] = {}

    def find(self, call: Call, route: CacheRoute) -> tuple[Question, Known | None]:
        """(how the question is known, what is known of it)."""
        request, plan = call.request, call.plan
        question = (
            route.name,
            request.view.endpoint,
            request.scope,
            plan.targets[0],
            telling_headers(request),
            plan.body,
        )
        return question, self._known.get(question)

    def keep(self, question: Question, known: Known) -> None:
        """Remembers a question that has just been answered from memory."""
        if len(question[-1]) > BODY_MAX:
            return
        if len(self._known) >= QUESTIONS_MAX:
            self._known.clear()
        self._known[question] = known
