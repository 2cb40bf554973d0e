"""Writing FOCUS rows to CSV or Parquet. The file appears whole, or not at all."""

import csv
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Final

from farthing.core.errors import ConfigError

BATCH: Final = 10_000
DIGITS: Final = (38, 15)
"""Precision and scale of Parquet decimals: femto-dollars a unit, beyond any price the ledger can hold."""

Rows = Iterable[Mapping[str, object]]


def write(path: Path, columns: Sequence[tuple[str, str]], rows: Rows) -> None:
    """``columns``: (name, kind). Parquet for names that end so, else CSV."""
    if path.suffix == ".parquet":
        write_parquet(path, columns, rows)
    else:
        write_csv(path, [name for name, _ in columns], rows)


def write_csv(path: Path, columns: Sequence[str], rows: Rows) -> None:
    """RFC 4180, UTF-8. Null is an empty field, decimals have a point and no exponent."""
    with _whole(path) as draft, draft.open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([text(row[name]) for name in columns])


def text(value: object) -> str:
    """One value as CSV has it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        shown = format(value.normalize() if value else Decimal(0), "f")
        return shown if "." in shown else f"{shown}.0"
    return str(value)


def write_parquet(path: Path, columns: Sequence[tuple[str, str]], rows: Rows) -> None:
    """``columns``: (name, kind). Raises ``ConfigError`` where pyarrow is not installed."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            ["Parquet needs pyarrow, which is not installed; pip install 'farthing[parquet]', or write a .csv file"],
            source="farthing export",
        ) from error
    kinds: dict[str, Any] = {
        "decimal": arrow.decimal128(*DIGITS),
        "datetime": arrow.timestamp("us", tz="UTC"),
        "boolean": arrow.bool_(),
        "int": arrow.int64(),
        "string": arrow.string(),
    }
    schema = arrow.schema([(name, kinds[kind]) for name, kind in columns])
    times = {name for name, kind in columns if kind == "datetime"}
    with _whole(path) as draft, parquet.ParquetWriter(draft, schema) as writer:
        for batch in _batches(rows):
            values = [{name: _held(row[name], name in times) for name in schema.names} for row in batch]
            writer.write_table(arrow.Table.from_pylist(values, schema=schema))


def _held(value: object, is_time: bool) -> object:
    if is_time and isinstance(value, str):
        return datetime.fromisoformat(value)
    if isinstance(value, Decimal):
        return value.quantize(Decimal(1).scaleb(-DIGITS[1]))
    return value


def _batches(rows: Rows) -> Iterator[list[Mapping[str, object]]]:
    source = iter(rows)
    while batch := list(islice(source, BATCH)):
        yield batch


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A draft beside the file that takes its place at the end; gone when anything fails."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        draft.chmod(0o644)
        draft.replace(path)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
