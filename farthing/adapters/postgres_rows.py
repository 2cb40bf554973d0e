"""Records to rows of PostgreSQL and back. Rows travel as JSON objects, many in one parameter."""

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from farthing.adapters.sqlite_rows import (
    ENTRY_COLUMNS,
    EXCHANGE_COLUMNS,
    entry_from_row,
    entry_to_row,
    exchange_to_row,
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


INSERT_ENTRIES: Final = _insert("entries", ENTRY_COLUMNS, "id", " RETURNING id")
INSERT_EXCHANGES: Final = _insert("exchanges", EXCHANGE_COLUMNS, "request_id", "")
_CELLS: Final = ", ".join(f'"{name}"::text' if name in _JSON else f'"{name}"' for name in ENTRY_COLUMNS)
BIG_ENTRY_SELECT: Final = f"SELECT {_CELLS} FROM entries"
"""All columns of ``ENTRY_COLUMNS``, as ``entry_of`` reads them."""
SEQ_ENTRY_SELECT: Final = f"SELECT seq, {_CELLS} FROM entries"

_NUL: Final = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
"""A NUL inside JSON; PostgreSQL's text cannot hold it."""

_encode = msgspec.json.Encoder().encode


def entry_to_json(entry: LedgerEntry) -> bytes:
    """The entry as a JSON object of its columns. Raises ``ValueError`` for what the ledger cannot hold."""
    cells = dict(zip(ENTRY_COLUMNS, entry_to_row(entry), strict=True))
    for name in _JSON:
        text = cells[name]
        if text is not None:
            cells[name] = msgspec.Raw(str(text))
    return _clean(_encode(cells))


def exchange_to_json(exchange: Exchange) -> bytes:
    """The exchange as a JSON object of its columns."""
    row = exchange_to_row(exchange)
    cells = dict(zip(EXCHANGE_COLUMNS, row, strict=True))
    body = row[-1]
    assert isinstance(body, bytes)
    cells["body"] = msgspec.Raw(body)
    return _clean(_encode(cells))


def entry_of(row: Sequence[object]) -> LedgerEntry:
    """The entry of a row selected with ``BIG_ENTRY_SELECT``."""
    return entry_from_row(row)


def _clean(text: bytes) -> bytes:
    return text if b"\\u0000" not in text else _NUL.sub(rb"\1\\ufffd", text)
