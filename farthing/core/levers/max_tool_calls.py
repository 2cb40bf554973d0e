"""Ends tool-call storms: a model that has called tools often enough since a human last spoke must answer.

Its tools stay in the prompt (they are part of what is cached); only the choice to call one is taken away.
"""

from typing import Final

from farthing.core.json_spans import Span, members, set_member, spliced
from farthing.core.lever import Facts, Lever, Prefix
from farthing.core.turn_spans import Turn, blocks, is_human, turns

PREFIX: Final[Prefix] = "own_form"
_NONE: Final = {"chat": b'"none"', "responses": b'"none"', "messages": b'{"type":"none"}'}


class MaxToolCalls(
    Lever, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="max_tool_calls"
):
    """``kind = "max_tool_calls"``."""

    calls: int
    """Results of tools since a human last spoke, from which the model must answer."""


def apply(lever: MaxToolCalls, body: bytes, facts: Facts) -> bytes:
    """The body with ``tool_choice`` none once there were that many calls."""
    top = members(body)
    if top is None or "tools" not in top or facts.form not in _NONE:
        return body
    value = _NONE[facts.form]
    if _results(body, turns(body, top, facts.form) or []) < lever.calls or _is_none(body, top.get("tool_choice")):
        return body
    return spliced(body, [set_member(body, top, "tool_choice", value)])


def _results(body: bytes, said: list[Turn]) -> int:
    found = 0
    for turn in reversed(said):
        if is_human(body, turn):
            break
        if turn.role in ("tool", "function") or turn.kind.endswith("_output"):
            found += 1
        else:
            found += sum(kind == "tool_result" for _, _, kind in blocks(body, turn))
    return found


def _is_none(body: bytes, span: Span | None) -> bool:
    return span is not None and b'"none"' in body[span[0] : span[1]]
