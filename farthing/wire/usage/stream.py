"""From a stream's raw bytes to its usage: the event splitter and a meter in one."""

from collections.abc import Mapping
from typing import Protocol

from farthing.core.types import Usage
from farthing.wire.sse import EVENT_BYTES_MAX, SseSplitter


class Meter(Protocol):
    """Learns a stream's usage from its events; the ``StreamMeter`` port plus what the hot path asks of it."""

    @property
    def marks(self) -> tuple[bytes, ...]:
        """Events without any of these may be skipped, the first one excepted; only ``text_bytes`` suffers."""
        ...

    @property
    def text_bytes(self) -> int:
        """Bytes of answer text, reasoning text and tool arguments in the events fed so far."""
        ...

    @property
    def ended(self) -> bool:
        """The stream's own terminal event was fed."""
        ...

    def event(self, data: bytes) -> None: ...

    def usage(self, *, complete: bool) -> Usage: ...


class Reader(Protocol):
    """Reads the usage of one answer format; the ``UsageReader`` port with meters of this package."""

    flavour: str

    def from_body(self, body: bytes) -> Usage: ...

    def from_usage(self, usage: Mapping[str, object], *, context: Mapping[str, str]) -> Usage: ...

    def meter(self) -> Meter: ...


class SseMeter:
    """Feeds the raw bytes of one event stream to a meter, every event of it."""

    def __init__(self, meter: Meter, *, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self.meter = meter
        self._splitter = SseSplitter(event_bytes_max=event_bytes_max)

    def feed(self, chunk: bytes) -> None:
        """Takes bytes as they arrive. Raises ``StreamBroken`` when one event exceeds the bound."""
        for event in self._splitter.feed(chunk):
            self.meter.event(event.data)

    @property
    def text_bytes(self) -> int:
        """Bytes of answer text, reasoning text and tool arguments so far."""
        return self.meter.text_bytes

    def usage(self, *, complete: bool) -> Usage:
        """What was consumed; an event that the end of the stream left open is read first."""
        for event in self._splitter.finish():
            self.meter.event(event.data)
        return self.meter.usage(complete=complete)
