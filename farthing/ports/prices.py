"""Prices: an immutable book that rates usage."""

from typing import Protocol

from farthing.core.money import Nusd
from farthing.core.types import Bounds, Charge, Target, Usage


class Prices(Protocol):
    """One snapshot of prices; a request keeps the snapshot it started with."""

    @property
    def ref(self) -> str:
        """Content hash of the snapshot."""
        ...

    def charge(self, usage: Usage, target: Target, *, at_ms: int) -> Charge:
        """What this usage costs at that instant, at the served model and tier. Never raises for unknown prices."""
        ...

    def ceiling(self, bounds: Bounds, target: Target, *, at_ms: int) -> Nusd | None:
        """The most that an attempt within these bounds can cost; None when a price is unknown."""
        ...

    def context_window(self, target: Target) -> int | None:
        """The model's context window in tokens, if known."""
        ...
