"""The strings of a body that a provider may bill as prompt, and what formatting may add to them."""

from typing import Final

import msgspec

from farthing.engine.plan import strings_of
from farthing.wire.duplicates import says_twice

STRING_OVERHEAD: Final = 8
"""Tokens that formatting may add around one string of a prompt, or around one turn: its role and its marks."""
_FRAME: Final = 16
"""Tokens that formatting may add to a whole conversation."""
_SETTINGS: Final = frozenset(
    {"model", "max_tokens", "max_completion_tokens", "max_output_tokens", "temperature", "top_p", "top_k", "n",
     "stop", "stop_sequences", "stream", "stream_options", "seed", "user", "metadata", "presence_penalty",
     "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "store", "service_tier", "safety_identifier",
     "prompt_cache_key", "prompt_cache_retention", "encoding_format", "dimensions", "echo", "best_of", "truncation"}
)  # fmt: skip
"""Fields that are no part of any prompt."""
_TEXTS: Final = ("system", "instructions", "input", "prompt")
_KNOWN: Final = _SETTINGS | {*_TEXTS, "messages"}


def billed_strings(body: bytes) -> tuple[list[str], int] | None:
    """(what is counted, the tokens that may come on top); None: it says something twice, so who knows what is read.

    Of a plain conversation that is its texts alone; of anything else (tools, schemas, pictures, fields that nobody
    here knows) every string, keys included. Raises ``msgspec.DecodeError``, ``RecursionError``.
    """
    read = msgspec.json.decode(body)
    if says_twice(body):
        return None
    plain = _plain_texts(read)
    if plain is not None:
        return plain, STRING_OVERHEAD * len(plain) + _FRAME
    strings = strings_of(body)
    return strings, STRING_OVERHEAD * len(strings) + _numbers(read)


def _numbers(body: object) -> int:
    """The most tokens of a body's numbers: a prompt may be a list of tokens, a schema may list values."""
    top = body.items() if isinstance(body, dict) else ()
    pending: list[tuple[object, bool]] = [(value, key in _TEXTS) for key, value in top]
    most = 0
    while pending:
        item, tokens = pending.pop()
        if isinstance(item, dict):
            pending.extend((value, False) for value in item.values())
        elif isinstance(item, list):
            pending.extend((value, tokens) for value in item)
        elif item is not None and not isinstance(item, str):
            most += 1 if tokens and isinstance(item, int) else len(str(item)) + 1
    return most


def _plain_texts(body: object) -> list[str] | None:
    """The texts of a body that holds nothing else; None: it does."""
    if not isinstance(body, dict) or not body.keys() <= _KNOWN:
        return None
    found: list[str] = []
    for name in _TEXTS:
        value = body.get(name)
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, list) and all(isinstance(one, str) for one in value):
            found.extend(value)
        elif value is not None:
            return None
    turns = body.get("messages", [])
    if not isinstance(turns, list):
        return None
    for turn in turns:
        if not isinstance(turn, dict) or not turn.keys() <= {"role", "content", "name"} or not _adds(found, turn):
            return None
    return found


def _adds(found: list[str], turn: dict[str, object]) -> bool:
    """Adds one turn's texts; False: it holds something else."""
    role, name, content = turn.get("role"), turn.get("name", ""), turn.get("content")
    if not isinstance(role, str) or not isinstance(name, str):
        return False
    found += (role, name) if name else (role,)
    if isinstance(content, str):
        found.append(content)
        return True
    if not isinstance(content, list):
        return False
    for part in content:
        if not isinstance(part, dict) or part.keys() != {"type", "text"} or part["type"] != "text":
            return False
        if not isinstance(part["text"], str):
            return False
        found.append(part["text"])
    return True
