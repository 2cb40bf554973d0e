"""The entry journal: what this worker settled, on its own disk until the ledger's database has it.

Small segments, one record a line: a checksum, then JSON. A record is durable when ``write`` returns; a torn line (the
machine died) was never answered for and is passed over.

A segment is written in full, with zeros, before it is used, and used again once it is shipped: where a file does
not grow, ``fdatasync`` costs half the CPU and a fifth of the time. What stands behind the last record is of an
earlier use; its numbers are lower than any that came since, which is how a reader knows it.
"""

import asyncio
import collections
import contextlib
import os
import queue
import threading
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

SEGMENT_BYTES: Final = 4 * 1024 * 1024
CHUNK_BYTES: Final = 1024 * 1024
"""How much is read at once when records are shipped."""

CHUNK_RECORDS: Final = 512
"""About as many records, where they are at hand."""

KEPT_BYTES: Final = 16 * 1024 * 1024
"""Records beyond that, which pile up while the database is away, are read from the file when they are shipped."""

_SUM_BYTES: Final = 9
_SPARE: Final = ".spare"
Line = bytes


class Post(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a settlement adds to one counter; ``held`` is what its hold had set aside."""

    counter: str
    window: str
    unit: str
    amount: int
    held: int
    ends_at_ms: int = 0
    """When the counter counts for nothing any more; 0: never."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One settlement: everything that the database must learn of it, in one line."""

    seq: int
    """1, 2, 3… in this worker's journal."""
    ids: tuple[str, ...] = ()
    """Ids of ``entries``."""
    entries: tuple[msgspec.Raw, ...] = ()
    """Rows of the table ``entries`` as JSON objects."""
    exchanges: tuple[msgspec.Raw, ...] = ()
    """At most one row of the table ``exchanges``."""
    posts: tuple[Post, ...] = ()
    ended: str = ""
    """The reservation that this settlement ends."""


_encoder: Final = msgspec.json.Encoder()
_decode = msgspec.json.Decoder(Record).decode


def line_of(record: Record) -> Line:
    """The record as a line of the file."""
    text = _encoder.encode(record)
    return b"%08x %b\n" % (zlib.crc32(text), text)


def record_of(line: Line) -> Record | None:
    """The record of a line; None when the line is torn."""
    text = line[_SUM_BYTES:]
    if line[: _SUM_BYTES - 1] != b"%08x" % zlib.crc32(text):
        return None
    return _decode(text)


class _Kept(NamedTuple):
    """A group of records in memory, and where it stands in the files."""

    begin: tuple[int, int]
    end: tuple[int, int]
    records: Sequence[Record]


class EntryJournal:
    """This worker's journal. ``write`` is called by one thread, ``read`` and ``shipped`` by another.

    Records that were written lately are kept in memory until they are shipped, so that shipping need not read them.
    """

    def __init__(self, folder: Path, worker: str, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Begins a new journal. Raises ``OSError`` when the folder cannot be written."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._worker = worker
        self._segment_bytes = segment_bytes
        self._file = self._open(0, segment_bytes)
        self._place = (0, 0)
        """The segment and where its records end: one value, because two threads look at it."""
        self._room = segment_bytes
        """Bytes of this segment that are there already."""
        self._ends: dict[int, int] = {}
        """Where the records of earlier segments end."""
        self._reading = (0, 0)
        self.bytes_written = 0
        self._kept: collections.deque[_Kept] = collections.deque()
        self._kept_bytes = 0
        self._dropped_bytes = 0
        """Of those kept; each number is counted by one thread only."""

    def write(self, lines: Sequence[Line], records: Sequence[Record] = ()) -> None:
        """Adds whole lines and waits for the disk. Raises ``OSError``: then nothing was added.

        ``records`` are what the lines say, where the caller wants them to be kept.
        """
        data = b"".join(lines)
        segment, size = self._place
        if size and size + len(data) > self._room:
            self._turn(len(data))
            segment, size = self._place
        try:
            done = os.pwrite(self._file, data, size)
            while done < len(data):
                done += os.pwrite(self._file, data[done:], size + done)
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, size)
            raise
        self._place = segment, size + len(data)
        self.bytes_written += len(data)
        if records and self._kept_bytes - self._dropped_bytes < KEPT_BYTES:
            self._kept_bytes += len(data)
            self._kept.append(_Kept((segment, size), self._place, records))

    def read(self) -> tuple[list[Record], tuple[int, int]]:
        """Records after the last that were shipped, up to a chunk, and the place to call ``shipped`` with."""
        recalled = self._recall()
        if recalled is not None:
            return recalled
        segment, offset = self._reading
        newest, size = self._place
        while True:
            limit = size if segment == newest else self._ends[segment]
            found, end = _chunk(_path(self._folder, self._worker, segment), offset, limit)
            if found or segment == newest:
                return found, (segment, end)
            segment, offset = segment + 1, 0

    def _recall(self) -> tuple[list[Record], tuple[int, int]] | None:
        """The next records from memory; None: they are not there."""
        kept, place = self._kept, self._reading
        while kept and kept[0].end <= place:
            gone = kept.popleft()
            self._dropped_bytes += gone.end[1] - gone.begin[1]
        found: list[Record] = []
        for one in list(kept):
            if one.begin != place and one.begin != (place[0] + 1, 0):
                break
            if one.begin != place and self._ends.get(place[0]) != place[1]:
                break
            found += one.records
            place = one.end
            if len(found) >= CHUNK_RECORDS:
                break
        return (found, place) if found else None

    def shipped(self, place: tuple[int, int]) -> None:
        """The database has everything before ``place``: of the segments before it, one is kept to be used again."""
        for segment in range(self._reading[0], place[0]):
            path, spare = _path(self._folder, self._worker, segment), self._spare()
            del self._ends[segment]
            with contextlib.suppress(FileNotFoundError):
                if not spare.exists() and path.stat().st_size == self._segment_bytes:
                    path.rename(spare)
                else:
                    path.unlink()
        self._reading = place

    @property
    def waiting(self) -> bool:
        """Something was written that is not shipped."""
        return self._reading != self._place

    def close(self, *, remove: bool) -> None:
        """Closes the file; ``remove`` deletes what is left, when all of it was shipped."""
        os.close(self._file)
        if remove:
            remove_entries(self._folder, self._worker)

    def _turn(self, need: int) -> None:
        """Go on in another segment, with room for so many bytes at least."""
        segment, size = self._place
        room = max(need, self._segment_bytes)
        fresh = self._open(segment + 1, room)
        os.close(self._file)
        self._ends[segment] = size
        self._file, self._room = fresh, room
        self._place = segment + 1, 0

    def _spare(self) -> Path:
        """A segment that is shipped, to be used again."""
        return self._folder / f"{self._worker}{_SPARE}"

    def _open(self, segment: int, room: int) -> int:
        path = _path(self._folder, self._worker, segment)
        if room == self._segment_bytes and self._spare().exists():
            self._spare().rename(path)
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        else:
            descriptor = _filled(path, room)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return descriptor


class JournalThread:
    """Writes groups of lines, one after the other, and tells the event loop how each went."""

    def __init__(
        self, journal: EntryJournal, loop: asyncio.AbstractEventLoop, done: Callable[[OSError | None], object]
    ) -> None:
        """``done`` is called on the loop, once for each group."""
        self._journal = journal
        self._loop = loop
        self._done = done
        self._groups: queue.SimpleQueue[tuple[Sequence[Line], Sequence[Record]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="farthing-journal", daemon=True)
        self._thread.start()

    def write(self, lines: Sequence[Line], records: Sequence[Record]) -> None:
        """Write these lines next; ``records`` are what they say."""
        self._groups.put((lines, records))

    def stop(self) -> None:
        """Write what was given, then end."""
        self._groups.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (group := self._groups.get()) is not None:
            failure: OSError | None = None
            try:
                self._journal.write(*group)
            except OSError as error:
                failure = error
            try:
                self._loop.call_soon_threadsafe(self._done, failure)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return


def read_entries(folder: Path, worker: str) -> list[Record]:
    """What a dead worker's journal holds."""
    found: list[Record] = []
    last = 0
    for path in _paths(folder, worker):
        offset = 0
        while True:
            records, end = _chunk(path, offset, None)
            for record in records:
                if record.seq > last:  # else it is left of an earlier use of this segment
                    found.append(record)
                    last = record.seq
            if end == offset:
                break
            offset = end
    return found


def remove_entries(folder: Path, worker: str) -> None:
    """Deletes a worker's journal."""
    for path in (*_paths(folder, worker), folder / f"{worker}{_SPARE}"):
        path.unlink(missing_ok=True)


def workers_of(folder: Path) -> set[str]:
    """Names of the workers that left a journal."""
    return {path.name.rsplit(".entries.", 1)[0] for path in folder.glob("*.entries.*")}


def bytes_waiting(folder: Path) -> int:
    """Size of all journals here, shipped parts and what is still free in open segments included."""
    return sum(path.stat().st_size for path in folder.glob("*.entries.*"))


def count(records: Iterable[Record]) -> int:
    """Entries in these records."""
    return sum(len(record.ids) for record in records)


def _chunk(path: Path, offset: int, limit: int | None) -> tuple[list[Record], int]:
    """Whole lines from ``offset``; a torn line in the middle is skipped, a last one ends the chunk."""
    size = CHUNK_BYTES
    with path.open("rb") as file:
        while True:
            file.seek(offset)
            data = file.read(size if limit is None else min(size, limit - offset))
            end = data.rfind(b"\n") + 1
            if end or len(data) < size:
                break
            size *= 4
    records = [record_of(line) for line in data[:end].split(b"\n") if line]
    return [record for record in records if record is not None], offset + end


def _filled(path: Path, size: int) -> int:
    """A new file of zeros, open for writing. Raises ``OSError`` when there is no room: then there is no file."""
    descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        zeros = bytes(size)
        done = 0
        while done < size:
            done += os.pwrite(descriptor, zeros[done:], done)
    except OSError:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    return descriptor


def _paths(folder: Path, worker: str) -> list[Path]:
    return sorted(folder.glob(f"{worker}.entries.*"))


def _path(folder: Path, worker: str, segment: int) -> Path:
    return folder / f"{worker}.entries.{segment:08d}"
