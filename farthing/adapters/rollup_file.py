"""The file of the roll-ups, beside the ledger. It holds nothing that the ledger does not; deleted, it comes back."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import msgspec

from farthing.adapters import rollup_postings
from farthing.adapters.ledger_query import MEASURES
from farthing.adapters.rollup_cuboids import BUILT_IN, Cuboid, name, names
from farthing.adapters.sqlite_schema import APPLICATION_ID as LEDGER_ID
from farthing.adapters.sqlite_schema import BUSY_TIMEOUT_MS, store_error
from farthing.core.dimensions import ENTRY_DIMENSIONS, SCOPE_DIMENSIONS
from farthing.core.errors import StoreUnavailable

FILE: Final = "rollups.db"
APPLICATION_ID: Final = 0x46545255
"""``FTRU`` in the file's header."""
VERSION: Final = 3
"""Of the file's form; another version is made anew."""
GRAINS: Final = ("hour", "day")
STRAY_COLUMNS: Final = ("request_id", "received_at_ms", "slot", *SCOPE_DIMENSIONS, "tags", *ENTRY_DIMENSIONS)
_TABLES: Final = (
    # Entries up to `seq` are in the cells of every cuboid that is ready; `last_id` tells whether it is this ledger.
    "CREATE TABLE progress (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), seq INTEGER NOT NULL,"
    " last_id TEXT NOT NULL, entries INTEGER NOT NULL, at_ms INTEGER NOT NULL) STRICT",
    "INSERT INTO progress VALUES (1, 0, '', 0, 0)",
    "CREATE TABLE cuboids (number INTEGER PRIMARY KEY, dimensions TEXT NOT NULL UNIQUE, state TEXT NOT NULL,"
    " seq INTEGER NOT NULL, built_in INTEGER NOT NULL, cells INTEGER NOT NULL, asked_at_ms INTEGER NOT NULL,"
    " hour_cells INTEGER NOT NULL) STRICT",
    # Entries of requests that are not of one hour and one scope: their requests are counted one by one.
    f"CREATE TABLE strays (seq INTEGER PRIMARY KEY, {', '.join(map(name, STRAY_COLUMNS))})",
    "CREATE INDEX strays_slot ON strays (slot)",
    # Entries whose numbers are too large to be added up in 64 bits: read from the ledger.
    "CREATE TABLE odd (seq INTEGER PRIMARY KEY) STRICT",
    *rollup_postings.TABLES,
)

State = Literal["ready", "filling", "refused"]


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One cuboid of the file."""

    number: int
    cuboid: Cuboid
    state: State
    seq: int
    """Entries up to here are in its cells."""
    built_in: bool
    cells: int
    """Rows of its days, as last counted."""
    hour_cells: int = 0
    """Rows of its hours, as last counted."""
    asked_at_ms: int

    def table(self, grain: str) -> str:
        """Where its cells are."""
        return f"cells_{self.number}_{grain}"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the roll-ups have come."""

    seq: int
    last_id: str
    entries: int
    at_ms: int
    """When the last step ended."""


def connect(path: Path, ledger: Path, *, write: bool, wait_ms: int = BUSY_TIMEOUT_MS) -> sqlite3.Connection:
    """The roll-ups with the ledger attached, read-only, as ``ledger``. Raises ``StoreUnavailable``.

    Writing makes the file when there is none, or one of another version.
    """
    connection = None
    try:
        if write:
            path.touch(mode=0o600)
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={'rw' if write else 'ro'}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=wait_ms / 1000,
        )
        if write:
            _prepare(path, connection)
        elif not is_ours(connection):
            raise StoreUnavailable(f"{path} holds no roll-ups of this release.", hint="The gateway makes them anew.")
        connection.execute("ATTACH ? AS ledger", (f"{ledger.absolute().as_uri()}?mode=ro",))
        if connection.execute("PRAGMA ledger.application_id").fetchone() != (LEDGER_ID,):
            raise StoreUnavailable(f"{ledger} is no ledger.", hint="Check --home or FARTHING_HOME.")
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise store_error(path, error) from error
    except StoreUnavailable:
        if connection is not None:
            connection.close()
        raise
    return connection


def is_ours(connection: sqlite3.Connection) -> bool:
    """The open file has roll-ups in the form of this release."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return (application, version) == (APPLICATION_ID, VERSION)


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction: all of it or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def begin_anew(connection: sqlite3.Connection) -> None:
    """Inside a transaction: all tables empty, built-in cuboids ready from the first entry on."""
    for (table,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
        connection.execute(f"DROP TABLE main.{name(table)}")
    for statement in _TABLES:
        connection.execute(statement)
    for cuboid in BUILT_IN:
        add(connection, cuboid, built_in=True, at_ms=0)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def add(connection: sqlite3.Connection, cuboid: Cuboid, *, built_in: bool, at_ms: int) -> None:
    """Inside a transaction: a cuboid without cells; built-in ones are there before the first entry."""
    (number,) = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM cuboids").fetchone()
    connection.execute(
        "INSERT INTO cuboids VALUES (?, ?, ?, 0, ?, 0, ?, 0)",
        (number, json.dumps(cuboid.dimensions), "ready" if built_in else "filling", int(built_in), at_ms),
    )
    texts = ", ".join(f"{name(dimension)} TEXT NOT NULL" for dimension in cuboid.dimensions)
    sums = ", ".join(f"{name(column)} INTEGER NOT NULL" for column in (*MEASURES, *cuboid.requests))
    for grain in GRAINS:
        # STRICT refuses what a sum beyond 64 bits would become.
        connection.execute(
            f"CREATE TABLE cells_{number}_{grain} (slot INTEGER NOT NULL, {texts}, {sums},"
            f" PRIMARY KEY (slot, {names(cuboid.dimensions)})) STRICT, WITHOUT ROWID"
        )


def empty(connection: sqlite3.Connection, kept: Kept, state: State | None) -> None:
    """Inside a transaction: its cells are dropped; ``state`` None: forgotten altogether."""
    for grain in GRAINS:
        connection.execute(f"DROP TABLE IF EXISTS {kept.table(grain)}")
    if state is None:
        connection.execute("DELETE FROM cuboids WHERE number = ?", (kept.number,))
    else:
        connection.execute(
            "UPDATE cuboids SET state = ?, cells = 0, hour_cells = 0 WHERE number = ?", (state, kept.number)
        )


def cuboids(connection: sqlite3.Connection) -> tuple[Kept, ...]:
    """All that the file knows of."""
    rows = connection.execute(
        "SELECT number, dimensions, state, seq, built_in, cells, asked_at_ms, hour_cells FROM cuboids ORDER BY number"
    ).fetchall()
    return tuple(
        Kept(number=row[0], cuboid=Cuboid(tuple(json.loads(row[1]))), state=row[2], seq=row[3],
             built_in=bool(row[4]), cells=row[5], asked_at_ms=row[6], hour_cells=row[7])
        for row in rows
    )  # fmt: skip


def progress(connection: sqlite3.Connection) -> Progress:
    """How far they have come."""
    row = connection.execute("SELECT seq, last_id, entries, at_ms FROM progress").fetchone()
    return Progress(seq=row[0], last_id=row[1], entries=row[2], at_ms=row[3])


def is_of_ledger(connection: sqlite3.Connection, progress: Progress) -> bool:
    """The ledger still has the entry that was added last: it was not replaced by another or by an older copy."""
    if progress.seq == 0:
        return True
    row = connection.execute("SELECT id FROM ledger.entries WHERE seq = ?", (progress.seq,)).fetchone()
    return row is not None and row[0] == progress.last_id


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise StoreUnavailable(f"{path} is not a file of roll-ups.", hint="Move it away; the gateway makes its own.")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA cache_size = -65536")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    connection.execute("PRAGMA temp_store = MEMORY")
    if not is_ours(connection):
        with writing(connection):
            if not is_ours(connection):
                begin_anew(connection)
