"""What answers of a log consumed, for requests that a cache answered with them. Few are ever asked about."""

from typing import cast

from farthing.core.types import Usage


class Consumed:
    """Models and consumption by ledger entry."""

    __slots__ = ("_by_entry", "_sorted", "fields")

    def __init__(self) -> None:
        self.fields: list[str | Usage] = []
        """Entry, model and usage of each, in the order in which they came; a record of each would have to be looked
        through for garbage.
        """
        self._by_entry: dict[str, tuple[str, Usage]] = {}
        """The same by entry, once somebody has asked for one."""
        self._sorted = 0
        """So many fields are in there."""

    def get(self, entry_id: str) -> tuple[str, Usage] | None:
        """(model, what it consumed); None: it is not known."""
        if self._sorted < len(self.fields):
            self._by_entry.update([(one, (model, usage)) for one, model, usage in self.every(self._sorted)])
            self._sorted = len(self.fields)
        return self._by_entry.get(entry_id)

    def every(self, first: int = 0) -> list[tuple[str, str, Usage]]:
        """(entry, model, usage) of each, from a field on."""
        left = iter(self.fields[first:])
        return cast("list[tuple[str, str, Usage]]", list(zip(left, left, left, strict=True)))
