"""The tap on a provider's event stream: what may pass at once, what waits for the books, what is taken out.

Bytes are forwarded as whole events and never changed, except that usage which Farthing asked for on its own account
is taken out again. The terminal event waits until the ledger has the call: a caller that has seen the end of its
answer can rely on the entry being durable.
"""

import re
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
        self.events = 0
        self._meter = meter
        self._marks = marks
        self._terminals = terminals
        self._wanted = (*marks, *terminals)
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
        if not self.events:
            return self._walk(data)
        end, plain = self._frame.take(data, 0)
        if end == len(data):
            self.events += 1
            return plain
        if self._relevant(data):
            return self._walk(data)
        self.events += 1
        self._frame.learn(data)
        return strip_null_usage(data) if self._strip else data

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

    def _relevant(self, data: bytes) -> bool:
        return _has(data, self._wanted)

    def _walk(self, data: bytes) -> bytes:
        """What of these events may pass, the end and what follows it kept back."""
        passed: list[bytes] = []
        if data.find(b"\r") >= 0:
            for event in _events(data):
                self._step(event, passed)
            return b"".join(passed)
        start = 0
        while start < len(data):
            end = start
            if self.events and not self.ended:
                end, plain = self._frame.take(data, start)
            if end > start:
                self.events += 1
                passed.append(plain)
            else:
                end = data.find(b"\n\n", start) + 2
                if end < 2:
                    end = len(data)
                self._step(data[start:end], passed)
            start = end
        return b"".join(passed)

    def _step(self, event: bytes, passed: list[bytes]) -> None:
        self.events += 1
        if self.events > 1 and not self.ended and not self._relevant(event):
            self._frame.learn(event)
            passed.append(strip_null_usage(event) if self._strip else event)
        else:
            self._look(event, passed)

    def _look(self, event: bytes, passed: list[bytes]) -> None:
        """Meters one event, and keeps it back if it is the end."""
        terminal = _has(event, self._terminals) and self._is_terminal(event)
        if self.events == 1 or terminal or _has(event, self._marks):
            self._measure(event)
        if terminal:
            self.ended = True
        kept = strip_asked_usage(event) if self._strip else event
        if self.ended:
            self.held += kept
        else:
            passed.append(kept)

    def _is_terminal(self, event: bytes) -> bool:
        """A mark inside an answer's text is no end: it must stand in the event's name or be its whole payload."""
        head = b"\n" + event.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return any(b"\n" + mark in head for mark in self._terminals)

    def _measure(self, event: bytes) -> None:
        payload = payload_of(event)
        if payload:
            self._meter.event(payload)


def _has(data: bytes, marks: tuple[bytes, ...]) -> bool:
    find = data.find  # ``in`` on bytes raises and clears a TypeError before it looks: twice as slow
    for mark in marks:  # noqa: SIM110  # once for every event: half of what any() does
        if find(mark) >= 0:
            return True
    return False


def payload_of(event: bytes) -> bytes:
    """The ``data:`` lines of one event, joined by newlines."""
    if event.startswith(b"data: ") and event.endswith(b"\n\n") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]
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
    if b'"usage"' in bare and (b'"choices":[]' in bare or b'"choices": []' in bare):
        return b""
    return bare
