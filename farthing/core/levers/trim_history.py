"""Cuts old turns from the front of long conversations, rarely and in large steps.

Every cut makes the provider read the rest anew instead of from its cache, so one is made only when what it saves
over the turns still expected is more than that costs. Where a cut falls depends on the conversation alone: the next
call, which brings the whole history again, is cut at the same place until the next step is due.
"""

from typing import Final

from farthing.core.history_cut import cuts, exchanges, size_of
from farthing.core.json_spans import members, spliced, without
from farthing.core.lever import BYTES_PER_TOKEN, Facts, Lever, Prefix
from farthing.core.turn_spans import LISTS, turns

PREFIX: Final[Prefix] = "broken"


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
    groups = exchanges(body, said)
    first = first_kept(lever, facts, [size_of(said, group) for group in groups])
    gone = {place for group in groups[:first] for place in group}
    name = LISTS[facts.form]
    return spliced(body, without(body, top[name], [turn.span for turn in said], gone))


def first_kept(lever: TrimHistory, facts: Facts, sizes: list[int]) -> int:
    """The group that the history begins with."""
    found = cuts(
        sizes,
        above=lever.above_tokens * BYTES_PER_TOKEN,
        goal=lever.to_tokens * BYTES_PER_TOKEN,
        keep=lever.keep_turns,
        pays=lambda dropped, kept: pays(lever, facts, dropped=dropped, kept=kept),
    )
    return found[-1] if found else 0


def pays(lever: TrimHistory, facts: Facts, *, dropped: int, kept: int) -> bool:
    """Reading the dropped part in every expected call costs more than reading the rest anew once."""
    saved = dropped * facts.read_bp * lever.turns_expected
    return saved > kept * max(0, facts.write_bp - facts.read_bp)
