"""A request's head by its bytes: what a connection says again need not be parsed again."""

import re
from typing import Final

_LENGTH: Final = re.compile(rb"\r\ncontent-length: ?([0-9]{1,9})\r\n", re.IGNORECASE)
_DIGITS_MAX: Final = 9
_END: Final = b"\r\n\r\n"


class HeadBytes:
    """The bytes of a head that the parser has accepted, all but the number of bytes of its body.

    That number is the only thing in which the heads of a client's calls differ, and it decides nothing else.
    """

    __slots__ = ("_after", "_before", "_digits")

    def __init__(self, before: bytes, digits: int, after: bytes) -> None:
        self._before = before
        self._digits = digits
        """As many as the last body's length had."""
        self._after = after

    @classmethod
    def of(cls, data: bytes, size: int) -> "HeadBytes | None":
        """The head of one whole request whose body has ``size`` bytes, as the parser found.

        None: it is not of the usual kind.
        """
        end = data.find(_END)
        found = _LENGTH.search(data, 0, end + 2)
        if end < 0 or found is None or not len(data) - end - len(_END) == size == int(found[1]):
            return None
        return cls(data[: found.start(1)], len(found[1]), data[found.end(1) : end + len(_END)])

    def body_of(self, data: bytes) -> bytes | None:
        """The body of the one request that ``data`` is, if it has this head; None: it must be parsed."""
        before, after = self._before, self._after
        start = len(before)
        if data[:start] != before:  # pieces are compared: a method with a place to begin at costs ten times as much
            return None
        end = start + self._digits
        begin = end + len(after)
        if data[end:begin] != after:
            end = data.find(b"\r", start, start + _DIGITS_MAX + 1)
            begin = end + len(after)
            if end < 0 or data[end:begin] != after:
                return None
            self._digits = end - start
        digits = data[start:end]
        return data[begin:] if digits.isdigit() and len(data) - begin == int(digits) else None
