"""Who changed what: policy, prices and keys. Append-only; rows are never changed and never deleted."""

from typing import Protocol

import msgspec


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """One change, or the first time that something was seen."""

    seq: int = 0
    at_ms: int
    """When it was noticed; changes of files are noticed by the next ``serve`` or ``audit``."""
    subject: str
    """``policy``, ``prices``, ``key``, ``allocation``, ``anomaly_rule``…"""
    name: str = ""
    before: str = ""
    """Content hash or state; empty: there was none."""
    after: str = ""
    by: str = ""
    """The user of this machine, or the process; empty: not known."""
    detail: str = ""


class AuditLog(Protocol):
    """Kept beside the ledger; blocking."""

    def record(self, changed: Changed) -> None: ...

    def note(self, changed: Changed) -> bool:
        """Records that ``subject``/``name`` now is ``after``, with what it was before; False: it already was so."""
        ...

    def changes(self, *, limit: int = 100, subject: str = "", since_ms: int = 0) -> tuple[Changed, ...]:
        """Newest first."""
        ...

    def close(self) -> None: ...
