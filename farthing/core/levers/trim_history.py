"""Cuts old turns from the front of long conversations, rarely and in large steps.

Every cut makes the provider read the rest anew instead of from its cache, so one is made only when what it saves
over the turns still expected is more than that costs. Where a cut falls depends on the conversation alone: the next
call, which brings the whole history again, is cut at the same place until the next step is due.
"""

from typing import Final

from farthing.core.json_spans import members, spliced, without
from farthing.core.lever import BYTES_PER_TOKEN, Facts, Lever, Prefix
from farthing.core.turn_spans import LISTS, Turn, is_human, turns

PREFIX: Final[Prefix] = "broken"
_ALWAYS: Final = ("system", "developer")


class TrimHistory(Lever, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="trim_history"):
    """``kind = "trim_history"``."""

    above_tokens: int
    """A history longer than this is cut (tokens at four bytes)."""
    to_tokens: int
    """Down to this; well below ``above_tokens``, so that cuts are rare."""
    keep_turns: int = 2
    """Exchanges, each from a human's message on, that always stay."""
    turns_expected: int = 4
    """Calls that a conversation will still make after a cut, to weigh it by."""


def apply(lever: TrimHistory, body: bytes, facts: Facts) -> bytes:
    """The body without its oldest turns. Instructions, tools, and calls with their results stay whole."""
    top = members(body)
    said = None if top is None else turns(body, top, facts.form)
    if top is None or not said:
        return body
    groups = _groups(body, said)
    first = first_kept(lever, facts, [_size(said, group) for group in groups])
    gone = {place for group in groups[:first] for place in group}
    name = LISTS[facts.form]
    return spliced(body, without(body, top[name], [turn.span for turn in said], gone))


def _groups(body: bytes, said: list[Turn]) -> list[list[int]]:
    """Places of the turns, one group from each human message to the next; instructions are in none."""
    groups: list[list[int]] = []
    for place, turn in enumerate(said):
        if turn.role in _ALWAYS:
            continue
        if is_human(body, turn) or not groups:
            groups.append([])
        groups[-1].append(place)
    return groups


def _size(said: list[Turn], group: list[int]) -> int:
    return sum(said[place].span[1] - said[place].span[0] + 1 for place in group)


def first_kept(lever: TrimHistory, facts: Facts, sizes: list[int]) -> int:
    """The group that the history begins with, found by growing it turn by turn as it really grew."""
    above, goal = lever.above_tokens * BYTES_PER_TOKEN, lever.to_tokens * BYTES_PER_TOKEN
    first = window = 0
    for last, size in enumerate(sizes):
        window += size
        if window <= above:
            continue
        cut, left = first, window
        while left > goal and last - cut >= max(1, lever.keep_turns):
            left -= sizes[cut]
            cut += 1
        if cut > first and pays(lever, facts, dropped=window - left, kept=left):
            first, window = cut, left
    return first


def pays(lever: TrimHistory, facts: Facts, *, dropped: int, kept: int) -> bool:
    """Reading the dropped part in every expected call costs more than reading the rest anew once."""
    saved = dropped * facts.read_bp * lever.turns_expected
    return saved > kept * max(0, facts.write_bp - facts.read_bp)
