"""Tells the system which pages of a large SQLite file are read next, so that a cold disk reads them together.

SQLite reads page by page and waits for each: the rows of fifty places in ten million are fifty waits, and the
system's own reading ahead makes each longer. Advice only: what is said wrongly (pages that are newer in the WAL, a
file that changes meanwhile) costs a read and changes no answer.
"""

import os
import sqlite3
import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

SMALL: Final = 64 * 2**20
"""Smaller files are in memory soon enough."""
NEAR: Final = 4
"""Pages between two wanted ones that are read with them."""
_INTERIOR: Final = 5
"""The first byte of a page of a table's tree that leads to others."""
_HEADER: Final = 100
_DEEPEST: Final = 12
_PROBES: Final = 12
"""Places that are looked at first: where all are in memory, so are most others, and advice would only cost."""

Span = tuple[int, int]

_open: dict[tuple[int, int], int] = {}
"""(device, inode) → descriptor. Never closed: closing any descriptor of a file takes back all of the process's locks
on it, SQLite's too."""
_opening = threading.Lock()


class Ahead:
    """The tree of one table with row numbers."""

    def __init__(self, path: Path, root: int, *, small: int = SMALL) -> None:
        """``root``: the number of its first page; ``small``: see ``SMALL``."""
        self._root = root
        self._file = _descriptor(path, small)
        self._size = 0
        if self._file is not None:
            size = int.from_bytes(os.pread(self._file, 2, 16), "big")
            self._size = 65_536 if size == 1 else size

    @classmethod
    def of_entries(cls, path: Path, connection: sqlite3.Connection, schema: str) -> "Ahead":
        """Of the ledger's entries; ``schema``: the ledger's name in the connection."""
        sql = f"SELECT rootpage FROM {schema}.sqlite_master WHERE name = 'entries' AND type = 'table'"
        return cls(path, int(connection.execute(sql).fetchone()[0]))

    def fetch(self, spans: Sequence[Span]) -> None:
        """Rows with these numbers (from, up to but without) are read next."""
        if self._file is None or not spans:
            return
        with suppress(OSError, IndexError, ValueError):  # not the file it was, or just being written
            probes = self._leaves(self._file, spans[:: -(-len(spans) // _PROBES)], advise=False)
            if not all(self._is_there(self._file, page) for page in probes[:: -(-len(probes) // _PROBES)]):
                self._advise(self._file, self._leaves(self._file, spans, advise=True))

    def pages(self, spans: Sequence[Span]) -> list[int]:
        """The numbers of the pages with these rows."""
        return [] if self._file is None else self._leaves(self._file, spans, advise=False)

    def _leaves(self, file: int, spans: Sequence[Span], *, advise: bool) -> list[int]:
        """The pages with these rows; on the way to them each level is read together."""
        pages = [(self._root, tuple(spans))]
        for _ in range(self._depth()):
            if advise and len(pages) > 1:
                self._advise(file, (page for page, _ in pages))
            pages = [below for page, some in pages for below in self._below(page, some)]
        return [page for page, _ in pages]

    def _is_there(self, file: int, page: int) -> bool:
        """In memory already."""
        try:
            return os.preadv(file, [bytearray(1)], (page - 1) * self._size, os.RWF_NOWAIT) == 1
        except BlockingIOError:
            return False

    def _page(self, number: int) -> bytes:
        assert self._file is not None
        found = os.pread(self._file, self._size, (number - 1) * self._size)
        return found[_HEADER:] if number == 1 else found

    def _depth(self) -> int:
        """How many pages lead from the first to one with rows."""
        page = self._page(self._root)
        for depth in range(_DEEPEST):
            if page[0] != _INTERIOR:
                return depth
            page = self._page(int.from_bytes(page[8:12], "big"))
        raise ValueError("no tree")

    def _below(self, number: int, spans: Iterable[Span]) -> list[tuple[int, tuple[Span, ...]]]:
        """The pages under this one that have the rows, each with the spans that are in it."""
        page, shift = self._page(number), _HEADER if number == 1 else 0
        count = int.from_bytes(page[3:5], "big")
        found: dict[int, list[Span]] = {}

        def last(at: int) -> int:
            """The last row under a place."""
            cell = int.from_bytes(page[12 + 2 * at : 14 + 2 * at], "big") - shift
            return _varint(page, cell + 4)

        for span in spans:
            first = bisect_left(range(count), span[0], key=last)
            end = bisect_left(range(count), span[1] - 1, lo=first, key=last)
            for at in range(first, end + 1):
                if at == count:
                    child = int.from_bytes(page[8:12], "big")
                else:
                    cell = int.from_bytes(page[12 + 2 * at : 14 + 2 * at], "big") - shift
                    child = int.from_bytes(page[cell : cell + 4], "big")
                found.setdefault(child, []).append(span)
        return [(child, tuple(some)) for child, some in found.items()]

    def _advise(self, file: int, pages: Iterable[int]) -> None:
        for first, end in _runs(pages):
            os.posix_fadvise(file, (first - 1) * self._size, (end - first) * self._size, os.POSIX_FADV_WILLNEED)


def _runs(pages: Iterable[int]) -> list[Span]:
    """Pages that are near each other together."""
    found: list[Span] = []
    for page in sorted(set(pages)):
        if found and page - found[-1][1] <= NEAR:
            found[-1] = found[-1][0], page + 1
        else:
            found.append((page, page + 1))
    return found


def _varint(page: bytes, at: int) -> int:
    """A number of up to nine bytes, seven bits in each but the last."""
    value = 0
    for place in range(at, at + 8):
        byte = page[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value
    value = value << 8 | page[at + 8]
    return value - 2**64 if value >= 2**63 else value


def _descriptor(path: Path, small: int) -> int | None:
    """For reading the file beside SQLite; None where advice is of no use."""
    if not hasattr(os, "posix_fadvise") or not hasattr(os, "RWF_NOWAIT"):
        return None
    with suppress(OSError):
        status = path.stat()
        if status.st_size < small:
            return None
        known = status.st_dev, status.st_ino
        with _opening:
            if known not in _open:
                _open[known] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return _open[known]
    return None
