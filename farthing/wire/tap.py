"""The tap on a provider's event stream: what may pass at once, what waits for the books, what is taken out.

Bytes are forwarded as whole events and never changed, except that usage which Farthing asked for on its own account
is taken out again. The terminal event waits until the ledger has the call: a caller that has seen the end of its
answer can rely on the entry being durable.
"""

import re
from functools import lru_cache
from typing import Protocol

from farthing.core.errors import StreamBroken
from farthing.wire.tap_frame import NULL_USAGE, PlainFrame

EVENT_BYTES_MAX = 16 * 1024 * 1024
_BLANK = re.compile(rb"(?:\r\n|\n)(?:\r\n|\n|\r(?=[^\n]))|\r(?:\r\n|\r(?!\n))")
"""Two line ends behind one another, of any of the three kinds; a CR that may yet become a CRLF does not count."""
_EDGE = 3
"""A blank line is at most one byte longer than this."""


class Meter(Protocol):
    """What the tap needs of a stream meter."""

    def event(self, data: bytes) -> None: ...


class StreamTap:
    """Reads one stream, in order. ``feed`` returns what may go to the caller now; ``held`` is what waits."""

    __slots__ = (
        "_begun", "_edge", "_frame", "_meter", "_more", "_more_bytes", "_strip", "_tail", "_terminals", "_wanted",
        "ended", "held",
    )  # fmt: skip

    def __init__(
        self,
        meter: Meter,
        *,
        marks: tuple[bytes, ...],
        terminals: tuple[bytes, ...],
        strip_usage: bool = False,
    ) -> None:
        """``marks`` make an event worth metering, ``terminals`` end the stream.

        ``strip_usage`` takes out the usage of an OpenAI stream whose caller did not ask for it.
        """
        self.ended = False
        self.held = b""
        self._meter = meter
        self._begun = False
        self._terminals = terminals
        self._wanted = _wanted(marks, terminals)
        self._strip = strip_usage
        self._frame = PlainFrame(strips=strip_usage)
        self._tail = b""
        self._more: list[bytes] = []
        """What follows the tail of an event that is still arriving: joined once, when its end is there."""
        self._more_bytes = 0
        self._edge = b""
        """The last bytes of tail and more."""

    def feed(self, chunk: bytes) -> bytes:
        """Takes what arrived and returns the complete events that may pass."""
        if self.ended:
            self.held += chunk
            return b""
        data = self._joined(chunk) if self._tail else chunk
        end = len(data) if data.endswith(b"\n\n") else _last_boundary(data)
        if end != len(data):
            self._keep(data[end:])
            data = data[:end]
        if not data:
            return b""
        if self._begun:
            plain = self._frame.take_all(data)
            if plain:
                return plain
            if not _has(data, self._wanted):
                self._frame.learn(data)
                return strip_null_usage(data) if self._strip else data
        if data.find(b"\n\n") == len(data) - 2 and 13 not in data:
            return self._look(data)
        return self._walk(data)

    def take_chunk(self, chunk: bytes) -> bytes:
        """Takes an HTTP chunk as it stands on the wire and returns what may pass of it, framed again.

        Empty: nothing was taken, and what the chunk holds is to be fed like anything else.
        """
        return b"" if self._tail or self.ended else self._frame.take_chunk(chunk)

    def _joined(self, chunk: bytes) -> bytes:
        """The event that is arriving, or nothing while its end is not in ``chunk``: so a long one is joined once."""
        edge = self._edge + chunk
        if not _last_boundary(edge):
            self._more.append(chunk)
            self._more_bytes += len(chunk)
            self._edge = edge[-_EDGE:]
            self._check_size(len(self._tail) + self._more_bytes)
            return b""
        data = b"".join((self._tail, *self._more, chunk))
        self._tail = b""
        self._more.clear()
        self._more_bytes = 0
        return data

    def _keep(self, tail: bytes) -> None:
        self._check_size(len(tail))
        self._tail = tail
        self._edge = tail[-_EDGE:]

    def _check_size(self, size: int) -> None:
        if size > EVENT_BYTES_MAX:
            raise StreamBroken(f"The provider sent an event larger than {EVENT_BYTES_MAX} bytes.")

    def finish(self) -> bytes:
        """What is left when the provider's bytes end; an unfinished event passes as it came."""
        rest = b"".join((self._tail, *self._more))
        self._tail = b""
        self._more.clear()
        if rest:
            self._measure(rest)
        return rest

    def _walk(self, data: bytes) -> bytes:
        """What of these events may pass, the end and what follows it kept back."""
        if 13 in data:
            return b"".join([self._step(event) for event in _events(data)])
        passed: list[bytes] = []
        start = 0
        while start < len(data):
            end = start
            if self._begun and not self.ended:
                end, plain = self._frame.take(data, start)
            if end > start:
                passed.append(plain)
            else:
                end = data.find(b"\n\n", start) + 2
                if end < 2:
                    end = len(data)
                passed.append(self._step(data[start:end]))
            start = end
        return b"".join(passed)

    def _step(self, event: bytes) -> bytes:
        if self._begun and not self.ended and not _has(event, self._wanted):
            self._frame.learn(event)
            return strip_null_usage(event) if self._strip else event
        return self._look(event)

    def _look(self, event: bytes) -> bytes:
        """Meters one event, and keeps it back if it is the end."""
        self._begun = True
        self._measure(event)
        kept = strip_asked_usage(event) if self._strip else event
        if self.ended or self._is_terminal(event):
            self.ended = True
            self.held += kept
            return b""
        return kept

    def _is_terminal(self, event: bytes) -> bool:
        """A mark inside an answer's text is no end: it must stand in the event's name or be its whole payload."""
        for mark in self._terminals:
            place = event.find(mark)
            while place > 0 and event[place - 1] not in b"\r\n":
                place = event.find(mark, place + 1)
            if place >= 0:
                return True
        return False

    def _measure(self, event: bytes) -> None:
        payload = payload_of(event)
        if payload:
            self._meter.event(payload)


@lru_cache(maxsize=64)
def _wanted(marks: tuple[bytes, ...], terminals: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Marks and terminals, without those that hold another one: whoever has them has that one too."""
    every = dict.fromkeys((*marks, *terminals))
    return tuple([one for one in every if not any(other in one for other in every if other != one)])


def _has(data: bytes, marks: tuple[bytes, ...]) -> bool:
    find = data.find  # ``in`` on bytes raises and clears a TypeError before it looks: twice as slow
    for mark in marks:  # noqa: SIM110  # once for every event: half of what any() does
        if find(mark) >= 0:
            return True
    return False


def payload_of(event: bytes) -> bytes:
    """The ``data:`` lines of one event, joined by newlines."""
    payload = event.removeprefix(b"data: ").removesuffix(b"\n\n")
    if len(payload) == len(event) - 8 and 10 not in payload and 13 not in payload:
        return payload
    lines = event.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    found = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
    return b"\n".join(found)


def _last_boundary(data: bytes) -> int:
    if data.find(b"\r") < 0:
        return data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
    return max((found.end() for found in _BLANK.finditer(data)), default=0)


def _events(data: bytes) -> list[bytes]:
    """Whole events, each with the blank line that ends it."""
    if b"\r" not in data:
        parts = data.split(b"\n\n")
        return [part + b"\n\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
    found: list[bytes] = []
    start = 0
    for blank in _BLANK.finditer(data):
        found.append(data[start : blank.end()])
        start = blank.end()
    if start < len(data):
        found.append(data[start:])
    return found


OPENAI_TERMINALS = (b"data: [DONE]", b"data:[DONE]")
RESPONSES_TERMINALS = (
    b"event: response.completed", b"event: response.incomplete", b"event: response.failed", b"event: error",
    b"event:response.completed", b"event:response.incomplete", b"event:response.failed", b"event:error",
)  # fmt: skip
CONVERSE_TERMINALS = (b"event: metadata",)
MESSAGES_TERMINALS = (b"event: message_stop", b"event: error", b"event:message_stop", b"event:error")


def strip_null_usage(data: bytes) -> bytes:
    """OpenAI stream events without the ``usage: null`` that only callers who asked for usage receive.

    Inside JSON strings quotes are escaped, so an answer's own text can never match.
    """
    if data.find(b'"usage"') < 0:
        return data
    for null in NULL_USAGE:
        data = data.replace(null, b"")
    return data


def strip_asked_usage(event: bytes) -> bytes:
    """One OpenAI stream event as a caller that did not ask for usage would have received it, or nothing."""
    bare = strip_null_usage(event)
    if bare.find(b'"usage"') >= 0 and _has(bare, (b'"choices":[]', b'"choices": []')):
        return b""
    return bare
