"""The hold journal: evidence of every call in flight, written before the call is sent and without waiting for a disk.

A record reaches the operating system with one ``write``, so it survives the death of this process; holds that last
longer than a moment also get a row in the ledger's own file, which survives the death of the machine. A worker has
one journal of small segments; a segment is removed when nothing in it is in flight any more.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from farthing.adapters.sqlite_rows import Row

SEGMENT_BYTES: Final = 1024 * 1024
"""A segment that has grown to this is closed and a new one begun."""

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
        self._file = self._open()
        self._size = 0

    def hold(self, reservation_id: str, row: Row) -> None:
        """Writes one hold. Raises ``OSError`` (disk full): then nothing may be sent."""
        if self._size > SEGMENT_BYTES:
            self._turn()
        self._write(b"+" + _encode(row) + b"\n")
        self._of[reservation_id] = self._segment
        self._live[self._segment] = self._live.get(self._segment, 0) + 1

    def ended(self, reservation_ids: Iterable[str]) -> None:
        """Writes that these holds are over; ids that this journal does not know are passed over."""
        known = [one for one in reservation_ids if one in self._of]
        if not known:
            return
        self._write(b"".join([b"-" + one.encode() + b"\n" for one in known]))
        for one in known:
            segment = self._of.pop(one)
            self._live[segment] -= 1
            if not self._live[segment] and segment != self._segment:
                del self._live[segment]
                _path(self._folder, self._worker, segment).unlink(missing_ok=True)

    def close(self) -> None:
        """Removes the journal; call only when nothing it holds is in flight or everything is in the ledger's file."""
        os.close(self._file)
        remove_journal(self._folder, self._worker)

    def _turn(self) -> None:
        fresh = self._segment + 1
        os.close(self._file)
        if not self._live.get(self._segment):
            self._live.pop(self._segment, None)
            _path(self._folder, self._worker, self._segment).unlink(missing_ok=True)
        self._segment = fresh
        self._file = self._open()
        self._size = 0

    def _open(self) -> int:
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        return os.open(_path(self._folder, self._worker, self._segment), flags, 0o600)

    def _write(self, data: bytes) -> None:
        written = os.write(self._file, data)
        if written != len(data):
            # A torn record is no record: it ends here and is skipped when read, as if it had never been begun.
            os.write(self._file, b"\n")
            raise OSError(28, "No space left on device")
        self._size += written


def read_journal(folder: Path, worker: str) -> list[Row]:
    """The holds that a dead worker's journal leaves open, as rows; torn records are passed over."""
    held: dict[str, Row] = {}
    ended: set[str] = set()
    for path in sorted(folder.glob(f"{worker}.holds.*")):
        for line in path.read_bytes().split(b"\n"):
            if line.startswith(b"-"):
                ended.add(line[1:].decode("utf-8", "replace"))
            elif line.startswith(b"+"):
                try:
                    row = tuple(_HELD.decode(line[1:]))
                except msgspec.DecodeError:
                    continue
                held[str(row[0])] = row
    return [row for reservation_id, row in held.items() if reservation_id not in ended]


def remove_journal(folder: Path, worker: str) -> None:
    """Deletes what a worker's journal left."""
    for path in folder.glob(f"{worker}.holds.*"):
        path.unlink(missing_ok=True)


def _path(folder: Path, worker: str, segment: int) -> Path:
    return folder / f"{worker}.holds.{segment:08d}"
