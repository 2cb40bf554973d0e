"""Opening the SQLite file: pragmas, numbered migrations, and errors that name the file and the fix."""

import sqlite3
import time
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from farthing.core.errors import StoreUnavailable

Durability = Literal["strict", "relaxed"]

APPLICATION_ID: Final = 0x46544847
"""``FTHG`` in the file's header: these are Farthing's books and nobody else's."""

BUSY_TIMEOUT_MS: Final = 5_000

_FIXES: Final = {
    "SQLITE_FULL": ("the disk is full", "Free some space; Farthing goes on by itself."),
    "SQLITE_BUSY": (
        "another process keeps it locked",
        "Find it with `fuser` and end its transaction (a SQL shell with an open BEGIN, a backup tool).",
    ),
    "SQLITE_READONLY": ("it is read-only", "Give this user write permission on the file and its folder."),
    "SQLITE_PERM": ("permission is denied", "Give this user write permission on the file and its folder."),
    "SQLITE_CANTOPEN": ("it cannot be opened", "Check that the folder exists and that this user may write to it."),
    "SQLITE_CORRUPT": ("it is damaged", "Stop Farthing, restore a backup, or salvage it: `sqlite3 FILE .recover`."),
    "SQLITE_NOTADB": ("it is not a SQLite file", "Restore a backup or point FARTHING_HOME elsewhere."),
    "SQLITE_IOERR": ("the disk reports an input/output error", "Check the disk and the system's log."),
}

_WAL_PAUSE_S: Final = 0.005


def store_error(path: Path, error: sqlite3.Error) -> StoreUnavailable:
    """The error to raise for a failure of the file; names the file, what is wrong and the fix."""
    name = getattr(error, "sqlite_errorname", "") or ""
    for prefix, (what, fix) in _FIXES.items():
        if name.startswith(prefix):
            return StoreUnavailable(f"The ledger {path} cannot be used: {what} ({error}).", hint=fix)
    return StoreUnavailable(f"The ledger {path} cannot be used: {error}.", hint="See the message above.")


def connect(
    path: Path, *, durability: Durability = "strict", busy_timeout_ms: int = BUSY_TIMEOUT_MS
) -> sqlite3.Connection:
    """A read-write connection in autocommit mode. Raises ``StoreUnavailable``."""
    connection = None
    try:
        path.touch(mode=0o600)
    except OSError as error:
        raise StoreUnavailable(
            f"The ledger {path} cannot be opened: {error.strerror}.",
            hint="Check that its folder exists and that this user may write to it.",
        ) from error
    try:
        connection = sqlite3.connect(
            path,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=512,
            timeout=busy_timeout_ms / 1000,
        )
        _use_wal(connection, busy_timeout_ms)
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'strict' else 'NORMAL'}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA cache_size = -16384")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        connection.execute("PRAGMA secure_delete = FAST")  # Debian's library would write every page that falls free
        connection.execute("PRAGMA journal_size_limit = 67108864")
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise store_error(path, error) from error
    return connection


def _use_wal(connection: sqlite3.Connection, busy_timeout_ms: int) -> None:
    """Write-ahead logging. SQLite does not wait here for a process that is switching the same new file: we do."""
    deadline = time.monotonic() + busy_timeout_ms / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() >= deadline:
                raise
        time.sleep(_WAL_PAUSE_S)


def connect_read(path: Path) -> sqlite3.Connection:
    """A read-only connection; works while a gateway writes. Raises ``StoreUnavailable``."""
    if not path.exists():
        raise StoreUnavailable(
            f"There is no ledger at {path} yet.",
            hint="It is made by the first `farthing serve`; check --home or FARTHING_HOME.",
        )
    connection = None
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_MS / 1000,
        )
        check_identity(path, connection)
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise store_error(path, error) from error
    except StoreUnavailable:
        if connection is not None:
            connection.close()
        raise
    return connection


def check_identity(path: Path, connection: sqlite3.Connection) -> int:
    """The schema version of the file. Raises ``StoreUnavailable`` for files that are not (our) books."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise StoreUnavailable(
            f"{path} is a SQLite file, but not a Farthing ledger.", hint="Point FARTHING_HOME to another folder."
        )
    newest = len(migrations())
    if version > newest:
        raise StoreUnavailable(
            f"The ledger {path} has schema version {version}; this Farthing knows {newest}.",
            hint="Upgrade Farthing; older releases cannot read newer books.",
        )
    return int(version)


def migrate(path: Path, connection: sqlite3.Connection) -> None:
    """Bring the file to the newest schema, one numbered script per transaction. Raises ``StoreUnavailable``."""
    scripts = migrations()
    try:
        while True:
            connection.execute("BEGIN IMMEDIATE")
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            version = check_identity(path, connection) if tables else 0
            if version == len(scripts):
                connection.execute("COMMIT")
                return
            for statement in statements(scripts[version]):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise store_error(path, error) from error
    except StoreUnavailable:
        connection.execute("ROLLBACK")
        raise


def migrations() -> tuple[str, ...]:
    """The numbered scripts, in order."""
    folder = files("farthing.adapters") / "sql" / "sqlite"
    scripts = sorted((item.name, item) for item in folder.iterdir() if item.name.endswith(".sql"))
    return tuple(item.read_text(encoding="utf-8") for _, item in scripts)


def statements(script: str) -> tuple[str, ...]:
    """The statements of a script, each complete; ``executescript`` would commit the open transaction."""
    found: list[str] = []
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending)
            pending = ""
    if pending.strip():
        found.append(pending)
    return tuple(found)
