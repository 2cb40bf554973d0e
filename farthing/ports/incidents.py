"""What people said of anomalies: seen, expected, and the rule they are judged by. Incidents are computed."""

from typing import Protocol

import msgspec

from farthing.core.series import Detector


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody takes care of an incident."""

    incident: str
    by: str
    at_ms: int
    note: str = ""


class ExpectedDays(msgspec.Struct, frozen=True, kw_only=True):
    """Days on which unusual cost is no news: a launch, a batch job, a price change."""

    id: str
    first: str
    """``2026-11-27``, UTC."""
    last: str
    """The last day itself included."""
    slice: str = ""
    """Only this slice (its values joined by ``, ``); empty: all."""
    why: str
    by: str
    at_ms: int


class IncidentMarks(Protocol):
    """Kept beside the ledger, by any process; blocking."""

    def acknowledge(self, mark: Mark) -> None:
        """The first to acknowledge stays."""
        ...

    def marks(self) -> dict[str, Mark]: ...

    def expect(self, days: ExpectedDays) -> None: ...

    def forget_expected(self, id: str) -> bool: ...

    def expected(self) -> tuple[ExpectedDays, ...]: ...

    def save_rule(self, grain: str, rule: Detector) -> None: ...

    def rule(self, grain: str) -> Detector | None:
        """The saved rule of a grain; None: the default applies."""
        ...

    def close(self) -> None: ...
