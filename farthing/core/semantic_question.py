"""What of a request may differ for its answer to be reused: the last user turn's text, and nothing else."""

from typing import Final, Literal

import msgspec

from farthing.core.caching_key import Fields, canonical, digest_of
from farthing.core.types import Endpoint

_TEXT_PARTS: Final = ("text", "input_text")
_HOLE: Final = "\x00question"
"""Stands where the question was; the digest under it also says that something was taken out."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """The part that is compared by meaning, and everything else."""

    text: str
    rest: bytes
    """Canonical JSON of the request with the question taken out: model, parameters, system prompt, tools, answer
    format, earlier turns."""


def question_of(endpoint: Endpoint, fields: Fields, *, turns: Literal["last", "first_only"]) -> Question | None:
    """The question of a request; None when its last turn is no plain text of a user."""
    name = {"chat": "messages", "messages": "messages", "responses": "input", "completions": "prompt"}.get(endpoint)
    if name is None:
        return None
    given = fields.get(name)
    if isinstance(given, str) and name != "messages":
        return _question(given, {**fields, name: _HOLE})
    if not isinstance(given, list) or not given or name == "prompt":
        return None
    last = given[-1]
    if not isinstance(last, dict) or last.get("role") != "user":
        return None
    if turns == "first_only" and any(_is_turn(one) for one in given[:-1]):
        return None
    found = _taken_out(last.get("content"))
    if found is None:
        return None
    text, hollow = found
    return _question(text, {**fields, name: [*given[:-1], {**last, "content": hollow}]})


def semantic_partition(partition: str, question: Question, embedder: str) -> str:
    """Hex digest of all that two requests must have in common before their questions are compared."""
    return digest_of((b"semantic", partition.encode(), question.rest, embedder.encode()))


def _question(text: str, rest: Fields) -> Question | None:
    return Question(text=text, rest=canonical(rest)) if text.strip() else None


def _is_turn(item: object) -> bool:
    return not isinstance(item, dict) or item.get("role") not in ("system", "developer")


def _taken_out(content: object) -> tuple[str, object] | None:
    """The text of a turn and the turn without it; None when there is more to it than text."""
    if isinstance(content, str):
        return content, _HOLE
    if not isinstance(content, list):
        return None
    texts: list[str] = []
    hollow: list[object] = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in _TEXT_PARTS or not isinstance(part.get("text"), str):
            return None
        texts.append(part["text"])
        hollow.append({**part, "text": _HOLE})
    return "\n".join(texts), hollow
