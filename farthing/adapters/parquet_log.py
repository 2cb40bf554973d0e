"""The traffic log in the Parquet files of an export, read a day at a time: memory does not grow with the log."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from farthing.adapters.parquet_rows import DAY_MS, MANIFEST, arrow, day_folder
from farthing.adapters.sqlite_rows import exchange_from_body
from farthing.core.errors import NotFound, StoreUnavailable
from farthing.core.types import Exchange

ROWS: Final = 4_096
"""Rows that are in memory at a time."""


class ParquetLog:
    """The exchanges of an export. Raises ``StoreUnavailable`` when there is none, ``ConfigError`` without pyarrow."""

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)
        if not (self._folder / MANIFEST).exists():
            raise StoreUnavailable(
                f"There is no Parquet export in {self._folder}.", hint="Make one: farthing export parquet --out DIR."
            )
        self._parquet: Any = arrow()[1]

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]:
        """Exchanges by the day of their arrival, within it by the order of their endings; each once.

        ``after`` names the one after which to go on. Raises ``NotFound`` when it is not there.
        """
        skipping = bool(after)
        for folder in self._days(since_ms):
            for request_id, body in self._rows(folder, since_ms):
                if not skipping:
                    yield exchange_from_body(body.encode())
                elif request_id == after:
                    skipping = False
        if skipping:
            raise NotFound(f"There is no record {after!r} to continue after.", hint="Start again from the beginning.")

    def close(self) -> None:
        """Nothing to close."""

    def _days(self, since_ms: int) -> list[Path]:
        first = day_folder(self._folder, "exchanges", since_ms // DAY_MS).name
        days = [one for one in (self._folder / "exchanges").glob("*/day=*") if one.name >= first]
        return sorted(days, key=lambda one: one.name)

    def _rows(self, folder: Path, since_ms: int) -> Iterator[tuple[str, str]]:
        files = sorted(folder.glob("*.parquet"))
        seen: set[str] = set()
        for path in files:
            with self._parquet.ParquetFile(path) as file:
                columns = ["request_id", "received_at_ms", "body"]
                for batch in file.iter_batches(batch_size=ROWS, columns=columns):
                    cells = (batch.column(name).to_pylist() for name in columns)
                    for request_id, received_at_ms, body in zip(*cells, strict=True):
                        if received_at_ms < since_ms or request_id in seen:
                            continue
                        if len(files) > 1:  # a later file may say again what an earlier one has
                            seen.add(request_id)
                        yield request_id, body
