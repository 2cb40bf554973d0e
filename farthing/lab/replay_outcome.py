"""How requests end in a replay, and who is told."""

from collections.abc import Callable, Iterable
from typing import Literal, Protocol, runtime_checkable

import msgspec

from farthing.core.types import Charge, Decision, Exchange, LedgerEntry
from farthing.core.units import INPUT_UNITS
from farthing.engine.caching_books import CACHE_HIT
from farthing.lab.replay_log import Logged
from farthing.lab.replay_provider import Drawn

Fidelity = Literal["exact", "repriced", "estimated", "unknown"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one request ended in a replay."""

    logged: Logged
    entries: tuple[LedgerEntry, ...]
    decisions: tuple[Decision, ...]
    outcome: str
    status: int
    error: str
    latency_ms: int
    fidelity: Fidelity
    guesses: dict[int, str]
    """Tries whose consumption was estimated, with the model that was asked."""
    drawn: Drawn | None = None
    """The verdict of a cascade, where only its chance is known."""
    similar: bool = False
    """Whether a similar question answers it was taken from a log of another policy."""

    @property
    def amount(self) -> int | None:
        """Nano-USD; None when any entry is unpriced."""
        totals = [entry.charge.total for entry in self.entries]
        known = [total for total in totals if total is not None]
        return sum(known) if len(known) == len(totals) else None


Sink = Callable[[Outcome], None]


@runtime_checkable
class Sums(Protocol):
    """A sink that only adds up: for calls whose course is plain it is told numbers, and no record is made."""

    def __call__(self, outcome: Outcome) -> None: ...

    def answered(
        self, source: Exchange, model: str, total: int | None, fidelity: Fidelity, latency_ms: int, cached: bool
    ) -> None:
        """One entry of this model at this charge (None: unpriced); ``cached``: a cache answered."""
        ...

    def unanswered(self, source: Exchange, outcome: str, error: str, latency_ms: int) -> None:
        """No entry."""
        ...


def fidelity_of(source: Exchange, entries: Iterable[LedgerEntry], *, estimated: bool) -> Fidelity:
    """How sure a request's entries are; ``estimated``: some try of it was not in the log."""
    if estimated:
        return "estimated"
    found: Fidelity = "exact"
    total = attempt = 0
    for entry in entries:
        attempt = entry.attempt
        if entry.charge.reason == CACHE_HIT:
            continue  # it costs nothing, for sure; what it saved may be estimated
        if entry.fidelity == "unknown":
            found = "unknown"
        elif entry.fidelity == "estimated":
            return "estimated"
        total += entry.charge.total or 0
    if found == "exact" and attempt and differs(source, total):
        return "repriced"
    return found


def input_nusd(charge: Charge) -> int:
    """What of a charge is for input, as far as its price is known."""
    return sum([line.amount or 0 for line in charge.lines if line.unit in INPUT_UNITS])


def differs(source: Exchange, total: int | None) -> bool:
    """The log has another amount for what it sent to a provider."""
    return bool(source.attempts) and (total or 0) != (source.amount or 0)
