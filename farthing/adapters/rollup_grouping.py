"""The sums of a batch for each cuboid, small ones from large ones: the temporary tables ``batch_N`` and ``fixes_N``.

Grouping the rows of a batch is what costs, so it is done for a few wide sets (``STEPS``, which are not kept, and the
widest cuboids); all others are added up from the table with the fewest rows that has their dimensions. Sums are the
same whichever way they are put together. What is counted once for a set of differing dimensions is a column of its
own, so ``fixes`` come from a cuboid that has the same columns, or from the rows themselves, which are few.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from farthing.adapters.ledger_query import MEASURES
from farthing.adapters.rollup_cuboids import STEPS, Cuboid, name, names
from farthing.adapters.rollup_file import Kept

JUDGED: Final = 1_000
"""Rows of a batch from which on it shows whether a step saves anything."""
SAVES: Final = 2
"""A step with more rows than one for so many of the batch saves nothing."""


class _Made(msgspec.Struct, frozen=True, kw_only=True):
    """A table that others may be added up from."""

    cuboid: Cuboid
    table: str
    rows: int


class Grouping:
    """Remembers which steps did not condense: in another ledger they may."""

    def __init__(self, connection: sqlite3.Connection, steps: Sequence[Cuboid] = STEPS) -> None:
        self._connection = connection
        self._steps = list(steps)

    def make(self, wanted: Sequence[Kept]) -> None:
        """The tables of these cuboids from ``temp.batch`` and ``temp.fixes``, whose columns they are."""
        sums = self._take_steps(wanted)
        fixes: list[_Made] = []
        for kept in sorted(wanted, key=lambda one: (-len(one.cuboid.dimensions), one.number)):
            sums.append(self._sum(kept.cuboid, f"batch_{kept.number}", MEASURES, sums, "batch"))
            larger = [one for one in fixes if one.cuboid.contains(kept.cuboid)]
            fixes.append(self._sum(kept.cuboid, f"fixes_{kept.number}", kept.cuboid.requests, larger, "fixes"))

    def drop(self, wanted: Iterable[Kept]) -> None:
        """After use."""
        tables = [f"{kind}_{kept.number}" for kept in wanted for kind in ("batch", "fixes")]
        for table in (*tables, *(_name_of(at) for at in range(len(STEPS)))):
            self._connection.execute(f"DROP TABLE IF EXISTS temp.{table}")

    def _take_steps(self, wanted: Sequence[Kept]) -> list[_Made]:
        widest = [
            one.cuboid
            for one in wanted
            if not any(one != other and _is_within(one.cuboid, other.cuboid) for other in wanted)
        ]
        made = []
        for at, step in enumerate(tuple(self._steps)):
            within = [cuboid for cuboid in widest if _is_within(cuboid, step)]
            if len(within) < 2:
                continue
            needed = Cuboid.of(dimension for cuboid in within for dimension in cuboid.dimensions)
            found = self._sum(needed, _name_of(at), MEASURES, (), "batch")
            rows = self._rows("batch")
            if rows >= JUDGED and found.rows * SAVES > rows:
                self._steps.remove(step)
            made.append(found)
        return made

    def _sum(
        self, cuboid: Cuboid, table: str, columns: Sequence[str], larger: Iterable[_Made], else_from: str
    ) -> _Made:
        able = [one for one in larger if _is_within(cuboid, one.cuboid)]
        parent = min(able, key=lambda one: one.rows, default=None)
        source = else_from if parent is None else parent.table
        keys = f"slot, {names(cuboid.dimensions)}"
        sums = ", ".join(f"sum({name(column)}) AS {name(column)}" for column in columns)
        self._connection.execute(f"DROP TABLE IF EXISTS temp.{table}")
        self._connection.execute(
            f"CREATE TABLE temp.{table} AS SELECT {keys}, {sums} FROM temp.{source} GROUP BY {keys}"
        )
        return _Made(cuboid=cuboid, table=table, rows=self._rows(table))

    def _rows(self, table: str) -> int:
        (rows,) = self._connection.execute(f"SELECT coalesce(max(rowid), 0) FROM temp.{table}").fetchone()
        return int(rows)


def _is_within(cuboid: Cuboid, larger: Cuboid) -> bool:
    return set(cuboid.dimensions) <= set(larger.dimensions)


def _name_of(step: int) -> str:
    return f"step_{step}"
