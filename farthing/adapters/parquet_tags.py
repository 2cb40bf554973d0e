"""Where DuckDB reads tags from in the files of an export: a column of its own where a file has one, else the map.

Grouping by a map takes several times as long as grouping by a column of few values. Files of earlier exports have the
map only; both kinds lie side by side until an export is made anew.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from farthing.adapters.parquet_rows import ENTRY_FIELDS, TAG, TAGS_KEY, TagColumns
from farthing.core.types import LedgerQuery

_columns = msgspec.json.Decoder(TagColumns)
_PLAIN: Final = ", ".join(f'"{name}"' for name in (*ENTRY_FIELDS, "month", "day"))

Ask = Callable[[str], Sequence[tuple[Any, ...]]]


def tags_asked(query: LedgerQuery) -> tuple[str, ...]:
    """The tags that a question is about, each once."""
    names = (*query.group_by, *(name for name, _ in query.where))
    return tuple(dict.fromkeys(name[len(TAG) :] for name in names if name.startswith(TAG)))


class TagSources:
    """The files of an export by where they have which tags. Reads their metadata when first asked about a tag."""

    def __init__(self, pattern: str, ask: Ask) -> None:
        """``pattern``: of the files; ``ask`` puts a question to DuckDB."""
        self._pattern = pattern
        self._ask = ask
        self._files: list[tuple[str, TagColumns | None]] | None = None

    def relation(self, tags: Sequence[str]) -> str:
        """SQL for the entries with these tags as columns ``t0``, ``t1`` …; "" where an entry has no such tag."""
        if not tags:
            return "entries"
        groups: dict[tuple[str, ...], list[str]] = {}
        for file, columns in self._known():
            groups.setdefault(tuple(_place(tag, columns) for tag in tags), []).append(file)
        parts = [
            f"SELECT {_PLAIN}, {', '.join(f'{sql} AS t{at}' for at, sql in enumerate(places))}"
            f" FROM read_parquet([{', '.join(map(quoted_text, files))}],"
            " hive_partitioning = true, hive_types_autocast = false, union_by_name = true)"
            for places, files in groups.items()
        ]
        return f"({' UNION ALL '.join(parts)})"

    def _known(self) -> list[tuple[str, TagColumns | None]]:
        if self._files is None:
            pattern = quoted_text(self._pattern)
            told = self._ask(f"SELECT file_name, value FROM parquet_kv_metadata({pattern}) WHERE key = '{TAGS_KEY}'")
            columns = {str(file): _columns.decode(value) for file, value in told}
            files = self._ask(f"SELECT file FROM glob({pattern}) ORDER BY file")
            self._files = [(str(file), columns.get(str(file))) for (file,) in files]
        return self._files


def quoted_text(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def _place(tag: str, columns: TagColumns | None) -> str:
    if columns is None or (tag not in columns.columns and columns.others):
        return f"coalesce(tags[{quoted_text(tag)}], '')"
    return '"' + (TAG + tag).replace('"', '""') + '"' if tag in columns.columns else "''"


def tag_columns(tags: Iterable[str]) -> dict[str, str]:
    """The columns of :meth:`TagSources.relation` by dimension."""
    return {TAG + tag: f"t{at}" for at, tag in enumerate(tags)}
