"""What errors say to people."""

import pytest

from farthing.adapters import http_connection, http_library
from farthing.config import grammar
from farthing.core.errors import TimedOut
from farthing.core.types import Denied, Hold
from farthing.engine.messages import budget_exceeded


@pytest.mark.parametrize(
    ("message", "hint", "said"),
    [
        ("It took 3 s", "Wait longer.", "It took 3 s. Wait longer."),
        ("It took 3 s.", "Wait longer.", "It took 3 s. Wait longer."),
        ("It took 3 s", "", "It took 3 s"),
    ],
)
def test_a_message_and_its_hint_are_sentences_of_their_own(message, hint, said):
    assert str(TimedOut(message, hint=hint)) == said


@pytest.mark.parametrize("module", [http_connection, http_library])
def test_the_hint_of_a_slow_answer_names_a_setting_that_exists(module):
    assert module._SLOW_HINT.startswith("Raise limits.")
    assert module._SLOW_HINT.split()[1].removeprefix("limits.") in grammar.LIMITS


def denied(also=(), resets_at_ms: int | None = 3_600_000):
    hold = Hold(
        counter="b", window="w", unit="requests", limit=2, amount=1, budget="b", resets_at_ms=resets_at_ms, also=also
    )
    return str(budget_exceeded(Denied(id="r", hold=hold, left=0), 0))


def test_a_refusal_says_when_a_limit_frees_and_what_helps():
    assert "this call can need 1 request; it resets at 1970-01-01T01:00:00Z" in denied()
    assert "it frees as use grows old, the last of it at 1970-01-01T01:00:00Z" in denied(also=("v",))
    assert denied(resets_at_ms=None).endswith(
        "it never resets by itself. Add credit or raise the budget; retrying will not help."
    )
    assert "Wait until the limit begins anew" in denied()
