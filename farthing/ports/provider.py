"""Providers as codecs (bytes ⇄ records, no sockets) and one transport that owns every socket."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

import msgspec

from farthing.core.errors import ProviderFailed
from farthing.core.types import Bounds, Request, Target, Usage


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request, ready to send."""

    method: str
    url: str
    headers: tuple[tuple[bytes, bytes], ...]
    """Lower-case names; the transport adds ``host``, ``content-length`` and ``connection``."""
    body: bytes = b""


class HttpReply(Protocol):
    """An answer whose head has arrived.

    Exactly one of ``read`` and ``chunks`` is used; ``close`` may be called at any time, more than once, and frees
    the connection (reused when the body was read to its end, dropped otherwise).
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    """As received, names lower-cased, order and repetitions kept."""

    async def read(self) -> bytes:
        """The whole body. Raises ``StreamBroken`` when it ends early, ``TimedOut`` after the idle time."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, undelayed; never an empty chunk. Raises like ``read``."""
        ...

    def close(self) -> None: ...


class ReadyReply(HttpReply, Protocol):
    """An answer that can be read without waiting once it has arrived."""

    def read_now(self) -> bytes | None:
        """What ``read`` would give; None: not all of it has arrived, or it never will."""
        ...


Sink = Callable[[bytes], bool]
"""Takes a piece of body where it is read, without waiting; False: it took this one and wants no more for now."""


class PushingReply(HttpReply, Protocol):
    """An answer that can also give its body away without waking a task for every piece of it."""

    complete: bool
    """All of the body has arrived."""

    async def pass_on(self, sink: Sink, framed: Sink | None = None) -> bool:
        """Calls ``sink`` with each piece as it arrives; False at the body's end, True when the sink has stopped it.

        ``framed`` is shown first what was read between two HTTP chunks, as it stands on the wire. It takes what is
        exactly one chunk of the body, or nothing (False); then the ``sink`` gets what the bytes say.

        May be called again, or ``chunks`` after it. Raises like ``read``, and whatever ``sink`` raises.
        """
        ...


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds; ``idle`` bounds each silence inside the body."""

    connect_ms: int = 10_000
    first_byte_ms: int = 300_000
    idle_ms: int = 120_000


class Transport(Protocol):
    """The only sockets to upstreams.

    ``send`` returns when the answer's head is complete. Raises ``Overloaded(sent=False)`` when no connection could
    be made, ``Overloaded(sent=True)`` when it died before the head, ``TimedOut`` past a limit.
    """

    async def send(self, request: HttpRequest, *, timeouts: Timeouts) -> HttpReply: ...

    async def close(self) -> None: ...


class StreamMeter(Protocol):
    """Learns a stream's usage from its events. One per attempt, fed in order."""

    @property
    def marks(self) -> tuple[bytes, ...]:
        """An event that contains none of these says nothing about billing and may be left out."""
        ...

    @property
    def text_bytes(self) -> int:
        """Bytes of answer text, tool arguments and reasoning in the events seen so far."""
        ...

    @property
    def ended(self) -> bool:
        """The provider has said that the stream is complete."""
        ...

    def event(self, data: bytes) -> None:
        """The payload of one SSE event (what follows ``data:``), complete. Unknown payloads are ignored."""
        ...

    def usage(self, *, complete: bool) -> Usage:
        """What was consumed; ``complete`` says whether the stream reached its own end."""
        ...


class UsageReader(Protocol):
    """Reads the usage of one answer format."""

    flavour: str

    def from_body(self, body: bytes) -> Usage:
        """Usage of a complete JSON answer."""
        ...

    def from_usage(self, usage: Mapping[str, object], *, context: Mapping[str, str]) -> Usage:
        """Usage from the provider's bare usage object plus facts from around it (tier, region, …)."""
        ...

    def meter(self) -> StreamMeter: ...


class Codec(Protocol):
    """One provider's bytes. Pure; no socket, clock or secret store."""

    def encode(self, request: Request, target: Target, body: bytes) -> HttpRequest:
        """The upstream request for a body that levers may have edited."""
        ...

    def reader(self, request: Request) -> UsageReader: ...

    def bounds(self, request: Request, target: Target) -> Bounds: ...

    def failure(self, status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes) -> ProviderFailed:
        """The error that a non-2xx answer means."""
        ...
