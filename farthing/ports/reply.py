"""The way back to a caller, and what watches the gateway from outside."""

from typing import Protocol

from farthing.core.types import Exchange, LedgerEntry

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


class PromptReply(Reply, Protocol):
    """A reply that can often take bytes without waiting."""

    def write_now(self, data: bytes) -> bool:
        """Like ``write``; False: the caller lags, nothing was taken, and ``write`` would wait."""
        ...


class Telemetry(Protocol):
    """Counters for machines; never part of a decision."""

    def exchange(self, exchange: Exchange, entries: tuple[LedgerEntry, ...]) -> None:
        """One request has ended, whatever its outcome."""
        ...

    def spent(self, entry: LedgerEntry) -> None:
        """An entry that belongs to no exchange: what a lever cost."""
        ...

    def attempt_failed(self, provider: str, code: str) -> None: ...

    def store_failed(self, code: str) -> None: ...
