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
_FOR_EVER_MS: Final = 4_102_444_800_000
"""2100-01-01: no folder is of a later day."""


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
        for _, body in self.written(since_ms=since_ms, until_ms=2**62, after=after):
            yield exchange_from_body(body)

    def written(self, *, since_ms: int, until_ms: int, after: str = "") -> Iterator[tuple[str, bytes]]:
        """(request, exchange as JSON) of a period in the order of :meth:`exchanges`, for readers who need a part."""
        skipping = bool(after)
        for folder in self._days(since_ms, until_ms):
            for request_id, body in self._rows(folder, since_ms, until_ms):
                if not skipping:
                    yield request_id, body.encode()
                elif request_id == after:
                    skipping = False
        if skipping:
            raise _unknown(after)

    def surveyed(self, *, since_ms: int, until_ms: int) -> tuple[int, int]:
        """(exchanges of a period, milliseconds that the longest took)."""
        count = longest_ms = 0
        for folder in self._days(since_ms, until_ms):
            for latency_ms, _ in self._rows(folder, since_ms, until_ms, wanted="latency_ms", kept="received_at_ms"):
                count += 1
                longest_ms = max(longest_ms, latency_ms)
        return count, longest_ms

    def close(self) -> None:
        """Nothing to close."""

    def _days(self, since_ms: int, until_ms: int) -> list[Path]:
        first = day_folder(self._folder, "exchanges", since_ms // DAY_MS).name
        days = (self._folder / "exchanges").glob("*/day=*")
        last = day_folder(self._folder, "exchanges", until_ms // DAY_MS).name if until_ms < _FOR_EVER_MS else "day=~"
        return sorted((one for one in days if first <= one.name <= last), key=lambda one: one.name)

    def _rows(
        self, folder: Path, since_ms: int, until_ms: int, *, wanted: str = "request_id", kept: str = "body"
    ) -> Iterator[tuple[Any, Any]]:
        """Two cells of each exchange of a day that arrived in [since, until)."""
        files = sorted(folder.glob("*.parquet"))
        seen: set[str] = set()
        columns = list(dict.fromkeys(["received_at_ms", *(["request_id"] if len(files) > 1 else []), wanted, kept]))
        for path in files:
            with self._parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=ROWS, columns=columns):
                    cells = {name: batch.column(name).to_pylist() for name in columns}
                    names = cells.get("request_id") or [""] * batch.num_rows
                    for at_ms, name, one, other in zip(
                        cells["received_at_ms"], names, cells[wanted], cells[kept], strict=True
                    ):
                        if not since_ms <= at_ms < until_ms or name in seen:
                            continue
                        if len(files) > 1:  # a later file may say again what an earlier one has
                            seen.add(name)
                        yield one, other


def _unknown(after: str) -> NotFound:
    return NotFound(f"There is no record {after!r} to continue after.", hint="Start again from the beginning.")
