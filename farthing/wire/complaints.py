"""Everything that is wrong with a request body, not only what was found first."""

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from farthing.core.errors import BadRequest
from farthing.wire.body import set_value

_MOST: Final = 20
"""Complaints that are told at once."""
BODY_MAX: Final = 256 * 1024
"""Of a longer body only the first complaint is told: reading it again and again would keep other callers waiting."""
_SOUND: Final = {"model": b'"a"', "messages": b"[]", "input": b'"a"', "max_tokens": b"1"}
"""What a field may hold that must be there; all others may be null."""

_View = TypeVar("_View")


def complaints(read: Callable[[bytes], _View], body: bytes, first: BadRequest) -> BadRequest:
    """``first`` and whatever else ``read`` would complain of once that is mended, as one error.

    Each field that was complained of is given a sound value and the body read again, so that all checks of ``read``
    have their say. A body that cannot be mended, because it is no JSON object, has one complaint, as has a long one.
    """
    told = [first]
    mended: set[str] = set()
    while len(body) <= BODY_MAX and len(told) < _MOST and (name := _field(told[-1])):
        mended.add(name)
        try:
            body = set_value(body, name, _SOUND.get(name, b"null"))
            read(body)
        except BadRequest as error:
            if _field(error) in mended:
                break
            told.append(error)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            break
        else:
            break
    if len(told) == 1:
        return first
    message = " ".join(f"({number}) {error}" for number, error in enumerate(told, 1))
    return BadRequest(f"The request body has {len(told)} problems: {message}", param=first.param)


def _field(error: BadRequest) -> str:
    """The top-level field that an error is about; empty: none."""
    return (error.param or "").partition(".")[0].partition("[")[0]
