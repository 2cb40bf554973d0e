"""What the plain events of a stream have in common, so that the next one is known without being searched.

Providers send hundreds of events that differ in a word of text and perhaps a number: the same keys in the same order
around them. One that was searched and says nothing about billing is the frame of others; which places differ is
guessed by the names of the keys, or seen by its neighbour. Whatever has the same frame, and in those places neither a
quote nor the end of a line, has no other key and is no end of the stream: it says nothing either.
"""

from typing import Final

LESSONS_MAX: Final = 32
"""How often a stream is learned from; one that changes its form more often is searched."""
HOLES_MAX: Final = 4
NULL_USAGE: Final = (b',"usage":null', b', "usage": null')
"""What only callers who asked for usage receive in every event of an OpenAI stream, as servers write it."""
LENGTHS_MAX: Final = 256
"""How many lengths of chunks are remembered."""
_TEXT_KEYS: Final = (b'"content":"', b'"text":"', b'"delta":"', b'"partial_json":"', b'"thinking":"')
"""Where most servers put the word that differs."""
_USAGE: Final = b'"usage"'
_QUOTE: Final = b'"'
_END: Final = b"\n\n"
_LINE_END: Final = b"\r\n"


class PlainFrame:
    """The frame of one stream's plain events; it knows none at first."""

    __slots__ = (
        "_bare", "_bare_foot", "_before", "_first", "_foot", "_known", "_lessons", "_nulls", "_rest", "_strips",
    )  # fmt: skip

    def __init__(self, *, strips: bool = False) -> None:
        """``strips``: the caller did not ask for usage and gets no ``usage: null`` either."""
        self._strips = strips
        self._first = b""
        """What stands before the first place that differs; empty: no frame is known."""
        self._rest: tuple[bytes, ...] = ()
        """What stands behind each of these places, to the next; each begins with a quote."""
        self._bare = (b"", b"")
        """The first piece and the last as the caller gets them."""
        self._foot = self._bare_foot = b""
        """The last piece and the end of a chunk."""
        self._known: dict[int, tuple[bytes, bytes, int]] = {}
        """By length, chunks of one event with one place that differs: (what stands before the place, the same as the
        caller gets it, bytes in the place)."""
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

    def take_all(self, data: bytes) -> bytes:
        """What passes of whole events if all of them are plain; empty otherwise."""
        if not self._first or not data.endswith(self._rest[-1]):
            return b""
        end, passed = self.take(data, 0)
        return passed if end == len(data) else b""

    def take_chunk(self, chunk: bytes) -> bytes:
        """What passes of one HTTP chunk as it stands on the wire, framed again, if plain events are all of it.

        Empty otherwise. Nothing is parsed: a chunk of its length has only one size line.
        """
        known = self._known.get(len(chunk))
        if known is None:
            return self._take_parts(chunk)
        head, bare_head, size = known
        text = chunk.removeprefix(head).removesuffix(self._foot)
        if len(text) != size or 34 in text or 10 in text:  # a number finds a byte faster than ``find`` does
            return self._take_parts(chunk)
        return chunk if bare_head is head else bare_head + text + self._bare_foot

    def _take_parts(self, chunk: bytes) -> bytes:
        """The same for any length, several events, several places that differ, or quotes in a text."""
        line = _size_line(len(chunk))
        if not line or not chunk.startswith(line) or not chunk.endswith(_LINE_END):
            return b""
        passed = self.take_all(chunk[len(line) : -len(_LINE_END)])
        if not passed:
            return b""
        if len(self._rest) == 1 and len(self._known) < LENGTHS_MAX:
            self._note_length(len(chunk), line)
        return b"%x\r\n%b\r\n" % (len(passed), passed)

    def _note_length(self, length: int, line: bytes) -> None:
        first, last = self._bare
        size = length - len(line) - len(self._first) - len(self._foot)
        head = line + self._first
        bare_head = b"%x\r\n%b" % (size + len(first) + len(last), first) if self._nulls else head
        self._known[length] = (head, bare_head, size)

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
        if self._lessons >= LESSONS_MAX or 92 in event or event.find(_END) != len(event) - len(_END):
            return
        self._lessons += 1
        before, self._before = self._before, event
        pieces = _shared(before, event) if before else _guessed(event)
        if pieces and not any([piece.endswith(_USAGE) for piece in pieces]):
            self._know(pieces)

    def _know(self, pieces: tuple[bytes, ...]) -> None:
        self._first, *rest = pieces
        self._rest = tuple(rest)
        if self._strips:
            shape = b" ".join(pieces)
            self._nulls = tuple([null for null in NULL_USAGE if shape.find(null) >= 0])
        self._bare = (self._without_nulls(pieces[0]), self._without_nulls(pieces[-1]))
        self._foot, self._bare_foot = pieces[-1] + _LINE_END, self._bare[1] + _LINE_END
        self._known.clear()

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


def _guessed(event: bytes) -> tuple[bytes, ...]:
    """An event around the first of its strings that is text by its key; empty: it has none."""
    for key in _TEXT_KEYS:
        start = event.find(key) + len(key)
        if start >= len(key):
            return event[:start], event[event.find(_QUOTE, start) :]
    return ()


def _shared(one: bytes, other: bytes) -> tuple[bytes, ...]:
    """What two events share: the pieces around the places where they differ; empty: they differ elsewhere too."""
    pieces: list[bytes] = []
    start = begin = 0  # of what is still to be compared, in the one and in the other
    while one[start:] != other[begin:]:
        place = start + _alike(one[start:], other[begin:])
        edge = other.rfind(_QUOTE, begin, begin + place - start) + 1
        if not edge or len(pieces) == HOLES_MAX or not _may_differ(other[:edge]):
            return ()
        pieces.append(other[begin:edge])
        start, begin = one.find(_QUOTE, start + edge - begin), other.find(_QUOTE, edge)
        if start < 0 or begin < 0:
            return ()
    return (*pieces, other[begin:]) if pieces else ()


def _alike(one: bytes, other: bytes) -> int:
    """How many bytes two texts have in common at their beginning."""
    size = min(len(one), len(other))
    differs = int.from_bytes(one[:size]) ^ int.from_bytes(other[:size])  # one operation instead of a search
    return size - (differs.bit_length() + 7) // 8


def _may_differ(before: bytes) -> bool:
    """Whether what follows is a string that is some key's value, or stands between two strings, and so no key."""
    return before.count(_QUOTE) % 2 == 0 or before[:-1].rstrip().endswith(b":")


def _size_line(length: int) -> bytes:
    """The size line of an HTTP chunk that takes so many bytes with it and with its end; empty: none does."""
    for digits in range(1, 9):
        line = b"%x\r\n" % max(0, length - digits - 2 * len(_LINE_END))
        if len(line) == digits + len(_LINE_END):
            return line
    return b""
