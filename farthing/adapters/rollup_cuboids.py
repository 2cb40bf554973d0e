"""Which roll-ups are kept: cuboids, each the sums of all measures by hour and by a few dimensions.

A cuboid answers every question whose dimensions (grouped by or filtered on) are among its own. Sums add up whichever
way cells are put together; requests do not, where the tries of one request lie in several cells (another model,
another status). So a cuboid counts requests once for each set of dimensions in which the tries of a request may
differ: a request is counted in the cell of its first entry of each combination of these.
"""

from collections.abc import Iterable
from itertools import combinations
from typing import Final

import msgspec

from farthing.adapters.sqlite_reader import SUMMED, expression
from farthing.core.dimensions import ENTRY_DIMENSIONS, TIME_DIMENSIONS
from farthing.core.types import LedgerQuery

HOUR_MS: Final = 3_600_000
COUNTED_MAX: Final = 4
"""Of more dimensions in which tries differ not every set is counted, only none and all of them."""

SAME: Final = ("endpoint", "model_requested")
"""Dimensions of the entry that all entries of a request have in common, as they have its scope."""
DIFFERING: Final = tuple(name for name in ENTRY_DIMENSIONS if name not in SAME)
"""Dimensions in which the tries and corrections of one request may differ."""


class Cuboid(msgspec.Struct, frozen=True):
    """Sums by these dimensions, which are sorted and in the order of its key."""

    dimensions: tuple[str, ...]

    @classmethod
    def of(cls, dimensions: Iterable[str]) -> "Cuboid":
        """The cuboid of these, whatever their order."""
        return cls(tuple(sorted(set(dimensions))))

    @property
    def counted(self) -> tuple[tuple[str, ...], ...]:
        """The sets of differing dimensions by which requests are counted."""
        own = differing(self.dimensions)
        widths = range(len(own) + 1) if len(own) <= COUNTED_MAX else (0, len(own))
        return tuple(some for width in widths for some in combinations(own, width))

    @property
    def requests(self) -> tuple[str, ...]:
        """The columns that count requests, by each set of ``counted``; they come after the measures."""
        return tuple(map(requests_column, self.counted))

    def answers(self, dimensions: Iterable[str]) -> bool:
        """True where a question about these can be answered from the cells."""
        asked = tuple(dimensions)
        return set(asked) <= set(self.dimensions) and differing(asked) in self.counted

    def contains(self, other: "Cuboid") -> bool:
        """True where the cells of the other are sums of these."""
        return set(other.dimensions) <= set(self.dimensions) and set(other.counted) <= set(self.counted)


BUILT_IN: Final = tuple(
    Cuboid.of(dimensions)
    for dimensions in (
        ("team", "feature", "provider", "model", "kind", "reason"),
        ("team", "endpoint", "provider", "model", "status"),
        ("feature", "provider", "model", "kind", "reason"),
        ("team", "feature", "model"),
        ("service_tier", "source", "state", "dialect"),
        ("org", "model_requested", "policy", "price_book"),
        ("team", "project", "key"),
        ("team", "user"),
        ("team", "customer"),
        ("team", "feature"),
        ("provider", "model", "state"),
        ("kind", "reason"),
        ("user",),
        ("customer",),
        ("project",),
        ("key",),
        ("team",),
        ("feature",),
        ("model",),
    )
)
"""What the pages ask about. Anything else is added when somebody asks."""

STEPS: Final = tuple(
    Cuboid.of(dimensions)
    for dimensions in (
        ("team", "feature", "endpoint", "provider", "model", "model_requested", "kind", "reason", "status", "state"),
        ("service_tier", "source", "state", "dialect", "org", "model_requested", "policy", "price_book"),
        ("team", "project", "key", "user", "customer"),
    )
)
"""Sets that are not kept: several that are, are added up from one of these instead of from the entries of a batch."""


def differing(dimensions: Iterable[str]) -> tuple[str, ...]:
    """Those of the dimensions in which entries of one request may differ, in a fixed order."""
    asked = set(dimensions)
    return tuple(name for name in DIFFERING if name in asked)


def requests_column(some: tuple[str, ...]) -> str:
    """The column that counts requests by a set of differing dimensions."""
    return f"requests:{','.join(some)}"


def asked_of(query: LedgerQuery) -> tuple[str, ...]:
    """The dimensions that a question is about, time left out, sorted."""
    names = {*query.group_by, *(name for name, _ in query.where)}
    return tuple(sorted(names - set(TIME_DIMENSIONS)))


def name(column: str) -> str:
    """A column's name in SQL; names of tags may hold anything."""
    return '"' + column.replace('"', '""') + '"'


def names(columns: Iterable[str]) -> str:
    """Several of them, for a list."""
    return ", ".join(map(name, columns))


def value_of(dimension: str) -> str:
    """SQL for a dimension of an entry, without parameters, so that it can stand in definitions."""
    sql, values = expression(dimension)
    for value in values:
        sql = sql.replace("?", "'" + str(value).replace("'", "''") + "'")
    return sql


def measure_of(measure: str) -> str:
    """SQL for what an entry adds to a measure; never NULL."""
    return f"coalesce({SUMMED.get(measure, measure)}, 0)"
