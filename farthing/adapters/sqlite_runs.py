"""Runs: what a lone worker booked on many counters of a window at once, written in order, one row after the other.

Bringing an amount into its row of ``shares`` costs a page of the file where there are very many counters; in a run it
costs its own bytes. A window has few runs, so that a counter is found with few look-ups; who has only a few counters
to write, or finds many runs there, writes rows of ``shares``. Only a lone worker writes runs: releases that do not
know them refuse the file, and cannot be at work beside it.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from farthing.adapters.memory import CounterKey

Place = tuple[str, str]
"""A window and a unit."""

_COUNT: Final = 'SELECT count(*) FROM runs WHERE "window" = ? AND unit = ?'
_INSERT: Final = 'INSERT INTO runs ("window", unit) VALUES (?, ?)'
_INSERT_ROW: Final = "INSERT INTO run_rows VALUES (?, ?, ?, ?)"
_SELECT: Final = """
    SELECT unit, (SELECT body FROM run_rows WHERE run_rows.run = runs.run AND first <= ? ORDER BY first DESC LIMIT 1)
    FROM runs WHERE "window" = ?
"""
_SELECT_UNIT: Final = f"{_SELECT} AND unit = ?"
_SELECT_WINDOW: Final = 'SELECT unit, body FROM runs JOIN run_rows USING (run) WHERE "window" = ?'
_COUNTERS: Final = 'SELECT coalesce(sum(counters), 0) FROM runs JOIN run_rows USING (run) WHERE "window" = ?'

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, int]).decode


class Sizes(NamedTuple):
    """When counters are brought from the log into the file's tables, and how. Other sizes are for tests."""

    fold_accounts: int = 32_768
    """Counters with logged postings after which they are brought there: who comes beside a worker that is alone waits
    for all of them."""
    fold_logged: int = 131_072
    """So many logged postings, of however few counters, are brought there too: a recovery reads them all."""
    fold_s: float = 120.0
    """They are also brought there after so long, with the next group."""
    slice: int = 512
    """Counters brought there with one group, so that no call waits for all of them."""
    part: int = 2_048
    """About so many of them are put into order at once."""
    accounts: int = 100_000
    """Counters kept in memory; idle ones beyond that are given back. Those with logged postings are not idle."""
    evicted: int = 8_192
    """So many of them at once."""
    run: int = 4_096
    """The least counters of a window and unit that become a run."""
    runs: int = 40
    """The most runs of a window and unit."""
    row: int = 128
    """Counters in a row of a run."""


USUAL: Final = Sizes()


class Runs:
    """The runs that one fold writes. Owned by the writer thread."""

    def __init__(self, connection: sqlite3.Connection, places: Mapping[Place, int], sizes: Sizes) -> None:
        """``places``: how many counters the fold brings to each."""
        self._row = sizes.row
        self._numbers: dict[Place, int] = {}
        """Runs that are in the file."""
        self._begun: dict[Place, int] = {}
        """Runs that the present group begins."""
        self._places = {
            place
            for place, count in places.items()
            if count >= sizes.run and connection.execute(_COUNT, place).fetchone()[0] < sizes.runs
        }

    def write(
        self, connection: sqlite3.Connection, amounts: Iterable[tuple[str, str, str, int]]
    ) -> list[tuple[str, str, str, int]]:
        """Append to runs (window, counter, unit, amount), in order; what has none comes back, counters first."""
        by_place: dict[Place, dict[str, int]] = {}
        rest = []
        self._begun = {}
        for window, counter, unit, amount in amounts:
            place = window, unit
            if place in self._places:
                cells = by_place.get(place)
                if cells is None:
                    cells = by_place[place] = {}
                cells[counter] = amount
            else:
                rest.append((counter, window, unit, amount))
        for place, cells in by_place.items():
            number = self._numbers.get(place)
            if number is None:
                number = connection.execute(_INSERT, place).lastrowid
                assert number is not None
                self._begun[place] = number
            connection.executemany(_INSERT_ROW, _rows(number, cells, self._row))
        return rest

    def written(self) -> None:
        """The group that wrote last is on disk."""
        self._numbers.update(self._begun)


def _rows(number: int, cells: dict[str, int], size: int) -> Iterator[tuple[int, str, int, str]]:
    pairs = list(cells.items())
    for start in range(0, len(pairs), size):
        part = pairs[start : start + size]
        yield number, part[0][0], len(part), _encode(dict(part)).decode()


def in_runs(connection: sqlite3.Connection, key: CounterKey) -> int:
    """What runs say was booked on a counter."""
    counter, window, unit = key
    rows = connection.execute(_SELECT_UNIT, (counter, window, unit))
    return sum(_decode(body).get(counter, 0) for _, body in rows if body is not None)


def in_runs_by_unit(connection: sqlite3.Connection, counter: str, window: str) -> dict[str, int]:
    """The same for each unit of which there are runs."""
    found: dict[str, int] = {}
    for unit, body in connection.execute(_SELECT, (counter, window)):
        if body is not None:
            found[unit] = found.get(unit, 0) + _decode(body).get(counter, 0)
    return found


def in_runs_by_window(
    connection: sqlite3.Connection, counter: str, windows: Sequence[str], unit: str
) -> list[tuple[str, int]]:
    """The same for several windows: those where runs have the counter."""
    marks = ", ".join("?" * len(windows))
    places = connection.execute(
        f'SELECT DISTINCT "window" FROM runs WHERE unit = ? AND "window" IN ({marks})', (unit, *windows)
    ).fetchall()
    found = [(window, in_runs(connection, (counter, window, unit))) for (window,) in places]
    return [one for one in found if one[1]]


def count_in_runs(connection: sqlite3.Connection, window: str) -> int:
    """Counters that the runs of a window have; who is in several runs is counted as often."""
    (count,) = connection.execute(_COUNTERS, (window,)).fetchone()
    return int(count)


def all_of(connection: sqlite3.Connection, window: str) -> Iterator[list[tuple[CounterKey, int]]]:
    """All that runs say of a window's counters, row by row; a counter may come several times."""
    for unit, body in connection.execute(_SELECT_WINDOW, (window,)):
        yield [((counter, window, unit), amount) for counter, amount in _decode(body).items()]
