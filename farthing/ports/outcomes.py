"""What calls were good for: outcomes that people and programs report, to set cost against."""

from collections.abc import Iterable
from typing import Protocol

import msgspec


class Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that happened thanks to calls: a ticket resolved, a contract drafted."""

    id: str
    """The reporter's own; the same id again changes nothing."""
    kind: str
    """``ticket_resolved``."""
    at_ms: int
    session: str = ""
    request_id: str = ""
    """The session or the request it came of; at least one of them."""
    value_nusd: int | None = None
    """What it is worth, in nano-USD; None: not said."""
    success: bool = True


class Outcomes(Protocol):
    """Kept beside the ledger; blocking."""

    def add(self, outcomes: Iterable[Outcome]) -> tuple[int, int]:
        """All in one transaction: how many were (new, already there). The first content of an id stays.

        Raises ``Conflict`` when an id comes again with other content, and books nothing then.
        """
        ...

    def all(self, *, kind: str = "", since_ms: int = 0, until_ms: int | None = None) -> tuple[Outcome, ...]:
        """By time."""
        ...

    def kinds(self) -> tuple[tuple[str, int], ...]:
        """(kind, how many)."""
        ...

    def close(self) -> None: ...
