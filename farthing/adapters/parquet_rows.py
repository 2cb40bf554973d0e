"""The Parquet files of an export: their columns, their places, and rows of the SQLite ledger as Arrow batches."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import msgspec

from farthing.adapters.sqlite_rows import ENTRY_COLUMNS, EXCHANGE_COLUMNS
from farthing.core.errors import ConfigError

DAY_MS: Final = 86_400_000
MANIFEST: Final = "farthing-export.json"

FLAGS: Final = frozenset({"stream", "client_gone", "shared"})
NUMBERS: Final = frozenset(
    {
        "seq", "attempt", "received_at_ms", "booked_at_ms", "amount_nusd", "computed_nusd", "baseline_nusd",
        "ceiling_nusd", "status", "ttft_ms", "latency_ms", "input_tokens", "cache_read_tokens",
        "cache_write_tokens", "output_tokens", "reasoning_tokens",
    }
)  # fmt: skip
UNIQUE: Final = frozenset({"id", "request_id", "corrects", "lines", "usage", "decisions", "body"})
"""Text that hardly repeats; a dictionary would only cost."""

ENTRY_FIELDS: Final = ("seq", *ENTRY_COLUMNS, "shared", "hour", "week")
"""``shared``: the request has other entries too, so that all others need no look to be counted as one request."""
EXCHANGE_FIELDS: Final = ("seq", *EXCHANGE_COLUMNS)

TAG: Final = "tag:"
"""A column of one tag's values, beside the map of all of them: ``tag:env``. "" where an entry has no such tag."""
TAGS_MAX: Final = 32
"""Tags with a column of their own in a file, the most used first."""
TAGS_KEY: Final = "farthing.tags"
"""In a file's metadata: its :class:`TagColumns` as JSON. Files of before have none."""


class TagColumns(msgspec.Struct, frozen=True, kw_only=True):
    """Which tags have columns in a file."""

    columns: tuple[str, ...] = ()
    others: bool = False
    """The file has tags without a column, too: they are in the map only."""

    @classmethod
    def of(cls, used: Iterable[str]) -> "TagColumns":
        """Columns for the first of these; of names that differ in case only, which SQL takes for one, the first."""
        found: dict[str, str] = {}
        count = 0
        for name in used:
            count += 1
            if len(found) < TAGS_MAX and "\0" not in name:
                found.setdefault(name.casefold(), name)
        return cls(columns=tuple(found.values()), others=count > len(found))


_tags = msgspec.json.Decoder(dict[str, str])


def arrow() -> tuple[Any, Any]:
    """``pyarrow`` and ``pyarrow.parquet``. Raises ``ConfigError`` where they are not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            ["Parquet needs pyarrow, which is not installed; pip install 'farthing[analytics]'"], source="Parquet"
        ) from error
    return pyarrow, parquet


def schema_of(fields: Sequence[str], tags: TagColumns | None = None) -> Any:
    """The Arrow schema of a kind of file; with ``tags``, their columns come last."""
    pyarrow, _ = arrow()

    def kind(name: str) -> Any:
        if name in FLAGS:
            return pyarrow.bool_()
        if name in NUMBERS:
            return pyarrow.int64()
        return pyarrow.map_(pyarrow.string(), pyarrow.string()) if name == "tags" else pyarrow.string()

    own = () if tags is None else tuple(TAG + name for name in tags.columns)
    metadata = None if tags is None else {TAGS_KEY: msgspec.json.encode(tags)}
    return pyarrow.schema([(name, kind(name)) for name in (*fields, *own)], metadata=metadata)


def writer(path: Path, schema: Any) -> Any:
    """What writes one file: repeated texts as dictionaries, numbers as differences, which are read fastest."""
    _, parquet = arrow()
    numbers = {name: "DELTA_BINARY_PACKED" for name in schema.names if name in NUMBERS}
    return parquet.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=dictionary_columns(schema.names), column_encoding=numbers
    )


def batch_of(rows: Sequence[Sequence[object]], fields: Sequence[str], schema: Any) -> Any:
    """Rows of the SQLite ledger as one Arrow batch; ``hour`` and ``week`` are made from ``received_at_ms``."""
    pyarrow, _ = arrow()
    columns: Mapping[str, Sequence[object]] = dict(zip(fields, zip(*rows, strict=True), strict=False))
    tags = [_tags_of(text) for text in columns.get("tags", ())]
    arrays = []
    for field in schema:
        values: Sequence[object]
        if field.name in ("hour", "week"):
            at = 0 if field.name == "hour" else 1
            values = [_names(int(str(ms)) // 3_600_000)[at] for ms in columns["received_at_ms"]]
        elif field.name == "tags":
            values = [list(one.items()) for one in tags]
        elif field.name.startswith(TAG):
            values = [one.get(field.name[len(TAG) :], "") for one in tags]
        else:
            values = columns[field.name]
        if field.name in FLAGS:
            values = [bool(value) for value in values]
        elif field.name == "body":
            values = [value.decode() if isinstance(value, bytes) else value for value in values]
        arrays.append(pyarrow.array(values, type=field.type))
    return pyarrow.record_batch(arrays, schema=schema)


def dictionary_columns(fields: Iterable[str]) -> list[str]:
    """The columns whose values repeat."""
    return [name for name in fields if name not in NUMBERS | FLAGS | UNIQUE and name != "tags"]


def day_folder(root: Path, kind: str, day: int) -> Path:
    """Where the files of one UTC day are, ``day`` counted from the epoch: ``KIND/month=2026-11/day=2026-11-21``."""
    date = datetime.date(1970, 1, 1) + datetime.timedelta(days=day)
    return root / kind / f"month={date:%Y-%m}" / f"day={date.isoformat()}"


def _tags_of(text: object) -> Mapping[str, str]:
    return {} if text is None else _tags.decode(str(text))


@lru_cache(maxsize=65_536)
def _names(hour: int) -> tuple[str, str]:
    at = datetime.datetime.fromtimestamp(hour * 3600, datetime.UTC)
    year, week, _ = at.isocalendar()
    return at.strftime("%Y-%m-%dT%H"), f"{year}-W{week:02}"
