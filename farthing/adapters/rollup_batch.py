"""One batch of entries as rows to be added up: the temporary tables ``batch`` and ``fixes``.

A row of ``batch`` bears its hour, the dimensions and what it adds to each measure. Requests are at first taken to be
as many as entries; ``fixes`` has what to add to that (mostly -1), for each set of differing dimensions: for entries
that are not the first of their request with that combination, for entries of strays, and for earlier entries of
requests that turn out to be strays now.
"""

import sqlite3
from collections.abc import Iterable
from typing import Final

from farthing.adapters.ledger_query import MEASURES
from farthing.adapters.rollup_cuboids import (
    DIFFERING,
    HOUR_MS,
    SAME,
    Cuboid,
    measure_of,
    name,
    names,
    requests_column,
    value_of,
)
from farthing.adapters.rollup_file import STRAY_COLUMNS
from farthing.core.dimensions import SCOPE_DIMENSIONS

LARGEST: Final = 2**47
"""Numbers of an entry beyond this are not added up in 64 bits: the entry is ``odd``."""
LAST_MS: Final = 253_402_300_800_000
"""The year 10000, which has no name for SQLite."""

_LARGE: Final = (
    "amount_nusd", "baseline_nusd", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens",
    "reasoning_tokens", "latency_ms",
)  # fmt: skip
_ODD: Final = " OR ".join(
    (f"received_at_ms NOT BETWEEN 0 AND {LAST_MS - 1}",
     *(f"coalesce({column}, 0) NOT BETWEEN -{LARGEST} AND {LARGEST}" for column in _LARGE))
)  # fmt: skip
_ALIKE: Final = ("slot", *SCOPE_DIMENSIONS, "tags", *SAME)
"""What all entries of a request have in common, unless it is a stray."""
_FROM: Final = "FROM ledger.entries AS entries"
_TABLES: Final = ("batch", "family", "told_apart", "differences", "fixes", "odd_ones")
_MANY: Final = 50
"""A request with more entries is taken for a stray: comparing each with each would take too long."""


def drop(connection: sqlite3.Connection) -> None:
    """The temporary tables of the batch before."""
    for table in _TABLES:
        connection.execute(f"DROP TABLE IF EXISTS temp.{table}")


def make(connection: sqlite3.Connection, cuboids: Iterable[Cuboid], low: int, high: int) -> None:
    """The batch of the entries after ``low`` up to ``high``, with all that these cuboids need."""
    wanted = tuple(cuboids)
    dimensions = sorted({dimension for cuboid in wanted for dimension in cuboid.dimensions})
    counted = sorted({some for cuboid in wanted for some in cuboid.counted})
    drop(connection)
    _entries(connection, dimensions, low, high)
    _families(connection, low, high)
    _fixes(connection, dimensions, counted)


def _entries(connection: sqlite3.Connection, dimensions: list[str], low: int, high: int) -> None:
    period = f"seq > {low} AND seq <= {high}"
    connection.execute(f"CREATE TABLE temp.odd_ones AS SELECT seq {_FROM} WHERE {period} AND ({_ODD})")
    columns = [
        "seq", f"received_at_ms / {HOUR_MS} AS slot", "request_id",
        *(f"{value_of(dimension)} AS {name(dimension)}" for dimension in dimensions),
        *(f"{measure_of(measure)} AS {name(measure)}" for measure in MEASURES),
    ]  # fmt: skip
    connection.execute(
        f"CREATE TABLE temp.batch AS SELECT {', '.join(columns)} {_FROM} WHERE {period}"
        " AND seq NOT IN (SELECT seq FROM temp.odd_ones)"
    )


def _families(connection: sqlite3.Connection, low: int, high: int) -> None:
    """All entries so far of the batch's requests with more than one, and which of these requests are strays."""
    cells = {"slot": f"received_at_ms / {HOUR_MS}", "tags": "coalesce(tags, '')", "status": value_of("status")}
    kept = [f"{cells.get(column, name(column))} AS {name(column)}" for column in STRAY_COLUMNS]
    connection.execute(
        f"CREATE TABLE temp.family AS SELECT seq, seq > {low} AS new, {', '.join(kept)} {_FROM}"
        " WHERE request_id IN (SELECT request_id FROM temp.batch WHERE EXISTS (SELECT 1 FROM ledger.entries AS other"
        f" WHERE other.request_id = batch.request_id AND other.seq <> batch.seq AND other.seq <= {high}))"
        f" AND seq <= {high} AND NOT ({_ODD})"
    )
    connection.execute("CREATE INDEX temp.family_request ON family (request_id, seq)")
    now = f"count(*) > {_MANY} OR " + " OR ".join(f"min({name(column)}) <> max({name(column)})" for column in _ALIKE)
    before = f"count(*) FILTER (WHERE NOT new) > {_MANY} OR " + " OR ".join(
        f"min({name(column)}) FILTER (WHERE NOT new) <> max({name(column)}) FILTER (WHERE NOT new)"
        for column in _ALIKE
    )
    connection.execute(
        f"CREATE TABLE temp.told_apart AS SELECT request_id, {now} AS stray, coalesce({before}, 0) AS was_stray"
        " FROM temp.family GROUP BY request_id"
    )
    connection.execute("CREATE UNIQUE INDEX temp.told_apart_request ON told_apart (request_id)")


def _fixes(connection: sqlite3.Connection, dimensions: list[str], counted: list[tuple[str, ...]]) -> None:
    """Entries that are no firsts; and of requests that became strays, what was counted of them is taken back."""
    bits = {column: 1 << at for at, column in enumerate(DIFFERING)}
    differ = " + ".join(f"(later.{name(column)} <> earlier.{name(column)}) * {bit}" for column, bit in bits.items())
    connection.execute(
        f"CREATE TABLE temp.differences AS SELECT later.seq, {differ} AS bits"
        " FROM temp.told_apart JOIN temp.family AS later USING (request_id) JOIN temp.family AS earlier"
        " ON earlier.request_id = later.request_id AND earlier.seq < later.seq"
        " WHERE (NOT stray AND later.new) OR (stray AND NOT was_stray AND NOT later.new)"
    )
    connection.execute("CREATE INDEX temp.differences_seq ON differences (seq)")
    flags = []
    for some in counted:
        asked = sum(bits[column] for column in some)
        # The first with a combination is the one that differs in it from every earlier one.
        first = f"coalesce(min((bits & {asked}) <> 0), 1)"
        flags.append(f"iif(new, iif(stray, 0, {first}) - 1, -{first}) AS {name(requests_column(some))}")
    values = "".join(f"{_kept(dimension)} AS {name(dimension)}, " for dimension in dimensions)
    connection.execute(
        f"CREATE TABLE temp.fixes AS SELECT slot, {values}{', '.join(flags)}"
        " FROM temp.told_apart JOIN temp.family AS entries USING (request_id) LEFT JOIN temp.differences USING (seq)"
        " WHERE new OR (stray AND NOT was_stray) GROUP BY entries.seq"
    )


def _kept(dimension: str) -> str:
    """SQL for a dimension of a row of ``family``."""
    return value_of(dimension).replace("entries.tags", "nullif(entries.tags, '')")


def note_strays(connection: sqlite3.Connection) -> None:
    """Keep the entries of strays and the odd ones of this batch, to be counted one by one."""
    kept = ", ".join("nullif(tags, '')" if column == "tags" else name(column) for column in STRAY_COLUMNS)
    connection.execute(
        f"INSERT OR IGNORE INTO main.strays (seq, {names(STRAY_COLUMNS)}) SELECT seq, {kept}"
        " FROM temp.family WHERE request_id IN (SELECT request_id FROM temp.told_apart WHERE stray)"
    )
    connection.execute("INSERT OR IGNORE INTO main.odd SELECT seq FROM temp.odd_ones")
