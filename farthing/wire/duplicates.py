"""Bodies that say one thing twice: a provider may take the first value where Farthing read the last.

JSON does not forbid it, and what is read decides models, prices and ceilings; so such a body is not sent.
"""

import json
from functools import lru_cache
from typing import Final

_DECIDE: Final = (b'"model"', b'"max_', b'"n"', b'"service_tier"')
"""Beginnings of the top-level fields that decide what a call may cost. Texts are not among them: every byte of a body
counts towards its ceiling, and whoever counts tokens instead asks ``says_twice``."""
_ESCAPE: Final = b"\\u00"
"""A name may be written with escapes: ``"\\u006dodel"``."""

SHORT: Final = 512
"""Bytes of a body, or of what is left of it, that are worth remembering."""


def repeated(body: bytes) -> str | None:
    """The top-level field that a valid body has more than once, of those that decide; None: there is none.

    Nearly every body has each name once, which is quick to see; only the others are read to know. Raises
    ``RecursionError``.
    """
    if not (_may_repeat_again(body) if len(body) <= SHORT else _may_repeat(body)):
        return None
    names: list[str] = []

    def last(pairs: list[tuple[str, object]]) -> None:
        names[:] = [name for name, _ in pairs]  # the outermost object ends last

    json.loads(body, object_pairs_hook=last, parse_int=str)  # of any length
    seen: set[str] = set()
    for name in names:
        if name in seen and f'"{name}"'.encode("utf-8", "replace").startswith(_DECIDE):
            return name
        seen.add(name)
    return None


def _may_repeat(body: bytes) -> bool:
    for beginning in _DECIDE:
        if len(body.split(beginning, 2)) > 2:
            return True
    return len(body.split(_ESCAPE, 1)) > 1


_may_repeat_again = lru_cache(maxsize=1024)(_may_repeat)
"""The same of what applications send with every call: the body but for its messages."""


def without(body: bytes, key: bytes, value: bytes) -> bytes:
    """A valid body with less to look through: without the list or object ``value`` where it follows ``"name":``.

    Nothing of it is a top-level name, and leaving it out leaves all of those in.
    """
    head, _, rest = body.partition(key)
    if rest[:1] == b" ":
        rest = rest[1:]
    if value[:1] not in (b"[", b"{") or rest[: len(value)] != value:
        return body
    return b"".join((head, key, b"0", rest[len(value) :]))


def says_twice(body: bytes) -> bool:
    """Any object of a valid body, at any depth, has a name more than once. Raises ``RecursionError``."""
    found = False

    def look(pairs: list[tuple[str, object]]) -> None:
        nonlocal found
        found = found or len({name for name, _ in pairs}) < len(pairs)

    json.loads(body, object_pairs_hook=look, parse_int=str)
    return found
