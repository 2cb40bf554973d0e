"""What changing the model within a conversation loses of the prompt cache: savings are net of it.

Had every turn gone to the model that was asked for, that model would have read the conversation so far from its
cache. The first turn on another model reads nothing, and neither does the first one back: the baseline of such a turn
is what the asked-for model would have cost with its cache warm.
"""

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import msgspec

from farthing.core.prefix_cache import ANTHROPIC_5M, OPENAI_AUTO, CacheRule
from farthing.core.types import PromptView, ProviderDialect, Usage, UsagePart
from farthing.core.units import INPUT, INPUT_CACHE_READ, INPUT_CACHE_WRITE, INPUT_UNITS

if TYPE_CHECKING:
    from farthing.engine.attempt import Attempt
    from farthing.engine.call import Call

TURNS_MAX: Final = 50_000


class Prefixes:
    """The last turn of each conversation, as this worker has seen it; bounded."""

    def __init__(self) -> None:
        self._turns: OrderedDict[str, tuple[str, int, int]] = OrderedDict()

    def turn(self, talk: str, model: str, tokens: int, *, at_ms: int) -> tuple[int, int]:
        """Notes a turn of ``tokens`` input; (input tokens of the one before on another model, how long ago in ms).

        (0, 0): the turn before was on the same model, or there was none.
        """
        before = self._turns.get(talk)
        self._turns[talk] = (model, tokens, at_ms)
        self._turns.move_to_end(talk)
        if len(self._turns) > TURNS_MAX:
            self._turns.popitem(last=False)
        if before is None or before[0] == model:
            return 0, 0
        return before[1], at_ms - before[2]


def note_turn(call: "Call", prefixes: Prefixes, attempt: "Attempt", usage: Usage) -> int:
    """Notes a conversation's turn; the tokens that a change of its model left unread in the prompt cache."""
    request, asked = call.request, call.plan.asked or call.plan.targets[0]
    tokens, at_ms = input_of(usage), request.received_at_ms
    before, ago_ms = prefixes.turn(call.plan.talk, attempt.target.model, tokens, at_ms=at_ms)
    if not before or attempt.ask.marked:
        return 0
    speaks = call.services.upstreams[asked.provider].speaks or request.dialect
    lost = unread(usage, before, ago_ms, cache_rule(request.view, speaks, asked.model))
    if lost:
        call.note("route", "switch", "cache_lost", (("tokens", str(lost)), ("of", asked.model)))
    return lost


def input_of(usage: Usage) -> int:
    """All input tokens, cached or not."""
    return sum(many for part in usage.parts for unit, many in part.lines if unit in INPUT_UNITS)


def unread(usage: Usage, before: int, ago_ms: int, rule: CacheRule | None) -> int:
    """Tokens that the asked-for model would have read from its cache beyond what this turn read; None: no cache."""
    if rule is None or before < rule.minimum_tokens or ago_ms >= rule.ttl_ms or len(usage.parts) != 1:
        return 0
    held = min(before, input_of(usage))
    held -= (held - rule.minimum_tokens) % rule.step_tokens
    read = sum(many for unit, many in usage.parts[0].lines if unit == INPUT_CACHE_READ)
    return max(0, held - read)


def with_read(usage: Usage, tokens: int) -> Usage:
    """The usage as if so many more tokens had been read from the cache instead of written to it or sent plain."""
    (part,) = usage.parts
    left = tokens
    lines = []
    for unit, many in sorted(part.lines, key=lambda line: not line[0].startswith(INPUT_CACHE_WRITE)):
        taken = min(left, many) if unit == INPUT or unit.startswith(INPUT_CACHE_WRITE) else 0
        left -= taken
        if unit != INPUT_CACHE_READ and many > taken:
            lines.append((unit, many - taken))
    read = sum(many for unit, many in part.lines if unit == INPUT_CACHE_READ) + tokens - left
    return msgspec.structs.replace(usage, parts=(_replaced(part, (*lines, (INPUT_CACHE_READ, read))),))


def _replaced(part: UsagePart, lines: tuple[tuple[str, int], ...]) -> UsagePart:
    return msgspec.structs.replace(part, lines=lines)


def cache_rule(view: PromptView, asked: ProviderDialect, model: str) -> CacheRule | None:
    """How the asked-for model's provider caches; None: nothing would have been cached."""
    if asked == "openai":
        return OPENAI_AUTO.of(model)
    return ANTHROPIC_5M.of(model) if asked in ("anthropic", "bedrock") and view.cache_marks else None
