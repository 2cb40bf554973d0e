"""Bodies that say one thing twice: a provider may take the first value where Farthing read the last.

JSON does not forbid it, and what is read decides models, prices and ceilings; so such a body is not sent.
"""

import json
from typing import Final

_DECIDE: Final = (b'"model"', b'"max_', b'"n"', b'"service_tier"')
"""Beginnings of the top-level fields that decide what a call may cost. Texts are not among them: every byte of a body
counts towards its ceiling, and whoever counts tokens instead asks ``says_twice``."""
_ESCAPE: Final = b"\\u00"
"""A name may be written with escapes: ``"\\u006dodel"``."""


def repeated(body: bytes) -> str | None:
    """The top-level field that a valid body has more than once, of those that decide; None: there is none.

    Nearly every body has each name once, which is quick to see; only the others are read to know. Raises
    ``RecursionError``.
    """
    count = body.count
    for beginning in _DECIDE:
        if count(beginning) > 1:
            break
    else:
        if body.find(_ESCAPE) < 0:
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


def says_twice(body: bytes) -> bool:
    """Any object of a valid body, at any depth, has a name more than once. Raises ``RecursionError``."""
    found = False

    def look(pairs: list[tuple[str, object]]) -> None:
        nonlocal found
        found = found or len({name for name, _ in pairs}) < len(pairs)

    json.loads(body, object_pairs_hook=look, parse_int=str)
    return found
