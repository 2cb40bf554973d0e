"""Where entries of a value are: for dimensions with many values, the blocks of 64 entries that have one.

A list of one user's requests among ten million then reads a few blocks and not everything. Kept beside the cells and
as far as they are; an entry is in here once the number up to which entries are added says so.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from farthing.adapters.rollup_cuboids import name

POSTED: Final = ("user", "customer", "session", "key")
"""Dimensions that may have thousands of values. Their places here stand in the file."""
TABLE: Final = (
    "CREATE TABLE postings (dimension INTEGER NOT NULL, chunk INTEGER NOT NULL, value TEXT NOT NULL,"
    " blocks TEXT NOT NULL, PRIMARY KEY (dimension, chunk, value)) STRICT, WITHOUT ROWID"
)
"""By chunk first: what a batch adds is then on few pages. A block is one character, its place in the chunk."""
_BLOCK_BITS: Final = 6
_CHUNK_BITS: Final = 8
_FIRST: Final = 32
"""The character of a chunk's first block: NUL and its neighbours would be asking for trouble."""
_CHUNKS_FIRST: Final = 4
BLOCK: Final = 1 << _BLOCK_BITS
"""Entries of a block."""
CHUNK: Final = BLOCK << _CHUNK_BITS
"""Entries of a chunk."""

Span = tuple[int, int]
"""Numbers of entries: from the first up to the second, which is not among them."""


def note(connection: sqlite3.Connection, low: int, high: int) -> None:
    """Inside a transaction: adds the entries after ``low`` up to ``high``."""
    for place, dimension in enumerate(POSTED):
        connection.execute(
            f"INSERT INTO main.postings SELECT {place}, block >> {_CHUNK_BITS}, value,"
            f" group_concat(char({_FIRST} + (block & {(1 << _CHUNK_BITS) - 1})), '')"
            f" FROM (SELECT DISTINCT seq >> {_BLOCK_BITS} AS block, {name(dimension)} AS value"
            f" FROM ledger.entries WHERE seq > {low} AND seq <= {high})"
            f" WHERE true GROUP BY block >> {_CHUNK_BITS}, value"
            " ON CONFLICT (dimension, chunk, value) DO UPDATE SET blocks = blocks || excluded.blocks"
        )


def is_posted(where: Iterable[tuple[str, str]]) -> bool:
    """Some of the filters are on dimensions that are kept here."""
    return any(dimension in POSTED for dimension, _ in where)


def spans(
    connection: sqlite3.Connection, where: Sequence[tuple[str, str]], *, seq: int, low: int, high: int
) -> Iterator[Span]:
    """All numbers from ``low`` up to ``high`` (not among them) whose entries may match, newest first.

    ``seq``: entries up to here are in the postings; all later ones may match.
    """
    if high > seq + 1:
        yield max(low, seq + 1), high
    asked = [(POSTED.index(dimension), value) for dimension, value in where if dimension in POSTED]
    for chunk, blocks in _found(connection, asked, low // CHUNK, min(seq, high - 1) // CHUNK):
        for first, end in _joined(blocks):
            since = max(low, chunk * CHUNK + first * BLOCK)
            until = min(high, seq + 1, chunk * CHUNK + end * BLOCK)
            if since < until:
                yield since, until


def _found(
    connection: sqlite3.Connection, asked: Sequence[tuple[int, str]], low: int, high: int
) -> Iterator[tuple[int, set[int]]]:
    """The chunks from ``high`` down to ``low`` that have all of the values, and the places of the blocks that do.

    Few chunks are looked at first, as a list mostly needs no more; then more and more by one statement.
    """
    count = _CHUNKS_FIRST
    while high >= low:
        end = max(low, high - count + 1)
        for chunk, *texts in connection.execute(*_looked_up(asked, end, high)):
            yield chunk, set[int].intersection(*({ord(one) - _FIRST for one in text} for text in texts))
        high, count = end - 1, count * 4


def _looked_up(asked: Sequence[tuple[int, str]], low: int, high: int) -> tuple[str, list[object]]:
    """The statement that looks the values up in each chunk, and its parameters."""
    given: list[object] = [high, low]
    columns = joins = ""
    for at, (place, value) in enumerate(asked):
        columns += f", p{at}.blocks"
        joins += (
            f" CROSS JOIN main.postings AS p{at}"
            f" ON p{at}.dimension = {place} AND p{at}.chunk = chunks.chunk AND p{at}.value = ?"
        )
        given.append(value)
    return (
        "WITH RECURSIVE chunks(chunk) AS (SELECT ? UNION ALL SELECT chunk - 1 FROM chunks WHERE chunk > ?)"
        f" SELECT chunks.chunk{columns} FROM chunks{joins} ORDER BY chunks.chunk DESC"
    ), given


def _joined(blocks: Iterable[int]) -> Iterator[Span]:
    """Neighbours together, last first."""
    first = end = -1
    for block in sorted(blocks, reverse=True):
        if block != first - 1:
            if end >= 0:
                yield first, end
            end = block + 1
        first = block
    if end >= 0:
        yield first, end
