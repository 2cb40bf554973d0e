"""The hold journal: evidence of every call in flight, written before the call is sent and without waiting for a disk.

A record is copied into a shared mapping of a file, so it survives the death of this process at the cost of a copy;
holds that last longer than a moment also get a row in the ledger's own file, which survives the death of the machine.
A worker has one journal of small segments; a segment is removed when nothing in it is in flight any more.
"""

import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from farthing.adapters.sqlite_rows import Row, record_to_row

SEGMENT_BYTES: Final = 1024 * 1024
"""Size of a segment; its blocks are allocated when it is begun, so that a full disk is told there and then."""

_encode = msgspec.json.Encoder().encode
_HELD: Final = msgspec.json.Decoder(list[object])


class HoldJournal:
    """This worker's journal. ``hold`` is called on the event loop, ``ended`` by the writer; one lock guards both."""

    def __init__(self, folder: Path, worker: str) -> None:
        """Begins a new journal. Raises ``OSError`` when the folder cannot be written."""
        self._folder = folder
        self._worker = worker
        self._segment = 0
        self._live: dict[int, int] = {}
        """Holds in flight by segment."""
        self._of: dict[str, int] = {}
        self._map = self._open(SEGMENT_BYTES)
        self._size = 0

    def hold(self, reservation_id: str, record: Row) -> None:
        """Writes one ``held_record``. Raises ``OSError`` (disk full): then nothing may be sent."""
        self._write(b"+%b\n" % _encode(record))
        self._of[reservation_id] = self._segment
        self._live[self._segment] = self._live.get(self._segment, 0) + 1

    def ended(self, reservation_ids: Iterable[str]) -> None:
        """Writes that these holds are over; ids that this journal does not know are passed over."""
        segment_of = self._of
        known = [one for one in reservation_ids if one in segment_of]
        if not known:
            return
        self._write(("-" + "\n-".join(known) + "\n").encode())
        live = self._live
        for one in known:
            segment = segment_of.pop(one)
            left = live[segment] = live[segment] - 1
            if not left and segment != self._segment:
                del live[segment]
                _path(self._folder, self._worker, segment).unlink(missing_ok=True)

    def close(self) -> None:
        """Removes the journal; call only when nothing it holds is in flight or everything is in the ledger's file."""
        self._map.close()
        remove_journal(self._folder, self._worker)

    def _turn(self, need: int) -> None:
        before = self._segment
        self._segment += 1
        try:
            fresh = self._open(max(need, SEGMENT_BYTES))
        except OSError:
            self._segment = before
            raise
        self._map.close()
        if not self._live.get(before):
            self._live.pop(before, None)
            _path(self._folder, self._worker, before).unlink(missing_ok=True)
        self._map = fresh
        self._size = 0

    def _open(self, size: int) -> mmap.mmap:
        path = _path(self._folder, self._worker, self._segment)
        file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, size)
            return mmap.mmap(file, size)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)

    def _write(self, data: bytes) -> None:
        if self._size + len(data) > len(self._map):
            self._turn(len(data))
        end = self._size + len(data)
        self._map[self._size : end] = data
        self._size = end


def read_journal(folder: Path, worker: str) -> list[Row]:
    """The holds that a dead worker's journal leaves open, as rows; torn records are passed over."""
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


def _path(folder: Path, worker: str, segment: int) -> Path:
    return folder / f"{worker}.holds.{segment:08d}"
