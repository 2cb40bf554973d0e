"""What answers of a log consumed, for requests that a cache answered with them. Few are ever asked about."""

from typing import NamedTuple, cast

from farthing.core.types import Usage


class Known(NamedTuple):
    """An answer of the log."""

    entry_id: str
    model: str
    usage: Usage
    latency_ms: int


class Consumed:
    """Answers by ledger entry."""

    __slots__ = ("_by_entry", "_sorted", "fields")

    def __init__(self) -> None:
        self.fields: list[str | Usage | int] = []
        """Entry, model, usage and latency of each, in the order in which they came; a record of each would have to be
        looked through for garbage.
        """
        self._by_entry: dict[str, Known] = {}
        """The same by entry, once somebody has asked for one."""
        self._sorted = 0
        """So many fields are in there."""

    def get(self, entry_id: str) -> Known | None:
        """None: it is not known."""
        if self._sorted < len(self.fields):
            self._by_entry.update([(one.entry_id, one) for one in self.every(self._sorted)])
            self._sorted = len(self.fields)
        return self._by_entry.get(entry_id)

    def every(self, first: int = 0) -> list[Known]:
        """Each of them, from a field on."""
        left = iter(self.fields[first:])
        found = cast("list[tuple[str, str, Usage, int]]", list(zip(left, left, left, left, strict=True)))
        return [Known(*one) for one in found]
