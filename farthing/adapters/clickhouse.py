"""The books in ClickHouse, for analytics: inserting batches, and ``Ledger``. Blocking.

The SQL runs through a port of one method, so that a server over HTTP and an engine in this process are the same.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Final, Protocol, TypeVar

import msgspec

from farthing.adapters.ledger_query import MEASURES, check_query
from farthing.adapters.sqlite_rows import (
    ENTRY_COLUMNS,
    EXCHANGE_COLUMNS,
    entry_from_row,
    entry_to_row,
    exchange_from_body,
    exchange_to_row,
    quoted,
)
from farthing.core.errors import NotFound
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery, Totals

PAGE: Final = 2_000
Rows = TypeVar("Rows")

_AT: Final = "toDateTime64(intDiv(received_at_ms, 1000), 0, 'UTC')"
_TIMES: Final = {
    "hour": f"formatDateTime({_AT}, '%Y-%m-%dT%H')",
    "day": f"formatDateTime({_AT}, '%Y-%m-%d')",
    "week": f"concat(toString(toISOYear({_AT})), '-W', leftPad(toString(toISOWeek({_AT})), 2, '0'))",
    "month": f"formatDateTime({_AT}, '%Y-%m')",
}
_SUMMED: Final = {
    "entries": "count()",
    "amount": "sum(toInt128(amount_nusd))",
    "baseline": "sumIf(toInt128(baseline_nusd), amount_nusd IS NOT NULL)",
    "unpriced": "toInt64(countIf(amount_nusd IS NULL)) - toInt64(countIf(reason = 'was_unpriced'))",
    "estimated": "countIf(source <> 'reported')",
    "estimated_amount": "sumIf(toInt128(amount_nusd), source <> 'reported')",
    "errors": "countIf(error <> '')",
}
_tags = msgspec.json.Decoder(dict[str, str])


class ClickHouse(Protocol):
    """Something that runs ClickHouse's SQL."""

    def run(self, sql: str, parameters: Mapping[str, str] | None = None) -> bytes:
        """One statement, its data behind it for an INSERT; ``{name:String}`` takes the parameter of that name, in
        ClickHouse's escaped form.

        Raises ``StoreUnavailable`` when it could not be run.
        """
        ...


def migrate(server: ClickHouse) -> None:
    """Makes the tables that are not there yet; may be repeated."""
    for file in sorted(resources.files("farthing.adapters.sql.clickhouse").iterdir(), key=lambda one: one.name):
        if file.name.endswith(".sql"):
            for statement in _statements(file.read_text(encoding="utf-8")):
                server.run(statement)


class ClickHouseSink:
    """Inserting in batches; what comes twice is there once."""

    def __init__(self, server: ClickHouse) -> None:
        self._server = server

    def prepare(self) -> None:
        """Makes the tables that are not there yet."""
        migrate(self._server)

    def put_entries(self, entries: Sequence[LedgerEntry]) -> None:
        """Raises ``StoreUnavailable``; then the same batch may be sent again."""
        rows = [list(entry_to_row(entry)) for entry in entries]
        tags = ENTRY_COLUMNS.index("tags")
        for row in rows:
            row[tags] = _tags.decode(str(row[tags])) if row[tags] is not None else {}
        self._insert("entries", ENTRY_COLUMNS, rows, [entry.id for entry in entries])

    def put_exchanges(self, exchanges: Sequence[Exchange]) -> None:
        """Raises ``StoreUnavailable``; then the same batch may be sent again."""
        rows = [list(exchange_to_row(exchange)) for exchange in exchanges]
        for row in rows:
            body = row[-1]
            row[-1] = body.decode() if isinstance(body, bytes) else body
        self._insert("exchanges", EXCHANGE_COLUMNS, rows, [exchange.request_id for exchange in exchanges])

    def _insert(self, table: str, columns: Sequence[str], rows: list[list[object]], ids: Sequence[str]) -> None:
        if not rows:
            return
        token = hashlib.sha256("\0".join(ids).encode()).hexdigest()
        data = b"\n".join(msgspec.json.encode(row) for row in rows).decode()
        self._server.run(
            f"INSERT INTO {table} ({quoted(columns)}) SETTINGS insert_deduplication_token = '{token}',"
            f" max_partitions_per_insert_block = 0 FORMAT JSONCompactEachRow\n{data}"
        )


class ClickHouseLedger:
    """``Ledger`` in ClickHouse; sums are exact (128 bits), entries come in the order in which they were booked."""

    def __init__(self, server: ClickHouse) -> None:
        self._server = server

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]:
        width = len(query.group_by)
        rows = self._rows(*compile_totals(query), kind=list[list[str | None]])
        found = [
            Totals(
                group=tuple(str(value) for value in row[:width]),
                requests=int(row[width] or 0),
                **{name: int(value or 0) for name, value in zip(MEASURES, row[width + 1 :], strict=True)},
            )
            for row in rows
        ]
        return tuple(sorted(found, key=_group))

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]:
        where = "received_at_ms >= {since:Int64}" + (" AND request_id = {request:String}" if request_id else "")
        values = {"since": str(since_ms), "request": request_id}
        columns = f"booked_at_ms, id, {quoted(ENTRY_COLUMNS)}"
        for row in self._pages("entries", columns, ("booked_at_ms", "id"), where, values, after):
            cells = dict(zip(ENTRY_COLUMNS, row, strict=True))
            tags = cells["tags"]
            cells["tags"] = msgspec.json.encode(tags).decode() if tags else None
            yield entry_from_row(tuple(cells.values()))

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]:
        key = ("received_at_ms", "request_id")
        values, columns = {"since": str(since_ms)}, f"{', '.join(key)}, body"
        for row in self._pages("exchanges", columns, key, "received_at_ms >= {since:Int64}", values, after):
            yield exchange_from_body(str(row[0]).encode())

    def _pages(
        self, table: str, columns: str, key: tuple[str, str], where: str, values: Mapping[str, str], after: str
    ) -> Iterator[list[object]]:
        """Rows by ``key``, which is (a time, the id) and stands before the columns."""
        at_ms, id = -(2**63), ""
        if after:
            found = self._rows(
                f"SELECT {key[0]} FROM {table} FINAL WHERE {key[1]} = {{id:String}}", {"id": after}, list[list[int]]
            )
            if not found:
                raise NotFound(
                    f"There is no record {after!r} to continue after.", hint="Start again from the beginning."
                )
            at_ms, id = found[0][0], after
        sql = (
            f"SELECT {columns} FROM {table} FINAL WHERE ({key[0]}, {key[1]}) > ({{at:Int64}}, {{id:String}})"
            f" AND {where} ORDER BY {key[0]}, {key[1]} LIMIT {PAGE}"
        )
        while True:
            rows = self._rows(sql, {**values, "at": str(at_ms), "id": id}, list[list[object]])
            for row in rows:
                yield row[2:]
            if len(rows) < PAGE:
                return
            at_ms, id = int(str(rows[-1][0])), str(rows[-1][1])

    def _rows(self, sql: str, parameters: Mapping[str, str], kind: type[Rows]) -> Rows:
        answer = self._server.run(
            f"{sql} SETTINGS output_format_json_quote_64bit_integers = 0 FORMAT JSONCompactEachRow",
            {name: _escaped(value) for name, value in parameters.items()},
        )
        return msgspec.json.decode(b"[" + b",".join(answer.splitlines()) + b"]", type=kind)


def compile_totals(query: LedgerQuery) -> tuple[str, dict[str, str]]:
    """The SELECT for a query and its parameters. Every number is text: JSON readers differ about large ones."""
    check_query(query)
    parameters: dict[str, str] = {}

    def expression(name: str) -> str:
        if name.startswith("tag:"):
            place = f"p{len(parameters)}"
            parameters[place] = name[4:]
            return f"tags[{{{place}:String}}]"
        return _TIMES.get(name) or ("toString(status)" if name == "status" else f'"{name}"')

    columns = [f"{expression(name)} AS g{number}" for number, name in enumerate(query.group_by)]
    conditions = []
    for name, value in query.where:
        sql = expression(name)
        place = f"p{len(parameters)}"
        parameters[place] = value
        conditions.append(f"{sql} = {{{place}:String}}")
    for operator, bound in ((">=", query.since_ms), ("<", query.until_ms)):
        if bound is not None:
            conditions.append(f"received_at_ms {operator} {int(bound)}")
    sums = ["uniqExact(request_id)", *(_SUMMED.get(name, f"sum(toInt128({name}))") for name in MEASURES)]
    select = ", ".join([*columns, *(f"toString({sql})" for sql in sums)])
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    names = ", ".join(f"g{number}" for number in range(len(query.group_by)))
    grouped = f" GROUP BY {names}" if names else ""
    return f"SELECT {select} FROM entries FINAL{where}{grouped}", parameters


def _group(row: Totals) -> tuple[str, ...]:
    return row.group


def _escaped(value: str) -> str:
    """In a parameter, an end of line or a tab would end the value."""
    return (
        value.replace("\\", "\\\\")
        .replace("\t", "\\t")
        .replace("\n", "\\n")
        .replace("\r", "\\r")
        .replace("\0", "\\0")
    )


def _statements(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    return [part.strip() for part in "\n".join(lines).split(";") if part.strip()]
