"""AWS event-stream framing, incrementally: bytes in as they arrive, message payloads out.

A frame is: total length and header length (4 bytes each, big-endian), their CRC-32, headers, payload, and the CRC-32
of everything before it. Frames are checked before they are believed.
"""

import base64
import binascii
import struct
import zlib
from typing import Final, NamedTuple

import msgspec

from farthing.core.errors import StreamBroken
from farthing.core.types import Usage
from farthing.wire.usage.reading import UNREADABLE
from farthing.wire.usage.stream import Meter

FRAME_BYTES_MAX: Final = 16 * 1024 * 1024 + 1024
"""The protocol bounds a payload at 16 MiB and headers at 128 KiB; AWS sends far less."""

_PRELUDE: Final = struct.Struct(">III")
_CRC: Final = struct.Struct(">I")
_FIXED_SIZES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header value by its type; types 6 (bytes) and 7 (string) carry their own length."""


class Frame(NamedTuple):
    """One message: its event type (an exception's name for exceptions) and its payload."""

    event: str
    payload: bytes


class FrameSplitter:
    """Splits one stream into frames. One per stream, fed in order."""

    def __init__(self, *, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._limit = frame_bytes_max
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that ``chunk`` completes. Raises ``StreamBroken`` on a wrong checksum or an absurd length."""
        self._buffer += chunk
        frames: list[Frame] = []
        start = 0
        while (size := self._size_at(start)) is not None:
            frames.append(_frame(bytes(self._buffer[start : start + size])))
            start += size
        del self._buffer[:start]
        return frames

    def _size_at(self, start: int) -> int | None:
        """Length of the frame that begins at ``start``; None while it is not complete."""
        if len(self._buffer) - start < _PRELUDE.size:
            return None
        total, headers, check = _PRELUDE.unpack_from(self._buffer, start)
        if zlib.crc32(self._buffer[start : start + 8]) != check:
            raise StreamBroken("The provider's event stream has a frame whose prelude fails its checksum.")
        if total > self._limit or total < headers + 16:
            raise StreamBroken(f"The provider's event stream announces a frame of {total} bytes.")
        return int(total) if len(self._buffer) - start >= total else None


def _frame(frame: bytes) -> Frame:
    _, header_size, _ = _PRELUDE.unpack_from(frame)
    if zlib.crc32(frame[:-4]) != _CRC.unpack_from(frame, len(frame) - 4)[0]:
        raise StreamBroken("The provider's event stream has a frame that fails its checksum.")
    headers = _headers(frame[12 : 12 + header_size])
    event = headers.get(":event-type") or headers.get(":exception-type") or ""
    return Frame(event, frame[12 + header_size : -4])


def _headers(data: bytes) -> dict[str, str]:
    """The string headers; others are skipped. Raises ``StreamBroken`` when they do not parse."""
    found: dict[str, str] = {}
    place = 0
    while place < len(data):
        name_end = place + 1 + data[place]
        if name_end >= len(data):
            raise StreamBroken("The provider's event stream has a frame with malformed headers.")
        kind = data[name_end]
        value = name_end + 1
        size = _FIXED_SIZES.get(kind)
        if size is None:
            size = int.from_bytes(data[value : value + 2], "big")
            value += 2
        if kind > 9 or value + size > len(data):
            raise StreamBroken("The provider's event stream has a frame with malformed headers.")
        if kind == 7:
            name = data[place + 1 : name_end].decode("utf-8", "replace")
            found[name] = data[value : value + size].decode("utf-8", "replace")
        place = value + size
    return found


class _Wrapped(msgspec.Struct, frozen=True, gc=False):
    """The payload of an InvokeModel stream's chunk."""

    bytes: str | None = None


_WRAPPED: Final = msgspec.json.Decoder(_Wrapped)


def unwrap(payload: bytes) -> bytes:
    """The provider-native event inside an InvokeModel chunk; any other payload as it is."""
    if b'"bytes"' not in payload:
        return payload
    try:
        wrapped = _WRAPPED.decode(payload).bytes
        return payload if wrapped is None else base64.b64decode(wrapped, validate=True)
    except (*UNREADABLE, binascii.Error):
        return payload


class FrameMeter:
    """Feeds the raw bytes of one AWS event stream to a meter, every event of it."""

    def __init__(self, meter: Meter, *, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self.meter = meter
        self._splitter = FrameSplitter(frame_bytes_max=frame_bytes_max)

    def feed(self, chunk: bytes) -> None:
        """Takes bytes as they arrive. Raises ``StreamBroken`` on a malformed frame."""
        for frame in self._splitter.feed(chunk):
            self.meter.event(unwrap(frame.payload))

    @property
    def text_bytes(self) -> int:
        """Bytes of answer text, reasoning text and tool arguments so far."""
        return self.meter.text_bytes

    def usage(self, *, complete: bool) -> Usage:
        """What was consumed; a frame that was cut is not read."""
        return self.meter.usage(complete=complete)
