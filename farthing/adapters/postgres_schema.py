"""Connecting to PostgreSQL and bringing its schema up to date while older releases still run.

A migration is one or two numbered scripts. ``NNNN_name.pre.sql`` only adds, so that the release before keeps working
on it; it runs when a newer worker starts. ``NNNN_name.post.sql`` takes away; it runs when no living worker is older.
"""

import re
from importlib.resources import files
from typing import Final, NamedTuple

import psycopg
from psycopg import sql
from psycopg.adapt import Dumper

from farthing.core.errors import StoreUnavailable

Connection = psycopg.Connection[tuple[object, ...]]

CONNECT_TIMEOUT_S: Final = 3
STATEMENT_TIMEOUT_MS: Final = 15_000
MIGRATION_LOCK: Final = 0x46544847
"""Advisory lock: workers that start at once on a new database wait for the one that makes the schema."""

_FIXES: Final = (
    (psycopg.errors.InvalidPassword, "Check user and password in the URL."),
    (psycopg.errors.InvalidCatalogName, "Create the database named in the URL."),
    (psycopg.errors.InsufficientPrivilege, "Grant this user CREATE on the database, or make the schema beforehand."),
    (psycopg.errors.DiskFull, "Free space on the database's disk; Farthing goes on by itself."),
    (psycopg.errors.ReadOnlySqlTransaction, "This server is a read-only standby; name the primary in the URL."),
)


class Migration(NamedTuple):
    """One step of the schema."""

    number: int
    pre: str
    post: str


def store_error(error: Exception) -> StoreUnavailable:
    """The error to raise for a failure of the database; never shows the URL."""
    fix = next((fix for kind, fix in _FIXES if isinstance(error, kind)), "Check that it runs and can be reached.")
    text = " ".join(str(error).split())
    return StoreUnavailable(f"The PostgreSQL ledger cannot be used: {text}", hint=fix)


class JsonText:
    """JSON that is encoded already, as a parameter: it is sent as it is."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class _JsonTextDumper(Dumper):
    oid = psycopg.postgres.types["json"].oid

    def dump(self, obj: JsonText) -> bytes:
        return obj.data


def connect(url: str, namespace: str) -> Connection:
    """A connection in autocommit mode whose tables are those of ``namespace``. Raises ``StoreUnavailable``."""
    try:
        connection = psycopg.connect(
            url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, application_name="farthing"
        )
        connection.adapters.register_dumper(JsonText, _JsonTextDumper)
        path = sql.SQL("SET search_path TO {}").format(sql.Identifier(namespace))
        connection.execute(path)
        connection.execute(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}")
        connection.execute("SET timezone TO 'UTC'")
    except psycopg.Error as error:
        raise store_error(error) from error
    return connection


def migrations() -> tuple[Migration, ...]:
    """The numbered scripts, in order."""
    folder = files("farthing.adapters") / "sql" / "postgres"
    found: dict[int, dict[str, str]] = {}
    for item in folder.iterdir():
        match = re.fullmatch(r"(\d{4})_\w+\.(pre|post)\.sql", item.name)
        if match:
            found.setdefault(int(match[1]), {})[match[2]] = item.read_text(encoding="utf-8")
    return tuple(
        Migration(number, found[number].get("pre", ""), found[number].get("post", "")) for number in sorted(found)
    )


def expand(connection: Connection, namespace: str, steps: tuple[Migration, ...] | None = None) -> None:
    """Run all ``pre`` scripts that are missing. Raises ``StoreUnavailable`` when the database is too new for us."""
    steps = migrations() if steps is None else steps
    try:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(namespace)))
            connection.execute(
                "CREATE TABLE IF NOT EXISTS farthing_schema (only_row boolean PRIMARY KEY DEFAULT true,"
                " expanded bigint NOT NULL, contracted bigint NOT NULL)"
            )
            connection.execute("INSERT INTO farthing_schema VALUES (true, 0, 0) ON CONFLICT DO NOTHING")
            expanded, contracted = _versions(connection)
            if contracted > len(steps):
                raise StoreUnavailable(
                    f"The ledger's schema {contracted} has left release {len(steps)} behind.",
                    hint="Upgrade Farthing; this release can no longer work on these books.",
                )
            for step in steps[expanded:]:
                connection.execute(step.pre.encode())
                connection.execute("UPDATE farthing_schema SET expanded = %s", (step.number,))
    except psycopg.Error as error:
        raise store_error(error) from error


def contract(connection: Connection, steps: tuple[Migration, ...] | None = None) -> int:
    """Run the ``post`` scripts that no living worker stands in the way of; the version contracted to."""
    steps = migrations() if steps is None else steps
    try:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
            expanded, contracted = _versions(connection)
            row = connection.execute("SELECT min(release) FROM workers WHERE NOT lost").fetchone()
            oldest = len(steps) if row is None or row[0] is None else int(str(row[0]))
            for step in steps[contracted : min(oldest, expanded)]:
                if step.post:
                    connection.execute(step.post.encode())
                connection.execute("UPDATE farthing_schema SET contracted = %s", (step.number,))
                contracted = step.number
            return contracted
    except psycopg.Error as error:
        raise store_error(error) from error


def _versions(connection: Connection) -> tuple[int, int]:
    row = connection.execute("SELECT expanded, contracted FROM farthing_schema").fetchone()
    assert row is not None
    return int(str(row[0])), int(str(row[1]))
