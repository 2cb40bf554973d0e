"""Replaces long texts that a conversation already holds, word for word, by a reference to where they stand.

Only later copies go, so whatever was sent before keeps its form. A model must look back for what it reads about:
opt-in, and worth an evaluation first.
"""

from typing import Final

from farthing.core.json_spans import Edit, members, quoted, spliced
from farthing.core.lever import Facts, Lever, Prefix
from farthing.core.turn_spans import is_tool_result, texts, turns

PREFIX: Final[Prefix] = "own_form"


class DedupeBlocks(
    Lever, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="dedupe_blocks"
):
    """``kind = "dedupe_blocks"``."""

    bytes_min: int = 1_000
    """Shorter texts are left as they are; at least 200."""
    users: bool = False
    """Texts of users too, not only what tools said."""


def apply(lever: DedupeBlocks, body: bytes, facts: Facts) -> bytes:
    """The body with repeated texts replaced."""
    top = members(body)
    said = None if top is None else turns(body, top, facts.form)
    first: dict[bytes, int] = {}
    edits: list[Edit] = []
    for place, turn in enumerate(said or (), 1):
        if not is_tool_result(body, turn) and not (lever.users and turn.role == "user"):
            continue
        for start, end in texts(body, turn):
            value = body[start:end]
            if len(value) < max(200, lever.bytes_min):
                continue
            known = first.setdefault(value, place)
            if known != place:
                edits.append((start, end, quoted(f"[The same text, word for word, as in message {known} above.]")))
    return spliced(body, edits)
