"""Long questions of the dashboard: in processes of their own, kept, refused in words, and never in others' way."""

import os
import time

import pytest

from farthing.core.errors import BadRequest, StoreFailed
from farthing.server.pages import studies
from farthing.server.pages.studies import AskOpportunities, Question, Studies

PARENT = os.getpid()


def work(question: Question, now_ms: int) -> object:
    """What the process of a study runs here: the filter says what happens."""
    assert isinstance(question, AskOpportunities)
    what = dict(question.where).get("do", "")
    if what == "sleep":
        time.sleep(question.since_ms / 1000)
    if what == "die":
        os._exit(3)
    if what == "wrong":
        raise BadRequest("This cannot be asked.", hint="Ask another way.")
    if what == "broken":
        raise StoreFailed("The book is gone.")
    return (os.getpid(), now_ms, os.nice(0))


def asked(what: str = "", since_ms: int = 0) -> AskOpportunities:
    return AskOpportunities(since_ms=since_ms, until_ms=None, where=(("do", what),))


def answer(one: Studies, question: AskOpportunities) -> object:
    due = time.monotonic() + 30
    while time.monotonic() < due:
        found = one.opportunities(question)
        if found is not None:
            return found
        time.sleep(0.05)
    raise AssertionError("no answer came")


def test_a_question_is_answered_by_another_process_of_low_priority_and_kept() -> None:
    moments = iter((1_000, 2_000, 3_000))
    one = Studies(work, lambda: next(moments))
    (pid, now_ms, nice), at_ms = answer(one, asked())
    assert pid != PARENT
    assert (now_ms, at_ms) == (1_000, 1_000)
    assert nice >= 10
    assert answer(one, asked()) == ((pid, 1_000, nice), 1_000)
    assert answer(one, asked(since_ms=5)) == ((pid, 1_000, nice), 1_000)  # the same five minutes
    assert answer(one, asked(since_ms=studies.STEP_MS))[1] == 2_000


@pytest.mark.parametrize(
    ("what", "kind", "said"),
    [
        ("wrong", BadRequest, "This cannot be asked."),
        ("broken", StoreFailed, "The book is gone."),
        ("die", StoreFailed, "took more than it may, or failed"),
    ],
)
def test_what_goes_wrong_is_said_to_whoever_asks_and_tried_only_once_for_them(what, kind, said) -> None:
    tries: list[int] = []
    one = Studies(work, lambda: tries.append(1) or 0)
    for _ in range(3):
        with pytest.raises(kind, match=said):
            answer(one, asked(what))
    assert len(tries) == 1


def test_nobody_waits_long_and_a_flood_of_questions_is_not_taken_in() -> None:
    one = Studies(work, lambda: 0)
    began = time.monotonic()
    assert one.opportunities(asked("sleep", studies.STEP_MS)) is None
    assert time.monotonic() - began < studies.WAIT_S + 1.5
    answers = [one.opportunities(asked(since_ms=number * studies.STEP_MS)) for number in range(1, 40)]
    assert answers == [None] * 39
    assert time.monotonic() - began < studies.WAIT_S * studies.WAITS_MAX + 3
