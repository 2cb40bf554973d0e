"""``Ledger`` over the Parquet files of an export, by DuckDB in this process. Blocking."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from farthing.adapters.ledger_query import MEASURES, check_query, totals_of
from farthing.adapters.parquet_rows import MANIFEST
from farthing.adapters.parquet_tags import TagSources, tag_columns, tags_asked
from farthing.adapters.sqlite_rows import ENTRY_COLUMNS, entry_from_row, exchange_from_body, quoted
from farthing.core.errors import ConfigError, NotFound, StoreUnavailable
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery, Totals

PAGE: Final = 2_000

_SUMMED: Final = {
    "entries": "count(*)",
    "amount": "sum(amount_nusd)",
    "baseline": "sum(CASE WHEN amount_nusd IS NOT NULL THEN baseline_nusd END)",
    "unpriced": "count(*) FILTER (amount_nusd IS NULL) - count(*) FILTER (reason = 'was_unpriced')",
    "estimated": "count(*) FILTER (source <> 'reported')",
    "estimated_amount": "sum(CASE WHEN source <> 'reported' THEN amount_nusd END)",
    "errors": "count(*) FILTER (error <> '')",
}


class DuckDBLedger:
    """``Ledger`` over the export in ``folder``; sums are exact (128 bits), entries come in booking order.

    Raises ``StoreUnavailable`` when there is no export, ``ConfigError`` when DuckDB is not installed.
    """

    def __init__(self, folder: Path | str, *, threads: int | None = None) -> None:
        self._folder = Path(folder)
        if not (self._folder / MANIFEST).exists():
            raise StoreUnavailable(
                f"There is no Parquet export in {self._folder}.", hint="Make one: farthing export parquet --out DIR."
            )
        try:
            import duckdb
        except ImportError as error:
            raise ConfigError(
                ["reports from Parquet need duckdb, which is not installed; pip install 'farthing[analytics]'"],
                source="Parquet",
            ) from error
        self._failure: type[Exception] = duckdb.Error
        self._connection: Any = duckdb.connect(":memory:")
        if threads is not None:
            self._connection.execute(f"SET threads = {threads}")
        files = str(self._folder / "entries" / "*" / "*" / "*.parquet")
        self._tags = TagSources(files, lambda question: self._ask(question, ()))
        self._kinds = [kind for kind in ("entries", "exchanges") if any((self._folder / kind).rglob("*.parquet"))]
        for kind in self._kinds:
            pattern = str(self._folder / kind / "*" / "*" / "*.parquet").replace("'", "''")
            once = " QUALIFY row_number() OVER (PARTITION BY request_id ORDER BY seq) = 1"
            self._connection.execute(
                f"CREATE VIEW {kind} AS SELECT * FROM read_parquet('{pattern}',"
                f" hive_partitioning = true, hive_types_autocast = false){once if kind == 'exchanges' else ''}"
            )

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]:
        check_query(query)
        empty = () if query.group_by else (Totals(),)
        if "entries" not in self._kinds:
            return empty
        width = len(query.group_by)
        source = self._tags.relation(tags_asked(query))
        alone = "count(*) FILTER (NOT shared)"
        sums = [f"coalesce({_SUMMED.get(name, f'sum({name})')}, 0)" for name in MEASURES]
        try:
            # Numbers of 64 bits come three times as fast as those of 128; a sum beyond them is an error here.
            rows = self._rows(*_compile(query, source, [alone, *(f"CAST({sql} AS BIGINT)" for sql in sums)]))
        except self._failure:
            rows = self._ask(*_compile(query, source, [alone, *sums]))
        # Only requests with several entries need to be told apart, and they are few.
        apart = self._ask(*_compile(query, source, ["count(DISTINCT request_id)"], "shared"))
        shared = {row[:width]: row[width] for row in apart}
        found = [
            totals_of(_texts(row[:width]), row[width] + shared.get(row[:width], 0), row[width + 1 :]) for row in rows
        ]
        return tuple(sorted(found, key=_group))

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]:
        where = "received_at_ms >= ?" + (" AND request_id = ?" if request_id else "")
        values = (since_ms, *([request_id] if request_id else []))
        for row in self._pages("entries", "id", quoted(ENTRY_COLUMNS), where, values, after):
            yield entry_from_row([_as_stored(cell) for cell in row])

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]:
        for row in self._pages("exchanges", "request_id", "body", "received_at_ms >= ?", (since_ms,), after):
            yield exchange_from_body(row[0].encode())

    def close(self) -> None:
        """Lets go of the files."""
        self._connection.close()

    def _pages(
        self, kind: str, id_column: str, columns: str, where: str, values: tuple[object, ...], after: str
    ) -> Iterator[tuple[Any, ...]]:
        seq = -1
        if after:
            at = self._ask(f"SELECT seq FROM {kind} WHERE {id_column} = ?", [after]) if kind in self._kinds else []
            if not at:
                raise NotFound(
                    f"There is no record {after!r} to continue after.", hint="Start again from the beginning."
                )
            seq = at[0][0]
        if kind not in self._kinds:
            return
        # A cursor of its own: other questions may be asked while this one is being read.
        cursor = self._connection.cursor()
        try:
            cursor.execute(f"SELECT {columns} FROM {kind} WHERE seq > ? AND {where} ORDER BY seq", [seq, *values])
            while rows := cursor.fetchmany(PAGE):
                yield from rows
        except self._failure as error:
            raise self._unreadable(error) from error
        finally:
            cursor.close()

    def _ask(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        try:
            return self._rows(sql, values)
        except self._failure as error:
            raise self._unreadable(error) from error

    def _rows(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self._connection.execute(sql, list(values)).fetchall()
        return rows

    def _unreadable(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"The Parquet export in {self._folder} cannot be read: {str(error).splitlines()[0]}",
            hint="Export again: farthing export parquet --out DIR --rebuild.",
        )


def _compile(
    query: LedgerQuery, source: str, measures: Sequence[str], condition: str = ""
) -> tuple[str, list[object]]:
    """A SELECT of the groups and the measures from ``source``, with its parameters."""
    tags = tag_columns(tags_asked(query))
    # A status is grouped as the number that it is: as text it would take half as long again.
    groups = ["status" if name == "status" else _expression(name, tags) for name in query.group_by]
    parameters: list[object] = []
    conditions = [condition] if condition else []
    for name, value in query.where:
        conditions.append(f"{_expression(name, tags)} = ?")
        parameters.append(value)
    for operator, bound in ((">=", query.since_ms), ("<", query.until_ms)):
        if bound is not None:
            conditions.append(f"received_at_ms {operator} ?")
            parameters.append(bound)
    names = [f"g{number}" for number in range(len(groups))]
    columns = [f"{sql} AS {name}" for sql, name in zip(groups, names, strict=True)]
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    grouped = f" GROUP BY {', '.join(names)} ORDER BY {', '.join(names)}" if names else ""
    return f"SELECT {', '.join([*columns, *measures])} FROM {source}{where}{grouped}", parameters


def _expression(name: str, tags: Mapping[str, str]) -> str:
    return "CAST(status AS VARCHAR)" if name == "status" else tags.get(name, f'"{name}"')


def _texts(group: tuple[object, ...]) -> tuple[str, ...]:
    return tuple(map(str, group))


def _group(row: Totals) -> tuple[str, ...]:
    return row.group


def _as_stored(cell: object) -> object:
    """Tags as the SQLite ledger has them; all other cells as they are."""
    return (msgspec.json.encode(cell).decode() if cell else None) if isinstance(cell, dict) else cell
