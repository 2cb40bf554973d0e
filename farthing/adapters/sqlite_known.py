"""What stands in the file on counters, known to a worker that is alone: it need not look them up one by one.

By window, because what windows that are over booked is not asked for any more: a window is loaded by a thread of its
own when it is first asked for, brought up to date by what the writer books, and moved to a larger table by such a
thread before it is full. Usual windows are tables of sums; one with more counters than memory should be spent on has
a Bloom filter, which knows only what is surely new.
"""

import contextlib
import sqlite3
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from farthing.adapters.memory import CounterKey
from farthing.adapters.sqlite_runs import all_of, count_in_runs
from farthing.core.errors import StoreUnavailable

SUMS_MAX: Final = 2_000_000
"""Counters of a window that are known with what was booked on them, at 16 to 32 bytes each."""

KEPT_S: Final = 3_600.0
"""A window on which nothing was booked for so long is forgotten when another is loaded."""

BITS: Final = 16
"""Of the filter, per counter that there is room for: when full, one new counter in seventy is looked up in vain."""

PAGE: Final = 256

LEAST: Final = 1 << 16
"""Places of the smallest table: what one holds more is moved to a larger one while this one still has room."""

_COUNT: Final = 'SELECT count(*) FROM (SELECT 1 FROM shares WHERE "window" = ?)'
_SELECT: Final = 'SELECT counter, unit, posted + authority FROM shares WHERE "window" = ? AND worker <> ?'

Amount = tuple[int, int]
"""The hash of a counter's key, and what was booked on it."""


class KnownCounters:
    """Counters by window. Called under the writer's lock; the thread that loads a window touches nothing else."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], worker: str) -> None:
        """``connect`` opens the file for reading; rows of ``worker`` do not count."""
        self._connect = connect
        self._worker = worker
        self._lock = threading.Lock()
        self._windows: dict[str, _Sums | _Bits] = {}
        self._used: dict[str, float] = {}
        """When something was last booked on a window, or it was loaded."""
        self._meanwhile: dict[str, list[Amount]] = {}
        """Of windows that are being loaded or moved: what was booked since."""
        self.wanted: set[str] = set()
        """Windows that were asked for and are not known, or will soon be full."""

    def booked(self, key: CounterKey) -> int | None:
        """What stands in the file on a counter, 0 where nothing does; None: not known, ask the file."""
        window = self._windows.get(key[1])
        if window is None:
            if key[1] not in self._meanwhile:
                self.wanted.add(key[1])
            return None
        return window.booked(hash(key) or 1)

    def add(self, amounts: Iterable[tuple[CounterKey, int]]) -> None:
        """These amounts were added to the rows of counters."""
        if not self._windows and not self._meanwhile:
            return
        now = time.monotonic()
        by_window: dict[str, list[Amount]] = {}
        for key, amount in amounts:
            more = by_window.get(key[1])
            if more is None:
                more = by_window[key[1]] = []
            more.append((hash(key) or 1, amount))
        with self._lock:
            for name, more in by_window.items():
                window = self._windows.get(name)
                since = self._meanwhile.get(name)
                if since is not None:
                    since += more
                if window is not None:
                    self._used[name] = now
                    if not _added(window, more):
                        del self._windows[name]  # it is loaded anew, with more room, when it is asked for
                    elif since is None and isinstance(window, _Sums) and window.crowded():
                        self.wanted.add(name)

    def load(self) -> None:
        """Load in the background what is wanted, as the file is now: nothing may be booked there at this moment."""
        wanted, self.wanted = self.wanted, set()
        with self._lock:
            meanwhile: dict[str, list[Amount]] = {name: [] for name in wanted if name not in self._meanwhile}
            self._meanwhile.update(meanwhile)
            known = {name: self._windows.get(name) for name in meanwhile}
            full = {name: window.copy() for name, window in known.items() if isinstance(window, _Sums)}
            due = time.monotonic() - KEPT_S
            for name in [name for name in self._windows if self._used[name] < due]:
                del self._windows[name], self._used[name]
        connection = None
        try:
            connection = self._connect()
            connection.execute("BEGIN")
            connection.execute("SELECT 1 FROM shares LIMIT 1").fetchone()  # from here on it sees the same
        except (sqlite3.Error, StoreUnavailable):  # without it, counters are looked up
            if connection is not None:
                connection.close()
            self._give_up(meanwhile)
            return
        arguments = (connection, meanwhile, full)
        threading.Thread(target=self._load, args=arguments, name="farthing-counters", daemon=True).start()

    def forget(self) -> None:
        """Others write too, or have written: nothing is known."""
        with self._lock:
            self._windows, self._meanwhile, self.wanted = {}, {}, set()

    def _load(
        self, connection: sqlite3.Connection, meanwhile: dict[str, list[Amount]], full: dict[str, "_Sums"]
    ) -> None:
        try:
            with contextlib.closing(connection):
                for name, since in meanwhile.items():
                    crowded = full.pop(name, None)
                    window = self._read(connection, name, since) if crowded is None else crowded.moved()
                    with self._lock:
                        if self._meanwhile.get(name) is since:
                            del self._meanwhile[name]
                            if _added(window, since):
                                self._windows[name], self._used[name] = window, time.monotonic()
        except (sqlite3.Error, OverflowError):
            self._give_up(meanwhile)

    def _give_up(self, meanwhile: dict[str, list[Amount]]) -> None:
        with self._lock:
            for name, since in meanwhile.items():
                if self._meanwhile.get(name) is since:
                    del self._meanwhile[name]

    def _read(self, connection: sqlite3.Connection, name: str, since: list[Amount]) -> "_Sums | _Bits":
        (count,) = connection.execute(_COUNT, (name,)).fetchone()
        count += count_in_runs(connection, name)
        window = _Sums(count) if count <= SUMS_MAX else _Bits(count)
        cursor = connection.execute(_SELECT, (name, self._worker))
        while rows := cursor.fetchmany(PAGE):
            if self._meanwhile.get(name) is not since:
                break  # forgotten in the meantime
            window.add([(hash((counter, name, unit)) or 1, amount) for counter, unit, amount in rows])
        for amounts in all_of(connection, name):
            if self._meanwhile.get(name) is not since:
                break
            window.add([(hash(key) or 1, amount) for key, amount in amounts])
        return window


def _added(window: "_Sums | _Bits", more: Sequence[Amount]) -> bool:
    """Add to it; False: it cannot be used any more."""
    try:
        return window.add(more)
    except OverflowError:
        return False


class _Sums:
    """A table of hashes and sums, probed one place after the other.

    Counters whose hashes are equal share a sum: there are none among a million in all likelihood, and if there were,
    too much would be counted, never too little.
    """

    __slots__ = ("_amounts", "_left", "_mask", "_numbers")

    def __init__(self, counters: int) -> None:
        size = max(LEAST, 1 << (counters * 5 // 3).bit_length())
        self._left = size * 3 // 4
        self._numbers = array("q", bytes(8 * size))
        self._amounts = array("q", bytes(8 * size))
        self._mask = size - 1

    def crowded(self) -> bool:
        """It will soon be full."""
        return self._left < self._mask >> 3

    def copy(self) -> "_Sums":
        """The same sums at this moment."""
        same = _Sums.__new__(_Sums)
        same._numbers, same._amounts = self._numbers[:], self._amounts[:]
        same._left, same._mask = self._left, self._mask
        return same

    def moved(self, most: int = SUMS_MAX) -> "_Sums | _Bits":
        """The same sums with room for as many again; only what is surely new where they are more than ``most``."""
        count = (self._mask + 1) * 3 // 4 - self._left
        window = _Sums(2 * count) if count <= most else _Bits(count)
        numbers, amounts = self._numbers, self._amounts
        for start in range(0, len(numbers), PAGE):
            page = zip(numbers[start : start + PAGE], amounts[start : start + PAGE], strict=True)
            window.add([one for one in page if one[0]])
        return window

    def booked(self, number: int) -> int | None:
        """The sum."""
        numbers, mask = self._numbers, self._mask
        place = number & mask
        while (found := numbers[place]) != number:
            if not found:
                return 0
            place = place + 1 & mask
        return self._amounts[place]

    def add(self, more: Sequence[Amount]) -> bool:
        """Add to sums; False: there is no room for them, and it is of no use any more."""
        numbers, amounts, mask = self._numbers, self._amounts, self._mask
        if self._left < len(more):
            return False
        for number, amount in more:
            place = number & mask
            while (found := numbers[place]) != number:
                if not found:
                    numbers[place] = number
                    self._left -= 1
                    break
                place = place + 1 & mask
            amounts[place] += amount
        return True


class _Bits:
    """A Bloom filter with two bits a counter."""

    __slots__ = ("_bits", "_left", "_mask")

    def __init__(self, counters: int) -> None:
        self._left = 2 * counters
        size = 1 << (self._left * BITS - 1).bit_length()
        self._bits = bytearray(size >> 3)
        self._mask = size - 1

    def booked(self, number: int) -> int | None:
        """0 where nothing surely is; else None."""
        bits, mask = self._bits, self._mask
        first, second = number & mask, number >> 32 & mask
        return None if bits[first >> 3] >> (first & 7) & 1 and bits[second >> 3] >> (second & 7) & 1 else 0

    def add(self, more: Sequence[Amount]) -> bool:
        """Set the bits of counters; False: it is full."""
        bits, mask = self._bits, self._mask
        for number, _ in more:
            first, second = number & mask, number >> 32 & mask
            bits[first >> 3] |= 1 << (first & 7)
            bits[second >> 3] |= 1 << (second & 7)
        self._left -= len(more)
        return self._left >= 0
