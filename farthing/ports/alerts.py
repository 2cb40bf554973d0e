"""Alerts as ports: who is told, and the log that makes each alert happen once."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from farthing.core.alerts import Alert


class SinkFailed(Exception):
    """A sink could not deliver. The message never holds an address or a secret."""


class AlertSink(Protocol):
    """A way to people or to another system."""

    async def send(self, alert: Alert) -> None:
        """Deliver. Idempotent by ``alert.id`` as far as the other side can: it may come a second time after a crash.

        Raises :class:`SinkFailed`.
        """
        ...

    async def close(self) -> None: ...


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One alert on its way to one sink."""

    alert: Alert
    sink: str
    tries: int = 0
    """Failed tries so far."""
    since_ms: int = 0
    """When it was first due."""


class AlertRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An alert as the log has it."""

    alert: Alert
    acknowledged_at_ms: int | None = None
    acknowledged_by: str = ""
    deliveries: tuple[tuple[str, str], ...] = ()
    """(sink, ``sent`` | ``pending`` | ``failed`` | ``dropped``)."""


class AlertLog(Protocol):
    """The alerts of an installation, shared by all its workers. Blocking; any thread. Raises ``StoreFailed``.

    * ``claim`` of the same ``alert.key`` answers True once, whoever asks; a claim that lapses may be made again.
    * What ``claim`` has written survives a crash: an alert is on record, with its deliveries, before it is sent.
    * ``due`` leases what it answers: no two workers deliver the same at once; a lease ends by itself.
    """

    def claim(self, alert: Alert, sinks: Sequence[tuple[str, int]], *, lapses_at_ms: int | None = None) -> bool:
        """Write the alert and its deliveries (sink, due at ms) unless its key is taken; True for whoever wrote it.

        With ``lapses_at_ms`` the key is taken until then only, and asking again extends it to the later time.
        """
        ...

    def turn(self, name: str, *, now_ms: int, until_ms: int) -> bool:
        """True for the one who asks first: until then nobody else's turn comes. For work that one worker does for
        all."""
        ...

    def due(self, *, now_ms: int, lease_ms: int, most: int = 100) -> tuple[Delivery, ...]:
        """Deliveries whose time has come and that nobody is at, leased to the caller for ``lease_ms``."""
        ...

    def sent(self, delivery: Delivery, *, now_ms: int) -> None: ...

    def failed(self, delivery: Delivery, why: str, *, retry_at_ms: int | None) -> None:
        """A try has failed; None: it is given up."""
        ...

    def pending(self) -> int:
        """Deliveries not yet made and not given up."""
        ...

    def records(self, *, limit: int = 50, open_only: bool = False) -> tuple[AlertRecord, ...]:
        """The newest first."""
        ...

    def acknowledge(self, alert_id: str, *, by: str, at_ms: int) -> bool:
        """Somebody takes care of it: what was not delivered yet is dropped. False: no such alert."""
        ...

    def mute(self, name: str, *, until_ms: int) -> None:
        """Record but do not deliver the alerts of a budget or counter until then; the past ends a mute."""
        ...

    def mutes(self, *, now_ms: int) -> tuple[tuple[str, int], ...]: ...

    def seen(self) -> int:
        """Up to when the booked entries have been looked at (ms); 0: never."""
        ...

    def mark_seen(self, at_ms: int) -> None: ...

    def prune(self, before_ms: int) -> int:
        """Forget alerts from before then, and claims and mutes that lapsed before then; how many alerts."""
        ...

    def close(self) -> None: ...
