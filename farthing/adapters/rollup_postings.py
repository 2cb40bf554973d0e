"""Where entries are: the blocks of 8 that have a value, of dimensions with many values and of values that are rare.

A list of one user's requests among ten million then reads a few blocks and not everything. Kept beside the cells and
as far as they are; an entry is in here once the number up to which entries are added says so.

What is new is noted by chunk, so that a batch writes few pages; a chunk that is complete is moved to where all that
is known of one value is together, so that a reader reads few.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from farthing.adapters.rollup_cuboids import name, value_of

POSTED: Final = ("user", "customer", "session", "key", "kind", "status", "state", "reason")
"""Dimensions of which it is known. Their places here stand in the file."""
USUAL: Final[Mapping[str, str]] = {"kind": "charge", "status": "200", "state": "priced", "reason": ""}
"""Values of almost every entry: it is not noted where they are."""
_COLUMNS: Final = "dimension INTEGER NOT NULL, value TEXT NOT NULL, chunk INTEGER NOT NULL, blocks TEXT NOT NULL"
TABLES: Final = (
    # A block is one character, its place in the chunk.
    f"CREATE TABLE postings_new ({_COLUMNS}, PRIMARY KEY (chunk, dimension, value)) STRICT, WITHOUT ROWID",
    f"CREATE TABLE postings ({_COLUMNS}, PRIMARY KEY (dimension, value, chunk)) STRICT, WITHOUT ROWID",
    # When the calls of a chunk came: of one of another time nothing is looked up.
    "CREATE TABLE chunks (chunk INTEGER PRIMARY KEY, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL) STRICT",
)
_BLOCK_BITS: Final = 3
_CHUNK_BITS: Final = 11
_FIRST: Final = 32
"""The character of a chunk's first block: NUL and its neighbours would be asking for trouble."""
BLOCK: Final = 1 << _BLOCK_BITS
"""Entries of a block: about a page of the ledger."""
CHUNK: Final = BLOCK << _CHUNK_BITS
"""Entries of a chunk."""

Filters = Sequence[tuple[str, str]]
Span = tuple[int, int]
"""Numbers of entries: from the first up to the second, which is not among them."""


def note(connection: sqlite3.Connection, low: int, high: int) -> None:
    """Inside a transaction: adds the entries after ``low`` up to ``high``."""
    source = f"FROM ledger.entries WHERE seq > {low} AND seq <= {high}"
    block = f"seq >> {_BLOCK_BITS} AS block"
    for place, dimension in enumerate(POSTED):
        if dimension not in USUAL:
            _add(connection, "", f"SELECT DISTINCT {block}, {name(dimension)} AS value {source}", str(place))
    unusual = " OR ".join(f"{name(dimension)} <> '{value}'" for dimension, value in USUAL.items())
    columns = ", ".join(f"{value_of(dimension)} AS {name(dimension)}" for dimension in USUAL)
    each = (
        f"SELECT {POSTED.index(dimension)} AS dimension, block, {name(dimension)} AS value FROM rare"
        f" WHERE {name(dimension)} <> '{value}'"
        for dimension, value in USUAL.items()
    )
    given = f"WITH rare AS MATERIALIZED (SELECT {block}, {columns} {source} AND ({unusual})) "
    _add(connection, given, " UNION ".join(each))
    for chunk in range((low + 1) // CHUNK, high // CHUNK + 1):  # one by one: grouping would sort
        first, last = max(low + 1, chunk * CHUNK), min(high, (chunk + 1) * CHUNK - 1)
        connection.execute(
            f"INSERT INTO main.chunks SELECT {chunk}, * FROM (SELECT min(received_at_ms) AS low, max(received_at_ms)"
            f" FROM ledger.entries WHERE seq >= {first} AND seq <= {last}) WHERE low IS NOT NULL"
            " ON CONFLICT (chunk) DO UPDATE SET first_ms = min(first_ms, excluded.first_ms),"
            " last_ms = max(last_ms, excluded.last_ms)"
        )
    complete = _open_chunk(high)
    connection.execute(
        "INSERT INTO main.postings SELECT * FROM main.postings_new WHERE chunk < ? ORDER BY dimension, value, chunk",
        (complete,),
    )
    connection.execute("DELETE FROM main.postings_new WHERE chunk < ?", (complete,))


def _add(connection: sqlite3.Connection, given: str, found: str, place: str = "dimension") -> None:
    """``found``: SELECT of block and value, each once; ``given``: what comes before; ``place``: SQL for the place of
    the dimension."""
    connection.execute(
        f"{given}INSERT INTO main.postings_new SELECT {place}, value, block >> {_CHUNK_BITS} AS at,"
        f" group_concat(char({_FIRST} + (block & {(1 << _CHUNK_BITS) - 1})), '')"
        f" FROM ({found}) WHERE true GROUP BY {'dimension, ' if place == 'dimension' else ''}at, value"
        " ON CONFLICT (chunk, dimension, value) DO UPDATE SET blocks = blocks || excluded.blocks"
    )


def _open_chunk(seq: int) -> int:
    """The first chunk that is not complete where entries up to this number are noted."""
    return (seq + 1) // CHUNK


def known(where: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Those of the filters of which it is known where their entries are."""
    return tuple(
        (dimension, value) for dimension, value in where if dimension in POSTED and USUAL.get(dimension) != value
    )


def spans(
    connection: sqlite3.Connection,
    where: Filters,
    *,
    seq: int,
    low: int,
    high: int,
    since_ms: int | None = None,
    until_ms: int | None = None,
) -> Iterator[Span]:
    """All numbers from ``low`` up to ``high`` (not among them) whose entries may match, newest first.

    ``where``: :func:`known` filters, one at least. ``seq``: entries up to here are noted; all later ones may match.
    Of a period, what is known to be of another time is left out.
    """
    if high > seq + 1:
        yield max(low, seq + 1), high
    first, last = low // CHUNK, min(seq, high - 1) // CHUNK
    period = "" if since_ms is None else f" AND chunks.last_ms >= {since_ms}"
    period += "" if until_ms is None else f" AND chunks.first_ms < {until_ms}"
    edge = _open_chunk(seq)
    parts = (("postings_new", max(first, edge), last), ("postings", first, min(last, edge - 1)))
    for table, since, until in parts:
        if since > until:
            continue
        for chunk, *texts in connection.execute(*_looked_up(table, where, since, until, period)):
            for start, end in _joined(set[str].intersection(*map(set, texts))):
                begins = max(low, chunk * CHUNK + start * BLOCK)
                ends = min(high, seq + 1, chunk * CHUNK + end * BLOCK)
                if begins < ends:
                    yield begins, ends


def _looked_up(table: str, where: Filters, first: int, last: int, period: str) -> tuple[str, list[object]]:
    """The statement that looks up all the values, chunk by chunk, last first, and its parameters."""
    sources = " CROSS JOIN ".join(f"main.{table} AS p{at}" for at in range(len(where)))
    conditions = f"p0.chunk >= {first} AND p0.chunk <= {last}" + "".join(
        f" AND p{at}.dimension = {POSTED.index(dimension)} AND p{at}.value = ?"
        + (f" AND p{at}.chunk = p0.chunk" if at else "")
        for at, (dimension, _) in enumerate(where)
    )
    blocks = ", ".join(f"p{at}.blocks" for at in range(len(where)))
    return (
        f"SELECT p0.chunk, {blocks} FROM {sources} CROSS JOIN main.chunks ON chunks.chunk = p0.chunk"
        f" WHERE {conditions}{period} ORDER BY p0.chunk DESC"
    ), [value for _, value in where]


def _joined(marks: Iterable[str]) -> Iterator[Span]:
    """The places of these blocks, neighbours together, last first."""
    first = end = -1
    for mark in sorted(marks, reverse=True):
        block = ord(mark) - _FIRST
        if block != first - 1:
            if end >= 0:
                yield first, end
            end = block + 1
        first = block
    if end >= 0:
        yield first, end
