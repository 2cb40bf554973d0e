"""What the plain events of a stream have in common, so that the next one is known without being searched.

Providers send hundreds of events that differ in a word of text and perhaps a number: the same keys in the same order
around them. Two neighbours that were searched and say nothing about billing show which places differ. Whatever has
the same frame, and in those places neither a quote nor the end of a line, has no other key than they have and is no
end of the stream: it says nothing either.
"""

from typing import Final

LESSONS_MAX: Final = 32
"""How often a stream is learned from; one that changes its form more often is searched."""
HOLES_MAX: Final = 4
NULL_USAGE: Final = (b',"usage":null', b', "usage": null')
"""What only callers who asked for usage receive in every event of an OpenAI stream, as servers write it."""
_QUOTE: Final = b'"'
_END: Final = b"\n\n"


class PlainFrame:
    """The frame of one stream's plain events; it knows none at first."""

    __slots__ = ("_bare", "_before", "_first", "_lessons", "_nulls", "_rest", "_strips")

    def __init__(self, *, strips: bool = False) -> None:
        """``strips``: the caller did not ask for usage and gets no ``usage: null`` either."""
        self._strips = strips
        self._first = b""
        """What stands before the first place that differs; empty: no frame is known."""
        self._rest: tuple[bytes, ...] = ()
        """What stands behind each of these places, to the next; each begins with a quote."""
        self._bare = (b"", b"")
        """The first piece and the last as the caller gets them."""
        self._before = b""
        self._lessons = 0
        self._nulls: tuple[bytes, ...] = ()

    def take(self, data: bytes, start: int) -> tuple[int, bytes]:
        """(where the plain events that begin at ``start`` end, what of them passes); ``start`` when none does."""
        if not self._first:
            return start, b""
        if len(self._rest) == 1:
            texts = self._texts(data, start)
            if texts:
                first, last = self._bare
                size = len(self._first) + len(self._rest[0])
                end = start + size * len(texts) + sum(map(len, texts))
                return end, b"%b%b%b" % (first, (last + first).join(texts), last)
        end = self._skip_each(data, start)
        return end, self._without_nulls(data[start:end])

    def _texts(self, data: bytes, start: int) -> list[bytes]:
        """What differs, where that is one place and no other event is in between: found in a few operations."""
        first, last = self._first, self._rest[0]
        texts = (data[start:] if start else data).split(last)
        texts.pop()
        size = len(first)
        texts = [text[size:] for text in texts]
        if not texts or not _is_text(b" ".join(texts)):
            return []
        alike = b"%b%b%b" % (first, (last + first).join(texts), last)
        return texts if alike == data[start : start + len(alike)] else []

    def _skip_each(self, data: bytes, start: int) -> int:
        first, rest, find = self._first, self._rest, data.find
        size = len(first)
        while data[start : start + size] == first:
            end = start + size
            for piece in rest:
                quote = find(_QUOTE, end)
                if quote < 0 or 10 in data[end:quote]:  # a number finds a byte faster than ``find`` does
                    return start
                end = quote + len(piece)
                if data[quote:end] != piece:
                    return start
            start = end
        return start

    def learn(self, event: bytes) -> None:
        """Notes one whole event that was searched and found plain."""
        if self._lessons >= LESSONS_MAX or event.find(b"\\") >= 0 or event.find(_END) != len(event) - len(_END):
            return
        self._lessons += 1
        before, self._before = self._before, event
        if not before:
            return
        parts, others = event.split(_QUOTE), before.split(_QUOTE)
        if len(parts) != len(others) or parts == others:
            return
        holes = [place for place in range(len(parts)) if parts[place] != others[place]]
        if len(holes) > HOLES_MAX or not all([_may_differ(parts, place) for place in holes]):
            return
        pieces: list[bytes] = []
        start = 0
        for place in (*holes, len(parts)):
            piece = _QUOTE.join(parts[start:place])
            pieces.append(piece if place == len(parts) else piece + _QUOTE)
            start = place + 1
        self._first, *rest = pieces
        self._rest = tuple([_QUOTE + piece for piece in rest])
        if self._strips:
            self._nulls = tuple([null for null in NULL_USAGE if any([piece.find(null) >= 0 for piece in pieces])])
        self._bare = (self._without_nulls(pieces[0]), self._without_nulls(self._rest[-1]))

    def _without_nulls(self, plain: bytes) -> bytes:
        """Events of this frame without the ``usage: null`` that they all have, if they do."""
        for null in self._nulls:
            plain = plain.replace(null, b"")
        return plain


def _is_text(text: bytes) -> bool:
    """It may stand inside a JSON string as it is: no line ends, and every quote is escaped."""
    if 10 in text:  # a number finds a byte faster than ``find`` does
        return False
    if 34 not in text:
        return True
    return text.find(b"\\\\") < 0 and 34 not in text.replace(b'\\"', b"")


def _may_differ(parts: list[bytes], place: int) -> bool:
    """A string that is some key's value, or what stands between two strings. A key itself may not differ."""
    if place in (0, len(parts) - 1):
        return False
    return place % 2 == 0 or parts[place - 1].rstrip().endswith(b":")
