"""Which counters surely do not stand in the file: a worker that is alone need not look a new one up.

A Bloom filter with two bits a counter. A thread of its own loads it from the file; the writer adds what it writes.
Until it is loaded, and whenever it says "perhaps", the file is asked.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterable
from typing import Final

from farthing.adapters.memory import CounterKey
from farthing.core.errors import StoreUnavailable

SMALLEST: Final = 65_536
"""Counters that the smallest filter has room for."""

BITS: Final = 16
"""Per counter that there is room for: of new counters, one in seventy is looked up in vain when it is full."""

PAGE: Final = 256

_COUNT: Final = "SELECT count(*) FROM shares"
_SELECT_KEYS: Final = 'SELECT counter, "window", unit FROM shares'


class KnownCounters:
    """The filter. Any thread may ask whether a counter is ``absent``; all else is the writer's."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """``connect`` opens the file for reading."""
        self._connect = connect
        self._lock = threading.Lock()
        self._bits: _Bits | None = None
        self._meanwhile: list[int] | None = None
        """While it is loaded: what was added since."""

    def absent(self, key: CounterKey) -> bool:
        """True: no row of this counter stands in the file."""
        bits = self._bits
        return bits is not None and not bits.hold(hash(key))

    def add(self, keys: Iterable[CounterKey]) -> None:
        """Rows of these counters are going to be written."""
        if self._bits is not None and self._bits.full and self._meanwhile is None:
            self.load()
        with self._lock:
            numbers = [hash(key) for key in keys]
            if self._bits is not None:
                self._bits.add(numbers)
            if self._meanwhile is not None:
                self._meanwhile += numbers

    def load(self) -> None:
        """Load it in the background. No row may be on its way that is not added afterwards."""
        with self._lock:
            meanwhile = self._meanwhile = []
        threading.Thread(target=self._load, args=(meanwhile,), name="farthing-counters", daemon=True).start()

    def forget(self) -> None:
        """Others write too, or have written: nothing is surely absent."""
        with self._lock:
            self._bits = self._meanwhile = None

    def _load(self, meanwhile: list[int]) -> None:
        bits = None
        with contextlib.suppress(sqlite3.Error, StoreUnavailable):  # without it, counters are looked up
            bits = self._read(meanwhile)
        with self._lock:
            if self._meanwhile is meanwhile:
                self._meanwhile = None
                if bits is not None:
                    bits.add(meanwhile)
                    self._bits = bits

    def _read(self, meanwhile: list[int]) -> "_Bits | None":
        with contextlib.closing(self._connect()) as connection:
            (count,) = connection.execute(_COUNT).fetchone()
            bits = _Bits(max(SMALLEST, 2 * count))
            cursor = connection.execute(_SELECT_KEYS)
            while keys := cursor.fetchmany(PAGE):
                if self._meanwhile is not meanwhile:
                    return None
                bits.add([hash(key) for key in keys])
        return bits


class _Bits:
    """The bits, for as many counters as there is room for."""

    __slots__ = ("_bits", "_left", "_mask")

    def __init__(self, room: int) -> None:
        size = 1 << (room * BITS - 1).bit_length()
        self._bits = bytearray(size >> 3)
        self._mask = size - 1
        self._left = room

    @property
    def full(self) -> bool:
        """More were added than there is room for."""
        return self._left < 0

    def add(self, numbers: list[int]) -> None:
        """Set the bits of hashed counters; one thread at a time."""
        bits, mask = self._bits, self._mask
        for number in numbers:
            first, second = number & mask, number >> 32 & mask
            bits[first >> 3] |= 1 << (first & 7)
            bits[second >> 3] |= 1 << (second & 7)
        self._left -= len(numbers)

    def hold(self, number: int) -> bool:
        """Both bits are set."""
        bits, mask = self._bits, self._mask
        first, second = number & mask, number >> 32 & mask
        return bool(bits[first >> 3] >> (first & 7) & 1 and bits[second >> 3] >> (second & 7) & 1)
