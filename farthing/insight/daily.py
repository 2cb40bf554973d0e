"""Cost by day or hour as gapless series, one for each slice."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec

from farthing.core.types import Totals

Grain = Literal["day", "hour"]
Key = tuple[str, ...]

SLOT_MS: Final[dict[Grain, int]] = {"day": 86_400_000, "hour": 3_600_000}
_FORMS: Final[dict[Grain, str]] = {"day": "%Y-%m-%d", "hour": "%Y-%m-%dT%H"}
NUSD: Final = 1e9


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Slots of equal length from ``start_ms`` on."""

    grain: Grain
    start_ms: int
    slots: int
    by_slice: dict[Key, list[int]]
    """Nano-USD of every slot, by slice."""

    def at_ms(self, slot: int) -> int:
        """When a slot begins."""
        return self.start_ms + slot * SLOT_MS[self.grain]

    def name(self, slot: int) -> str:
        """The slot in UTC, as ``LedgerQuery`` names it."""
        return slot_name(self.at_ms(slot), self.grain)


def slot_name(at_ms: int, grain: Grain) -> str:
    """``2026-11-21`` or ``2026-11-21T14``."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime(_FORMS[grain])


def slot_ms(name: str, grain: Grain) -> int:
    """When the slot of that name begins."""
    return round(datetime.strptime(name, _FORMS[grain]).replace(tzinfo=UTC).timestamp() * 1000)


def series(rows: Iterable[Totals], grain: Grain, *, until_ms: int, whole: bool = False) -> Series:
    """From answers grouped by the grain first and the slice's dimensions after it.

    Slots go from the first with any cost to the one of ``until_ms``, which is left out where ``whole`` slots are
    asked for. Corrections can make a slot negative: it then counts as zero, because series of cost know no less.
    """
    size = SLOT_MS[grain]
    found: dict[Key, dict[int, int]] = {}
    for row in rows:
        slot = slot_ms(row.group[0], grain) // size
        cells = found.setdefault(row.group[1:], {})
        cells[slot] = cells.get(slot, 0) + row.amount
    last = until_ms // size - (1 if whole or until_ms % size == 0 else 0)
    first = min((slot for cells in found.values() for slot in cells), default=last + 1)
    return Series(
        grain=grain,
        start_ms=first * size,
        slots=max(0, last - first + 1),
        by_slice={
            key: [max(0, cells.get(slot, 0)) for slot in range(first, last + 1)] for key, cells in found.items()
        },
    )
