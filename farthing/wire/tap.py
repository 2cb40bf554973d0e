"""The tap on a provider's event stream: what may pass at once, what waits for the books, what is taken out.

Bytes are forwarded as whole events and never changed, except that usage which Farthing asked for on its own account
is taken out again. The terminal event waits until the ledger has the call: a caller that has seen the end of its
answer can rely on the entry being durable.
"""

from typing import Protocol

from farthing.core.errors import StreamBroken

EVENT_BYTES_MAX = 16 * 1024 * 1024
_BLANK = (b"\n\n", b"\r\n\r\n", b"\r\r")


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
        self._tail = b""

    def feed(self, chunk: bytes) -> bytes:
        """Takes what arrived and returns the complete events that may pass."""
        if self.ended:
            self.held += chunk
            return b""
        data = self._tail + chunk if self._tail else chunk
        end = len(data) if data.endswith(b"\n\n") else _last_boundary(data)
        if end == len(data):
            self._tail = b""
        else:
            self._tail = data[end:]
            if len(self._tail) > EVENT_BYTES_MAX:
                raise StreamBroken(f"The provider sent an event larger than {EVENT_BYTES_MAX} bytes.")
            data = data[:end]
        if not data:
            return b""
        if self.events and not self._relevant(data):
            self.events += 1
            return strip_null_usage(data) if self._strip else data
        return self._walk(data)

    def finish(self) -> bytes:
        """What is left when the provider's bytes end; an unfinished event passes as it came."""
        rest, self._tail = self._tail, b""
        if rest:
            self._measure(rest)
        return rest

    def _relevant(self, data: bytes) -> bool:
        find = data.find  # ``in`` on bytes raises and clears a TypeError before it looks: twice as slow
        for mark in self._wanted:  # noqa: SIM110  # once for every event: half of what any() does
            if find(mark) >= 0:
                return True
        return False

    def _walk(self, data: bytes) -> bytes:
        passed: list[bytes] = []
        plain: list[bytes] = []
        for event in _events(data):
            self.events += 1
            if self.events > 1 and not self.ended and not self._relevant(event):
                plain.append(event)
                continue
            if plain:
                passed.append(self._plain(plain))
                plain = []
            self._look(event, passed)
        if plain:
            passed.append(self._plain(plain))
        return b"".join(passed)

    def _plain(self, events: list[bytes]) -> bytes:
        """Events of nothing but text; most are, so they are handled together."""
        data = b"".join(events)
        return strip_null_usage(data) if self._strip else data

    def _look(self, event: bytes, passed: list[bytes]) -> None:
        """Meters one event, and keeps it back if it is the end."""
        first = self.events == 1
        terminal = any(mark in event for mark in self._terminals) and self._is_terminal(event)
        if first or terminal or any(mark in event for mark in self._marks):
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


def payload_of(event: bytes) -> bytes:
    """The ``data:`` lines of one event, joined by newlines."""
    if event.startswith(b"data: ") and event.endswith(b"\n\n") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]
    lines = event.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    found = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
    return b"\n".join(found)


def _last_boundary(data: bytes) -> int:
    return max(data.rfind(blank) + len(blank) if blank in data else 0 for blank in _BLANK)


def _events(data: bytes) -> list[bytes]:
    """Whole events, each with the blank line that ends it."""
    if b"\r" not in data:
        parts = data.split(b"\n\n")
        return [part + b"\n\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
    found: list[bytes] = []
    start = 0
    while start < len(data):
        ends = [data.find(blank, start) + len(blank) for blank in _BLANK if data.find(blank, start) >= 0]
        end = min(ends) if ends else len(data)
        found.append(data[start:end])
        start = end
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
    return data.replace(b',"usage":null', b"").replace(b', "usage": null', b"")


def strip_asked_usage(event: bytes) -> bytes:
    """One OpenAI stream event as a caller that did not ask for usage would have received it, or nothing."""
    bare = strip_null_usage(event)
    if b'"usage"' in bare and (b'"choices":[]' in bare or b'"choices": []' in bare):
        return b""
    return bare
