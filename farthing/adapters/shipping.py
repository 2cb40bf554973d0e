"""Sending the ledger and the traffic log to another server, from where it stopped the last time. Blocking.

The cursor is the last record sent, kept in a file. It is written after the server took the batch: what a crash
between the two sends again is the same records under the same ids; a server that knows ids has them once.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

import msgspec

from farthing.core.errors import FarthingError, NotFound
from farthing.core.types import Exchange, LedgerEntry
from farthing.ports.books import Ledger

BATCH: Final = 1_000


class Shipped(msgspec.Struct, frozen=True, kw_only=True):
    """How far a ledger has been sent; one JSON file."""

    entry: str = ""
    """Id of the last entry that the server has."""
    exchange: str = ""
    entries: int = 0
    """Sent so far."""
    exchanges: int = 0
    shipped_at_ms: int = 0
    """When the server last took something or had nothing to take."""
    exchange_at_ms: int = 0
    failed_since_ms: int | None = None
    """Since when the server takes nothing; None: it does."""
    error: str = ""


def read_state(path: Path) -> Shipped:
    """The state in the file; the beginning when there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Shipped)
    except (FileNotFoundError, msgspec.MsgspecError):
        return Shipped()


class Sink(Protocol):
    """Where records go. Every method raises ``StoreUnavailable`` when the server does not take them."""

    def prepare(self) -> None:
        """Before the first records of this process."""
        ...

    def put_entries(self, entries: Sequence[LedgerEntry]) -> None: ...

    def put_exchanges(self, exchanges: Sequence[Exchange]) -> None: ...


class Shipper:
    """Sends what is new. Of all processes with the same ``state`` file only one sends; the others wait."""

    def __init__(self, ledger: Ledger, sink: Sink, state: Path, *, traffic: bool = True) -> None:
        """``traffic``: the traffic log, too; without it only the ledger."""
        self._traffic = traffic
        self._ledger = ledger
        self._sink = sink
        self._path = state
        self._lock: int | None = None
        self._prepared = False
        self.state = read_state(state)

    def step(self, *, now_ms: int) -> int:
        """Sends at most one batch of each book; how many records. 0: nothing is left, or another process sends.

        Raises ``StoreUnavailable`` when the server or the ledger does not answer; the outage is in the state file.
        """
        if not self._own():
            return 0
        try:
            if not self._prepared:
                self._sink.prepare()
                self._prepared = True
            sent = self._entries() + (self._exchanges() if self._traffic else 0)
        except FarthingError as error:
            since = self.state.failed_since_ms
            self._remember(failed_since_ms=now_ms if since is None else since, error=str(error))
            raise
        if sent or self.state.error:
            self._remember(shipped_at_ms=now_ms, failed_since_ms=None, error="")
        return sent

    @property
    def sends(self) -> bool:
        """This process is the one that sends."""
        return self._lock is not None

    def close(self) -> None:
        """Lets another process send."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _entries(self) -> int:
        batch = list(islice(self._ledger.entries(after=self.state.entry), BATCH))
        if batch:
            self._sink.put_entries(batch)
            self._remember(entry=batch[-1].id, entries=self.state.entries + len(batch))
        return len(batch)

    def _exchanges(self) -> int:
        batch = list(islice(self._new_exchanges(), BATCH))
        if batch:
            self._sink.put_exchanges(batch)
            last = batch[-1]
            self._remember(
                exchange=last.request_id,
                exchange_at_ms=last.received_at_ms,
                exchanges=self.state.exchanges + len(batch),
            )
        return len(batch)

    def _new_exchanges(self) -> Iterator[Exchange]:
        try:
            yield from self._ledger.exchanges(after=self.state.exchange)
        except NotFound:
            # The last one sent was pruned; what was received since then is sent, some of it perhaps again.
            yield from self._ledger.exchanges(since_ms=self.state.exchange_at_ms)

    def _own(self) -> bool:
        if self._lock is not None:
            return True
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return False
        self._lock = handle
        self.state = read_state(self._path)
        return True

    def _remember(self, **changes: object) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)
        draft = self._path.with_suffix(".new")
        with contextlib.closing(draft.open("wb")) as file:
            file.write(msgspec.json.encode(self.state))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
