"""The turns of a conversation in a request's body, by position. Over the chat, messages and responses dialects."""

from typing import NamedTuple

from farthing.core.json_spans import Span, elements, members, text
from farthing.core.types import Endpoint

LISTS: dict[Endpoint, str] = {"chat": "messages", "messages": "messages", "responses": "input"}
"""Where each dialect keeps its turns."""


class Turn(NamedTuple):
    """One message or item."""

    span: Span
    fields: dict[str, Span]
    role: str
    """``user``, ``assistant``, ``system``, ``developer``, ``tool``; empty for items without one."""
    kind: str
    """The item's ``type``; empty where it has none."""


def turns(body: bytes, top: dict[str, Span], form: Endpoint) -> list[Turn] | None:
    """Every turn of the body; None where it has no list of them."""
    name = LISTS.get(form)
    if name is None or name not in top:
        return None
    spans = elements(body, top[name])
    if spans is None:
        return None
    found: list[Turn] = []
    for span in spans:
        fields = members(body, span)
        if fields is None:
            return None
        role, kind = text(body, fields.get("role")), text(body, fields.get("type"))
        found.append(Turn(span, fields, role or "", kind or ""))
    return found


def blocks(body: bytes, turn: Turn) -> list[tuple[Span, dict[str, Span], str]]:
    """(span, members, type) of a turn's content blocks; nothing where its content is a string."""
    return blocks_at(body, turn.fields.get("content"))


def blocks_at(body: bytes, content: Span | None) -> list[tuple[Span, dict[str, Span], str]]:
    """The same for any list of blocks."""
    spans = None if content is None else elements(body, content)
    found = []
    for span in spans or ():
        fields = members(body, span)
        if fields is not None:
            found.append((span, fields, text(body, fields.get("type")) or ""))
    return found


def is_tool_result(body: bytes, turn: Turn) -> bool:
    """The turn brings what tools said."""
    if turn.role in ("tool", "function") or turn.kind.endswith("_output"):
        return True
    return turn.role == "user" and any(kind == "tool_result" for _, _, kind in blocks(body, turn))


def is_human(body: bytes, turn: Turn) -> bool:
    """A human speaks in this turn, and only a human: a conversation may begin with it."""
    return turn.role == "user" and not is_tool_result(body, turn)


def texts(body: bytes, turn: Turn) -> list[Span]:
    """The strings that a turn says or a tool said, by position: no call's arguments, no thoughts."""
    name = "output" if turn.kind.endswith("_output") else "content"
    content = turn.fields.get(name)
    if content is None:
        return []
    if body[content[0] : content[0] + 1] == b'"':
        return [content]
    found: list[Span] = []
    for _, fields, kind in blocks_at(body, content):
        if kind in ("text", "input_text") and "text" in fields:
            found.append(fields["text"])
        elif kind == "tool_result" and "content" in fields:
            inner = fields["content"]
            if body[inner[0] : inner[0] + 1] == b'"':
                found.append(inner)
            else:
                found += [one["text"] for _, one, what in blocks_at(body, inner) if what == "text" and "text" in one]
    return found
