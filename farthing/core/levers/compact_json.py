"""Takes the white space out of JSON that tools and users bring: the same values, fewer tokens.

Every text is looked at by itself, so a turn has the same form in every later call and prompt caches stay warm.
Numbers keep their digits and members their order.
"""

from typing import Final

import msgspec

from farthing.core.json_spans import Edit, members, quoted, spliced, text
from farthing.core.lever import Facts, Lever, Prefix
from farthing.core.turn_spans import is_tool_result, texts, turns

PREFIX: Final[Prefix] = "own_form"


class CompactJson(Lever, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="compact_json"):
    """``kind = "compact_json"``."""

    bytes_min: int = 200
    """Shorter texts are left as they are."""
    users: bool = False
    """Messages of users too, where they are JSON and nothing else."""


def apply(lever: CompactJson, body: bytes, facts: Facts) -> bytes:
    """The body with its JSON texts compacted."""
    top = members(body)
    said = None if top is None else turns(body, top, facts.form)
    edits: list[Edit] = []
    for turn in said or ():
        if not is_tool_result(body, turn) and not (lever.users and turn.role == "user"):
            continue
        for start, end in texts(body, turn):
            if end - start < lever.bytes_min:
                continue
            value = compacted(text(body, (start, end)) or "")
            if value is not None and len(value) < end - start:
                edits.append((start, end, value))
    return spliced(body, edits)


def compacted(value: str) -> bytes | None:
    """JSON text without white space between its values, quoted; None when it is no JSON object or list."""
    bare = value.strip()
    if not bare.startswith(("{", "[")):
        return None
    try:
        compact = msgspec.json.format(bare.encode(), indent=-1).decode()
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return quoted(compact) if len(compact) < len(value) else None
