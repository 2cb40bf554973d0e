"""AWS event-stream framing: lengths, headers, payload and two checksums, as Amazon's clients verify them."""

import struct
import zlib


def frame(event: str, payload: bytes, *, kind: str = "event") -> bytes:
    """One message; ``kind`` is ``event`` or ``exception``."""
    name = ":event-type" if kind == "event" else ":exception-type"
    said = {name: event, ":content-type": "application/json", ":message-type": kind}
    headers = b"".join(_header(key, value) for key, value in said.items())
    head = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    start = head + struct.pack(">I", zlib.crc32(head)) + headers + payload
    return start + struct.pack(">I", zlib.crc32(start))


def _header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    return bytes([len(key)]) + key + b"\x07" + struct.pack(">H", len(text)) + text
