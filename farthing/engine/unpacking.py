"""Answers that a provider sent compressed although nobody asked it to: unpacked, so that they can be metered."""

import zlib
from collections.abc import AsyncIterator
from typing import Final

from farthing.core.errors import StreamBroken
from farthing.ports.provider import HttpReply

BODY_BYTES_MAX: Final = 256 * 1024 * 1024
"""What an answer may unpack to; more is no answer but an attack on the memory."""
_PIECE: Final = 1024 * 1024
_WINDOW: Final = {b"gzip": 31, b"x-gzip": 31, b"deflate": 47}
"""``zlib``'s ``wbits``; 47 looks whether the stream has zlib's or gzip's head."""
_PLAIN: Final = frozenset({b"", b"identity"})


def unpacked(reply: HttpReply) -> HttpReply:
    """The answer as its provider meant it. One in an encoding nobody here knows stays as it is, header and all."""
    for name, value in reply.headers:
        if name == b"content-encoding" and value not in _PLAIN:
            wbits = _WINDOW.get(value.strip().lower())
            return reply if wbits is None else Unpacked(reply, wbits)
    return reply


class Unpacked:
    """Implements ``ports.provider.HttpReply`` over a compressed one."""

    def __init__(self, reply: HttpReply, wbits: int) -> None:
        self.status = reply.status
        self.headers = tuple(
            pair for pair in reply.headers if pair[0] not in (b"content-encoding", b"content-length")
        )
        self._reply = reply
        self._wbits = wbits
        self._unzip = zlib.decompressobj(wbits)
        self._size = 0
        self._begun = False

    async def read(self) -> bytes:
        body = b"".join(self._pieces(await self._reply.read()))
        self._ended()
        return body

    async def chunks(self) -> AsyncIterator[bytes]:
        async for chunk in self._reply.chunks():
            for piece in self._pieces(chunk):
                yield piece
        self._ended()

    def close(self) -> None:
        self._reply.close()

    def _pieces(self, data: bytes) -> list[bytes]:
        """What ``data`` unpacks to, in bounded pieces. Raises :class:`StreamBroken`."""
        found: list[bytes] = []
        self._begun = self._begun or bool(data)
        try:
            while data:
                if self._unzip.eof:  # gzip allows several members behind one another
                    self._unzip = zlib.decompressobj(self._wbits)
                piece = self._unzip.decompress(data, _PIECE)
                data = self._unzip.unconsumed_tail or self._unzip.unused_data
                self._size += len(piece)
                if self._size > BODY_BYTES_MAX:
                    raise self._broken(f"unpacks to more than {BODY_BYTES_MAX} bytes")
                if piece:
                    found.append(piece)
        except zlib.error as error:
            raise self._broken(f"cannot be unpacked: {error}") from None
        return found

    def _ended(self) -> None:
        if self._begun and not self._unzip.eof:
            raise self._broken("ends in the middle of its compressed data")

    def _broken(self, why: str) -> StreamBroken:
        return StreamBroken(f"The provider's compressed answer {why}.", status=self.status)
