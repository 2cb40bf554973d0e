"""Records to rows of PostgreSQL and back. Rows travel as JSON objects, many in one parameter."""

import re
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from farthing.adapters.sqlite_rows import (
    ENTRY_COLUMNS,
    EXCHANGE_COLUMNS,
    entry_cells,
    entry_from_row,
    exchange_cells,
    quoted,
)
from farthing.core.types import Exchange, LedgerEntry

_JSON: Final = ("tags", "lines", "usage", "decisions")
_FLAGS: Final = ("stream", "client_gone")
_WHOLE: Final = (
    "attempt", "received_at_ms", "booked_at_ms", "amount_nusd", "computed_nusd", "baseline_nusd", "ceiling_nusd",
    "status", "ttft_ms", "latency_ms", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens",
    "reasoning_tokens",
)  # fmt: skip


def _type(column: str) -> str:
    if column in _JSON or column == "body":
        return "json"
    return "boolean" if column in _FLAGS else "bigint" if column in _WHOLE else "text"


def _insert(table: str, columns: Sequence[str], conflict: str, returning: str) -> str:
    typed = ", ".join(f'"{name}" {_type(name)}' for name in columns)
    return (
        f"INSERT INTO {table} ({quoted(columns)}) SELECT {quoted(columns)} FROM json_to_recordset(%s::json)"
        f" AS given({typed}) ON CONFLICT ({conflict}) DO NOTHING{returning}"
    )


def _given(columns: Sequence[str], parameter: str) -> str:
    typed = ", ".join(f'"{name}" {_type(name)}' for name in columns)
    return f"json_to_recordset(%({parameter})s::json) AS given({typed})"


_LOWER: Final = """, lowered AS (
    UPDATE leases SET authority = greatest(0, leases.authority - p.posted) FROM p
    WHERE leases.counter = p.counter AND leases."window" = p."window" AND leases.unit = p.unit
        AND leases.worker = %(worker)s AND EXISTS (SELECT FROM me)
)"""


def ship_statement(*, leases: bool) -> str:
    """One statement for a batch of settlements: everything, or an error and nothing.

    It applies when the worker's journal is shipped up to ``before``, and when no entry's id is taken; else it divides
    by zero, and the caller goes the long way. Answers the counters as they are now, as JSON.
    """
    entries, exchanges = quoted(ENTRY_COLUMNS), quoted(EXCHANGE_COLUMNS)
    return f"""
WITH me AS MATERIALIZED (
    SELECT worker FROM workers WHERE worker = %(worker)s AND shipped = %(before)s FOR UPDATE
), p AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(posts)s::json)
        AS given(counter text, "window" text, unit text, posted numeric, ends_at_ms bigint)
), new AS (
    INSERT INTO entries ({entries}) SELECT given.* FROM {_given(ENTRY_COLUMNS, "entries")}
    WHERE EXISTS (SELECT FROM me) ON CONFLICT (id) DO NOTHING RETURNING 1
), logged AS (
    INSERT INTO exchanges ({exchanges}) SELECT given.* FROM {_given(EXCHANGE_COLUMNS, "exchanges")}
    WHERE EXISTS (SELECT FROM me) ON CONFLICT (request_id) DO NOTHING
), added AS (
    INSERT INTO counters (counter, "window", unit, posted, version, ends_at_ms)
    SELECT counter, "window", unit, posted, 1, ends_at_ms FROM p WHERE EXISTS (SELECT FROM me)
    ORDER BY counter, "window", unit
    ON CONFLICT (counter, "window", unit) DO UPDATE SET posted = counters.posted + excluded.posted,
        version = counters.version + 1, ends_at_ms = excluded.ends_at_ms
    RETURNING counter, "window", unit, posted::text, version, ends_at_ms
), told AS (
    UPDATE workers SET shipped = %(after)s WHERE worker IN (SELECT worker FROM me)
){_LOWER if leases else ""}
SELECT CASE WHEN EXISTS (SELECT FROM me) AND (SELECT count(*) FROM new) = %(count)s
    THEN (SELECT coalesce(json_agg(json_build_array(json_build_array(counter, "window", unit), posted, version,
        ends_at_ms)), '[]')::text FROM added)
    ELSE (SELECT 1 / (count(*) * 0) FROM new)::text END
"""


INSERT_ENTRIES: Final = _insert("entries", ENTRY_COLUMNS, "id", " RETURNING id")
INSERT_EXCHANGES: Final = _insert("exchanges", EXCHANGE_COLUMNS, "request_id", "")
_CELLS: Final = ", ".join(f'"{name}"::text' if name in _JSON else f'"{name}"' for name in ENTRY_COLUMNS)
BIG_ENTRY_SELECT: Final = f"SELECT {_CELLS} FROM entries"
"""All columns of ``ENTRY_COLUMNS``, as ``entry_of`` reads them."""
SEQ_ENTRY_SELECT: Final = f"SELECT seq, {_CELLS} FROM entries"

_NUL: Final = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
"""A NUL inside JSON; PostgreSQL's text cannot hold it."""

_BACKSLASH: Final = 0x5C

_encoder: Final = msgspec.json.Encoder()


def _record(name: str, columns: Sequence[str]) -> Callable[..., msgspec.Struct]:
    """A struct with these fields: encoded in their order, several times faster than a dict."""
    return msgspec.defstruct(name, [(column, object) for column in columns], frozen=True, gc=False)


_EntryRow: Final = _record("EntryRow", ENTRY_COLUMNS)
_ExchangeRow: Final = _record("ExchangeRow", EXCHANGE_COLUMNS)


def entry_to_json(entry: LedgerEntry) -> bytes:
    """The entry as a JSON object of its columns. Raises ``ValueError`` for what the ledger cannot hold."""
    tags = entry.scope.tags
    cells = entry_cells(
        entry,
        tags=dict(tags) if tags else None,
        lines=entry.charge.lines,
        usage=entry.usage,
        decisions=entry.decisions,
    )
    return _clean(_encoder.encode(_EntryRow(*cells)))


def exchange_to_json(exchange: Exchange) -> bytes:
    """The exchange as a JSON object of its columns."""
    return _clean(_encoder.encode(_ExchangeRow(*exchange_cells(exchange), exchange)))


def entry_of(row: Sequence[object]) -> LedgerEntry:
    """The entry of a row selected with ``BIG_ENTRY_SELECT``."""
    return entry_from_row(row)


def _clean(text: bytes) -> bytes:
    # One byte is found many times faster than several, and most texts have no backslash at all.
    return text if text.find(_BACKSLASH) < 0 or text.find(b"\\u0000") < 0 else _NUL.sub(rb"\1\\ufffd", text)
