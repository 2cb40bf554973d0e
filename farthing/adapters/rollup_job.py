"""Adding entries to the roll-ups, batch by batch. Blocking; one process at a time does it, any may.

Every batch is one transaction with the number up to which entries are added: whatever dies on the way, an entry is in
the cells once or not yet, and readers add what is not yet there themselves.
"""

import json
import sqlite3
from pathlib import Path
from typing import Final

import msgspec

from farthing.adapters import rollup_batch, rollup_file, rollup_postings
from farthing.adapters.ledger_query import MEASURES
from farthing.adapters.rollup_cuboids import Cuboid, name, names
from farthing.adapters.rollup_file import Kept, Progress, writing
from farthing.adapters.rollup_grouping import Grouping
from farthing.adapters.sqlite_schema import store_error

BATCH: Final = 50_000
"""Entries of one transaction: about a second, during which the ledger's log is not cut."""
ASKED_MAX: Final = 24
"""Cuboids beyond the built-in ones; the one that nobody asked for longest makes room."""
DENSE_CELLS: Final = 50_000
DENSE: Final = 4
"""A cuboid with more cells than that, and more than an entry in so many, saves nothing: it is given up."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What a step did."""

    entries: int
    """New in the roll-ups."""
    filled: int
    """Added to cuboids that were asked for later."""
    left: bool
    """There is more to do at once."""


class Rollups:
    """The roll-ups of the SQLite ledger at ``ledger``. Raises ``StoreUnavailable``."""

    def __init__(self, ledger: Path, path: Path, *, dense_cells: int = DENSE_CELLS) -> None:
        self._path = path
        self._dense_cells = dense_cells
        self._connection = rollup_file.connect(path, ledger, write=True)
        self._grouping = Grouping(self._connection)

    def waiting(self) -> tuple[int, bool, int]:
        """(about how many entries are not in the cells yet, some cuboid is incomplete, when the last step ended)."""
        try:
            (last,) = self._connection.execute("SELECT coalesce(max(seq), 0) FROM ledger.entries").fetchone()
            progress = rollup_file.progress(self._connection)
            return abs(int(last) - progress.seq), self._is_filling(), progress.at_ms
        except sqlite3.Error as error:
            raise store_error(self._path, error) from error

    def asked_ms(self) -> int:
        """When somebody last asked for a cuboid that is not complete; 0 where all are."""
        try:
            sql = "SELECT coalesce(max(asked_at_ms), 0) FROM cuboids WHERE state = 'filling'"
            return int(self._connection.execute(sql).fetchone()[0])
        except sqlite3.Error as error:
            raise store_error(self._path, error) from error

    def step(self, *, now_ms: int, batch: int = BATCH) -> Step:
        """Adds the next batch, or, where there is none, goes on with a cuboid that was asked for.

        Does nothing while another process is at it.
        """
        connection = self._connection
        try:
            with writing(connection):
                progress = rollup_file.progress(connection)
                if not rollup_file.is_of_ledger(connection, progress):
                    rollup_file.begin_anew(connection)
                    progress = rollup_file.progress(connection)
                high, last_id, count = self._next(progress.seq, batch)
                if count:
                    self._add(progress, high, last_id, count, now_ms)
                    return Step(entries=count, filled=0, left=count == batch or self._is_filling())
                filled = self._fill(progress, batch)
                return Step(entries=0, filled=filled, left=self._is_filling())
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
                return Step(entries=0, filled=0, left=False)
            raise store_error(self._path, error) from error

    def want(self, cuboid: Cuboid, *, now_ms: int) -> None:
        """Another cuboid, filled by the next steps; one too many makes the least asked for go."""
        try:
            with writing(self._connection):
                want(self._connection, cuboid, now_ms=now_ms)
        except sqlite3.Error as error:
            raise store_error(self._path, error) from error

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def _is_filling(self) -> bool:
        (count,) = self._connection.execute("SELECT count(*) FROM cuboids WHERE state = 'filling'").fetchone()
        return bool(count)

    def _next(self, low: int, batch: int) -> tuple[int, str, int]:
        """(last number, its id, how many) of the next batch."""
        row = self._connection.execute(
            "SELECT max(seq), count(*) FROM"
            " (SELECT seq FROM ledger.entries WHERE seq > ? ORDER BY seq LIMIT ?)", (low, batch)
        ).fetchone()  # fmt: skip
        if not row[1]:
            return low, "", 0
        (last_id,) = self._connection.execute("SELECT id FROM ledger.entries WHERE seq = ?", (row[0],)).fetchone()
        return int(row[0]), str(last_id), int(row[1])

    def _add(self, progress: Progress, high: int, last_id: str, count: int, now_ms: int) -> None:
        ready = [kept for kept in rollup_file.cuboids(self._connection) if kept.state == "ready"]
        self._absorb(ready, progress.seq, high)
        rollup_batch.note_strays(self._connection)
        rollup_postings.note(self._connection, progress.seq, high)
        rollup_batch.drop(self._connection)
        total = progress.entries + count
        self._connection.execute(
            "UPDATE progress SET seq = ?, last_id = ?, entries = ?, at_ms = ?", (high, last_id, total, now_ms)
        )
        if total.bit_length() > progress.entries.bit_length() or total // 500_000 > progress.entries // 500_000:
            for kept in ready:
                self._weigh(kept, total)

    def _fill(self, progress: Progress, batch: int) -> int:
        """One batch more in the first cuboid that is not complete; where it is, from now on it takes part."""
        kept = next((one for one in rollup_file.cuboids(self._connection) if one.state == "filling"), None)
        if kept is None:
            return 0
        high, _, count = self._next(kept.seq, batch)
        if kept.seq < progress.seq:
            high = min(high, progress.seq)
            self._absorb([kept], kept.seq, high)
            rollup_batch.drop(self._connection)
        state = "ready" if high >= progress.seq else "filling"
        self._connection.execute("UPDATE cuboids SET seq = ?, state = ? WHERE number = ?", (high, state, kept.number))
        self._weigh(kept, high)
        return max(1, count)

    def _absorb(self, wanted: list[Kept], low: int, high: int) -> None:
        """The batch, added up for each cuboid."""
        rollup_batch.make(self._connection, [kept.cuboid for kept in wanted], low, high)
        self._grouping.make(wanted)
        for kept in wanted:
            for grain, slot in (("hour", "slot"), ("day", "slot / 24")):
                self._add_cells(kept, grain, slot)
        self._grouping.drop(wanted)

    def _add_cells(self, kept: Kept, grain: str, slot: str) -> None:
        requests, dimensions = kept.cuboid.requests, names(kept.cuboid.dimensions)
        added = ", ".join(
            f"{name(column)} = {name(column)} + excluded.{name(column)}" for column in (*MEASURES, *requests)
        )
        sums = ", ".join(f"sum({name(column)})" for column in (*MEASURES, *requests))
        once = ", ".join(f"entries AS {name(column)}" for column in requests)
        none = ", ".join("0" for _ in MEASURES)
        self._connection.execute(
            f"INSERT INTO main.{kept.table(grain)} SELECT {slot} AS at, {dimensions}, {sums} FROM ("
            f"SELECT slot, {dimensions}, {names(MEASURES)}, {once} FROM temp.batch_{kept.number} UNION ALL"
            f" SELECT slot, {dimensions}, {none}, {names(requests)} FROM temp.fixes_{kept.number})"
            f" WHERE true GROUP BY at, {dimensions}"
            f" ON CONFLICT (slot, {dimensions}) DO UPDATE SET {added}"
        )

    def _weigh(self, kept: Kept, entries: int) -> None:
        """Counts the cells of its days; gives it up where they are not much fewer than entries."""
        cells, hour_cells = (
            int(self._connection.execute(f"SELECT count(*) FROM {kept.table(grain)}").fetchone()[0])
            for grain in ("day", "hour")
        )
        if cells > self._dense_cells and cells * DENSE > entries:
            rollup_file.empty(self._connection, kept, "refused")
        else:
            self._connection.execute(
                "UPDATE cuboids SET cells = ?, hour_cells = ? WHERE number = ?", (cells, hour_cells, kept.number)
            )


def want(connection: sqlite3.Connection, cuboid: Cuboid, *, now_ms: int) -> None:
    """Inside a transaction: notes that somebody asks for it; a new one is filled by the next steps."""
    changed = connection.execute(
        "UPDATE cuboids SET asked_at_ms = ? WHERE dimensions = ?", (now_ms, json.dumps(cuboid.dimensions))
    ).rowcount
    if changed:
        return
    asked = [kept for kept in rollup_file.cuboids(connection) if not kept.built_in and kept.state != "refused"]
    if len(asked) >= ASKED_MAX:
        rollup_file.empty(connection, min(asked, key=lambda kept: kept.asked_at_ms), None)
    rollup_file.add(connection, cuboid, built_in=False, at_ms=now_ms)
