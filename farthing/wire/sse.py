"""Server-sent events, incrementally: bytes in as they arrive, complete events out.

Follows the WHATWG event stream format: lines end in LF, CR or CRLF, a blank line ends an event, several ``data``
lines are joined by LF, lines that begin with a colon are comments, a byte order mark at the start is ignored.
However the bytes are cut, the events are the same. ``id`` and ``retry`` mean nothing to metering and are dropped.
"""

import re
from typing import Final, NamedTuple

from farthing.core.errors import StreamBroken

EVENT_BYTES_MAX: Final = 16 * 1024 * 1024
"""Default bound on one event, comments included, so that a stream that never ends a line cannot fill the memory."""

_BOM: Final = b"\xef\xbb\xbf"
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


class SseEvent(NamedTuple):
    """One event: its ``event:`` name (empty: none given) and its data."""

    name: bytes
    data: bytes


class SseSplitter:
    """Splits one stream into events. One per stream, fed in order."""

    def __init__(self, *, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._limit = event_bytes_max
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self._name = b""
        self._size = 0
        self._skip_lf = False
        self._head: bytes | None = b""

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """The events that ``chunk`` completes. Raises ``StreamBroken`` when an event exceeds the bound."""
        if self._head is not None:
            chunk = self._without_bom(chunk)
        if self._skip_lf and chunk:
            self._skip_lf = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if not chunk:
            return []
        if chunk.endswith(b"\r"):
            self._skip_lf = True
        lines = chunk.split(b"\n") if b"\r" not in chunk else _LINE_END.split(chunk)
        tail = lines.pop()
        events: list[SseEvent] = []
        for line in lines:
            self._take(line, events)
        if tail:
            self._grow(len(tail))
            self._line.append(tail)
        return events

    def finish(self) -> list[SseEvent]:
        """The event that the end of the stream leaves open, if it has data.

        The format drops it; a meter wants it, because servers exist that close right after their last line.
        """
        events: list[SseEvent] = []
        if self._head:
            self._line.append(self._head)
            self._head = None
        if self._line:
            self._take(b"", events)
        self._dispatch(events)
        return events

    def _without_bom(self, chunk: bytes) -> bytes:
        start = (self._head or b"") + chunk
        if len(start) < len(_BOM) and _BOM.startswith(start):
            self._head = start
            return b""
        self._head = None
        return start.removeprefix(_BOM)

    def _take(self, line: bytes, events: list[SseEvent]) -> None:
        """One complete line, of which earlier chunks may have brought the beginning."""
        self._grow(len(line))
        if self._line:
            self._line.append(line)
            line = b"".join(self._line)
            self._line.clear()
        if not line:
            self._dispatch(events)
            return
        field, colon, value = line.partition(b":")
        if colon and value.startswith(b" "):
            value = value[1:]
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value

    def _dispatch(self, events: list[SseEvent]) -> None:
        if self._data:
            events.append(SseEvent(self._name, b"\n".join(self._data)))
            self._data = []
        self._name = b""
        self._size = 0

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._limit:
            raise StreamBroken(
                f"The provider's stream holds an event larger than {self._limit} bytes.",
                hint="Ask for smaller answers, or raise the event limit if such events are expected.",
            )
