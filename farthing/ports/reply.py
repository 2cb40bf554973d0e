"""The way back to a caller, and what watches the gateway from outside."""

from collections.abc import Sequence
from typing import Protocol

from farthing.core.types import Exchange, LedgerEntry, PromptView

Headers = list[tuple[bytes, bytes]]


class Reply(Protocol):
    """One answer to one caller; ``whole``, or ``start`` then any number of ``write`` and one ``end``."""

    @property
    def gone(self) -> bool:
        """The caller has hung up; what is still sent reaches nobody."""
        ...

    async def whole(self, status: int, headers: Headers, body: bytes) -> None: ...

    async def start(self, status: int, headers: Headers) -> None: ...

    async def write(self, data: bytes) -> None: ...

    async def end(self, data: bytes) -> None: ...

    async def wait_gone(self) -> None:
        """Returns when the caller hangs up; waits forever otherwise."""
        ...


class Fixed:
    """What is the same each time an answer is given: all of it but some headers in front."""

    __slots__ = ("body", "events", "headers", "status", "wire")

    def __init__(self, *, status: int, headers: Headers, body: bytes, events: tuple[bytes, bytes] | None) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.events = events
        """The answer as a stream, its last event apart; None: it is given whole."""
        self.wire: bytes | None = None
        """Whoever sends it may leave here what it made of it, for the next time."""


class RepeatReply(Reply, Protocol):
    """A reply that may know how to give at once what was given before."""

    def again(self, headers: Headers, fixed: Fixed) -> bool:
        """Sends the whole answer, ``headers`` first; False: nothing was sent, it must be given like any other."""
        ...


class PromptReply(Reply, Protocol):
    """A reply that can often take bytes without waiting."""

    def write_now(self, data: bytes) -> bool:
        """Like ``write``; False: the caller lags, nothing was taken, and ``write`` may wait."""
        ...

    def write_chunk(self, chunk: bytes) -> bool:
        """The same for one whole HTTP chunk as it stands on the wire. False also for a caller that has gone."""
        ...


class Ended(Protocol):
    """How a request ended; an ``Exchange`` says that among other things."""

    @property
    def outcome(self) -> str: ...

    @property
    def status(self) -> int: ...

    @property
    def error(self) -> str: ...

    @property
    def latency_ms(self) -> int: ...

    @property
    def ttft_ms(self) -> int | None: ...


class Telemetry(Protocol):
    """Counters for machines; never part of a decision."""

    def exchange(self, exchange: Exchange, entries: tuple[LedgerEntry, ...]) -> None:
        """One request has ended, whatever its outcome."""
        ...

    def ended(self, view: PromptView, provider: str, ending: Ended, entries: Sequence[LedgerEntry]) -> None:
        """The same of a request that is not logged; ``provider`` was asked last, empty: none was."""
        ...

    def spent(self, entry: LedgerEntry) -> None:
        """An entry that belongs to no exchange: what a lever cost."""
        ...

    def attempt_failed(self, provider: str, code: str) -> None: ...

    def store_failed(self, code: str) -> None: ...
