"""A reply that also remembers what it carried, so that the answer can be kept."""

from typing import cast

from farthing.core.types import PromptView
from farthing.ports.reply import Headers, PromptReply, Reply
from farthing.wire.replay import collected, with_usage

_WORD = b"x-farthing-cache"
_OK = 200


class Tee:
    """Passes an answer on to its caller and keeps the bytes, up to a size, until it is known to be whole."""

    def __init__(self, reply: Reply, word: bytes, bytes_max: int) -> None:
        """``word`` is what the answer's ``x-farthing-cache`` says; ``bytes_max`` 0: nothing is kept."""
        self._reply = reply
        self._prompt = cast(PromptReply, reply) if hasattr(reply, "write_now") else None
        self._word = word
        self._left = bytes_max
        self._parts: list[bytes] | None = [] if bytes_max else None
        self._streams = False
        self._complete = False

    def body(self, view: PromptView, usage: bytes) -> bytes | None:
        """The whole JSON answer; None when it is too large, was cut, or was no success.

        ``usage`` is the provider's usage object, for streams whose caller did not want it. Raises ``Unreplayable``.
        """
        if self._parts is None or not self._complete:
            return None
        data = b"".join(self._parts)
        if not self._streams:
            return data
        body = collected(view.endpoint, data)
        return with_usage(body, usage) if usage and not view.include_usage else body

    # -- Reply

    @property
    def gone(self) -> bool:
        return self._reply.gone

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        self._keep(body)
        self._complete = status == _OK
        await self._reply.whole(status, self._marked(headers), body)

    async def start(self, status: int, headers: Headers) -> None:
        self._streams = True
        if status != _OK:
            self._parts = None
        await self._reply.start(status, self._marked(headers))

    def write_now(self, data: bytes) -> bool:
        if self._prompt is None or not self._prompt.write_now(data):
            return False
        self._keep(data)
        return True

    def write_chunk(self, chunk: bytes) -> bool:
        if self._prompt is None or not self._prompt.write_chunk(chunk):
            return False
        self._keep(chunk[chunk.index(10) + 1 : -2])
        return True

    async def write(self, data: bytes) -> None:
        self._keep(data)
        await self._reply.write(data)

    async def end(self, data: bytes) -> None:
        self._keep(data)
        self._complete = True
        await self._reply.end(data)

    async def wait_gone(self) -> None:
        await self._reply.wait_gone()

    def _marked(self, headers: Headers) -> Headers:
        return [(name, self._word if name == _WORD else value) for name, value in headers]

    def _keep(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._parts = None
        if self._parts is not None:
            self._parts.append(data)


class Nowhere:
    """A caller that is not there: the answer is only wanted for its own sake."""

    gone = False

    async def whole(self, status: int, headers: Headers, body: bytes) -> None: ...

    async def start(self, status: int, headers: Headers) -> None: ...

    async def write(self, data: bytes) -> None: ...

    async def end(self, data: bytes) -> None: ...

    async def wait_gone(self) -> None: ...
