"""Entries and exchanges of a group commit as few, cheap INSERTs.

Binding is what such a statement costs most: about a thousand instructions a text. Rows of one group mostly agree in
what says how a call went (model, price book, status…), so those columns are bound once for all rows that agree.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from farthing.adapters.ledger_query import token_sums
from farthing.adapters.sqlite_rows import ENTRY_COLUMNS, EXCHANGE_COLUMNS, INT64_MAX, INT64_MIN, Row, quoted, too_much
from farthing.core.types import Exchange, LedgerEntry

ROWS_MAX: Final = 32
"""Rows per INSERT: one statement per table keeps the writer from handing the GIL back and forth for every row."""

_encoder: Final = msgspec.json.Encoder()
_encode: Final = _encoder.encode

_ALWAYS_SHARED: Final = (
    "kind", "corrects", "org", "project", "dialect", "endpoint", "provider", "price_as", "model_requested", "model",
    "service_tier", "source", "state", "reason", "computed_nusd", "fidelity", "price_book", "policy", "stream",
    "status", "error", "client_gone",
)  # fmt: skip
_SELDOM_SET: Final = {"feature": "''", "customer": "''", "session": "''", "tags": "NULL", "decisions": "'[]'"}
"""Columns that most installations leave empty, with what they then hold."""

_OWN: Final = (
    "id", "request_id", "attempt", "received_at_ms", "booked_at_ms", "team", "user", "key",
    "amount_nusd", "baseline_nusd", "ceiling_nusd", "ttft_ms", "latency_ms",
    "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "lines", "usage",
)  # fmt: skip
_NO_TIME: Final = -1
"""Stands for NULL in ``ttft_ms``: ``sqlite3`` asks its adapters about None, at thousands of instructions."""


class Inserts:
    """INSERTs of rows whose columns are partly shared: statements by number of rows, made when first needed."""

    def __init__(
        self, head: str, shared: Sequence[str], own: Sequence[str], fixed: Mapping[str, str], marks: Mapping[str, str]
    ) -> None:
        """``fixed`` are columns with their literals, ``marks`` what to write where a column is not just bound."""
        self._head = f"{head} ({quoted([*shared, *own, *fixed])}) VALUES "
        self._shared = len(shared)
        self._own = [marks.get(name, "{}") for name in own]
        self._fixed = list(fixed.values())
        self._agreeing: dict[int, str] = {}
        self._any: dict[int, str] = {}

    def agreeing(self, rows: int) -> str:
        """The statement for so many rows that agree: the shared cells are bound first, once."""
        found = self._agreeing.get(rows)
        if found is None:
            found = self._agreeing[rows] = self._statement(rows, again=False)
        return found

    def any(self, rows: int) -> str:
        """The statement for any rows: each binds its shared cells, then its own."""
        found = self._any.get(rows)
        if found is None:
            found = self._any[rows] = self._statement(rows, again=True)
        return found

    def _statement(self, rows: int, *, again: bool) -> str:
        width, shared = len(self._own), self._shared
        parts = []
        for row in range(rows):
            first = row * (shared + width) if again else 0
            begin = first + shared if again else shared + row * width
            cells = [f"?{first + place + 1}" for place in range(shared)]
            cells += [mark.format(f"?{begin + place + 1}") for place, mark in enumerate(self._own)]
            parts.append(f"({', '.join([*cells, *self._fixed])})")
        return self._head + ", ".join(parts)


ShapedRow = tuple[Inserts, Row, Row]
"""How to insert a row, the cells that others may share, and its own."""

_TIME: Final = {"ttft_ms": f"nullif({{}}, {_NO_TIME})"}
_BARE: Final = Inserts("INSERT INTO entries", _ALWAYS_SHARED, _OWN, _SELDOM_SET, _TIME)
_FULL: Final = Inserts(
    "INSERT INTO entries", _ALWAYS_SHARED, (*_OWN, *_SELDOM_SET), {}, {**_TIME, "tags": "nullif({}, '')"}
)
_EXCHANGES: Final = Inserts(
    "INSERT OR IGNORE INTO exchanges",
    ("outcome", "status", "error"),
    [name for name in EXCHANGE_COLUMNS if name not in ("outcome", "status", "error")],
    {},
    {},
)
assert {*_ALWAYS_SHARED, *_OWN, *_SELDOM_SET} == set(ENTRY_COLUMNS)


def entry_to_sqlite(entry: LedgerEntry) -> ShapedRow:
    """The entry as a row. Raises ``ValueError`` for amounts that int64 cannot hold."""
    scope, usage, charge, ttft_ms = entry.scope, entry.usage, entry.charge, entry.ttft_ms
    total, computed, baseline, ceiling = charge.total, charge.computed, entry.baseline, entry.ceiling
    if not (
        INT64_MIN <= (total or 0) <= INT64_MAX
        and INT64_MIN <= (computed or 0) <= INT64_MAX
        and INT64_MIN <= (baseline or 0) <= INT64_MAX
        and INT64_MIN <= (ceiling or 0) <= INT64_MAX
    ):
        raise too_much(max((total or 0, computed or 0, baseline or 0, ceiling or 0), key=abs))
    shared = (
        entry.kind, entry.corrects, scope.org, scope.project,
        entry.dialect, entry.endpoint, entry.provider, entry.price_as, entry.model_requested, entry.model,
        usage.service_tier, usage.source, charge.state, charge.reason, computed,
        entry.fidelity, charge.price_ref, entry.policy_ref, +entry.stream, entry.status, entry.error,
        +entry.client_gone,
    )  # fmt: skip
    own = (
        entry.id, entry.request_id, entry.attempt, entry.received_at_ms, entry.booked_at_ms,
        scope.team, scope.user, scope.key, total, baseline, ceiling,
        _NO_TIME if ttft_ms is None else ttft_ms, entry.latency_ms, *token_sums(entry),
        _encode(charge.lines).decode(), _encode(usage).decode(),
    )  # fmt: skip
    if not (scope.feature or scope.customer or scope.session or scope.tags or entry.decisions):
        return _BARE, shared, own
    tags = _encode(dict(scope.tags)).decode() if scope.tags else ""
    decisions = _encode(entry.decisions).decode() if entry.decisions else "[]"
    return _FULL, shared, (*own, scope.feature, scope.customer, scope.session, tags, decisions)


def exchange_to_sqlite(exchange: Exchange) -> ShapedRow:
    """The exchange as a row. Raises ``ValueError`` for an amount that int64 cannot hold."""
    amount = exchange.amount
    if amount is not None and not INT64_MIN <= amount <= INT64_MAX:
        raise too_much(amount)
    body = bytearray(2048)  # encoded where it stays, without growing step by step
    _encoder.encode_into(exchange, body)
    own = (exchange.request_id, exchange.received_at_ms, exchange.latency_ms, amount, body)
    return _EXCHANGES, (exchange.outcome, exchange.status, exchange.error), own


def insert(execute: Callable[[str, Sequence[object]], object], rows: Sequence[ShapedRow]) -> None:
    """Insert rows; those that agree with others are written together, otherwise their order stays."""
    by_kind: dict[Inserts, dict[Row, list[Row]]] = {}
    for inserts, shared, own in rows:
        shapes = by_kind.get(inserts)
        if shapes is None:
            shapes = by_kind[inserts] = {}
        agreeing = shapes.get(shared)
        if agreeing is None:
            shapes[shared] = [own]
        else:
            agreeing.append(own)
    for inserts, shapes in by_kind.items():
        if len(shapes) > 1 and 2 * len(shapes) > sum(map(len, shapes.values())):
            insert_in_order(execute, [row for row in rows if row[0] is inserts])
            continue
        for shared, owns in shapes.items():
            for start in range(0, len(owns), ROWS_MAX):
                part = owns[start : start + ROWS_MAX]
                cells = list(shared)
                for own in part:
                    cells += own
                execute(inserts.agreeing(len(part)), cells)


def insert_in_order(execute: Callable[[str, Sequence[object]], object], rows: Sequence[ShapedRow]) -> None:
    """Insert rows of one act exactly in their order."""
    start = 0
    while start < len(rows):
        inserts = rows[start][0]
        end = start + 1
        while end < len(rows) and rows[end][0] is inserts and end - start < ROWS_MAX:
            end += 1
        cells: list[object] = []
        for _, shared, own in rows[start:end]:
            cells += shared
            cells += own
        execute(inserts.any(end - start), cells)
        start = end
