"""The hold journal: evidence of every call in flight, written before the call is sent and without waiting for a disk.

A record is copied into a shared mapping of a file, so it survives the death of this process at the cost of a copy;
holds that last longer than a moment also get a row in the ledger's own file, which survives the death of the machine.
A record is crossed out where it stands when its call is over. A worker has one journal of small segments; what has
nothing in flight any more is used again or removed.
"""

import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from farthing.adapters.sqlite_rows import Row, record_to_row

SEGMENT_BYTES: Final = 256 * 1024
"""Size of a segment; its blocks are allocated when it is begun, so that a full disk is told there and then."""

_OVER: Final = ord("x")
"""Stands where a record began with "+" whose call is in flight no more."""

_encoder: Final = msgspec.json.Encoder()
_HELD: Final = msgspec.json.Decoder(list[object])


class _Segment:
    """One file of the journal, mapped."""

    __slots__ = ("live", "map", "path", "size")

    def __init__(self, path: Path, size: int) -> None:
        """Raises ``OSError`` when there is no room for it."""
        self.path = path
        self.size = 0
        """Written so far."""
        self.live = 0
        """Holds of it that are in flight."""
        file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, size)
            self.map = mmap.mmap(file, size)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)

    def wipe(self) -> None:
        """Begin it again; its pages are in memory already, which is what a new one costs most."""
        self.map[: self.size] = bytes(self.size)
        self.size = 0

    def remove(self) -> None:
        """Delete the file."""
        self.map.close()
        self.path.unlink(missing_ok=True)


class HoldJournal:
    """This worker's journal. ``hold`` is called on the event loop, ``ended`` by the writer; one lock guards both."""

    def __init__(self, folder: Path, worker: str) -> None:
        """Begins a new journal. Raises ``OSError`` when the folder cannot be written."""
        self._folder = folder
        self._worker = worker
        self._begun = 0
        self._of: dict[str, tuple[_Segment, int]] = {}
        """Where the records of holds in flight begin."""
        self._spare: _Segment | None = None
        self._segment = self._begin(SEGMENT_BYTES)
        self._line = bytearray(b"+")

    def hold(self, reservation_id: str, record: Row) -> None:
        """Writes one ``held_record``. Raises ``OSError`` (disk full): then nothing may be sent."""
        line = self._line
        _encoder.encode_into(record, line, 1)
        line += b"\n"
        segment = self._segment
        start = segment.size
        end = start + len(line)
        if end > len(segment.map):
            segment = self._turn(len(line))
            start, end = 0, len(line)
        segment.map[start:end] = line
        segment.size = end
        segment.live += 1
        self._of[reservation_id] = segment, start

    def ended(self, reservation_ids: Iterable[str]) -> None:
        """Notes that these holds are over; ids that this journal does not know are passed over."""
        find = self._of.pop
        for one in reservation_ids:
            found = find(one, None)
            if found is not None:
                segment, start = found
                segment.map[start] = _OVER
                segment.live -= 1
                if not segment.live and segment is not self._segment:
                    self._free(segment)

    def close(self) -> None:
        """Removes the journal; call only when nothing it holds is in flight or everything is in the ledger's file."""
        for segment in {self._segment, *(segment for segment, _ in self._of.values())}:
            segment.map.close()
        if self._spare is not None:
            self._spare.map.close()
        remove_journal(self._folder, self._worker)

    def _turn(self, need: int) -> _Segment:
        """Go on in another segment."""
        spare, full = self._spare, self._segment
        if spare is not None and need <= len(spare.map):
            self._segment, self._spare = spare, None
        else:
            self._segment = self._begin(max(need, SEGMENT_BYTES))
        if not full.live:
            self._free(full)
        return self._segment

    def _free(self, segment: _Segment) -> None:
        """Nothing in it is in flight any more."""
        if self._spare is None:
            segment.wipe()
            self._spare = segment
        else:
            segment.remove()

    def _begin(self, size: int) -> _Segment:
        path = self._folder / f"{self._worker}.holds.{self._begun:08d}"
        segment = _Segment(path, size)
        self._begun += 1
        return segment


def read_journal(folder: Path, worker: str) -> list[Row]:
    """The holds that a dead worker's journal leaves open, as rows; torn records are passed over.

    Journals of earlier releases say in records of their own what has ended.
    """
    held: dict[str, Row] = {}
    ended: set[str] = set()
    for path in sorted(folder.glob(f"{worker}.holds.*")):
        for line in path.read_bytes().rstrip(b"\x00").split(b"\n"):
            if line.startswith(b"-"):
                ended.add(line[1:].decode("utf-8", "replace"))
            elif line.startswith(b"+"):
                try:
                    row = record_to_row(tuple(_HELD.decode(line[1:])))
                except (msgspec.DecodeError, ValueError):
                    continue
                held[str(row[0])] = row
    return [row for reservation_id, row in held.items() if reservation_id not in ended]


def remove_journal(folder: Path, worker: str) -> None:
    """Deletes what a worker's journal left."""
    for path in folder.glob(f"{worker}.holds.*"):
        path.unlink(missing_ok=True)
