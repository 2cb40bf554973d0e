"""``farthing sql``: questions to the ledger in SQL. The file is opened read-only and only reading is authorised."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import click

from farthing.cli.context import App, Broken, Failed, format_option, pass_app, show
from farthing.core.errors import StoreUnavailable
from farthing.insight.render import Format
from farthing.insight.table import Column, Kind, Row, Table, Value

VIEWS: Final = (
    ("ledger", "one row per entry: who, what, tokens, cost; amount_usd is exact text, sum amount_nusd"),
    ("ledger_lines", "one row per charge line: unit, quantity, price_pusd (per unit), amount_nusd"),
    ("requests", "one row per request, refused ones included: outcome, status, latency"),
    ("reservations_open", "calls in flight and what they hold"),
    ("counters_now", "budget counters: posted and held, in each counter's unit"),
)
"""The documented views; the tables under them may change with any release."""

_READING: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)
_REFUSED: Final = ("not authorized", "prohibited", "authorization denied", "readonly")
"""What SQLite's messages say when the authoriser refuses; its error codes differ by the kind of statement."""

_HIDDEN_TABLES: Final = frozenset({"keys"})


@click.command()
@click.argument("statement", required=False)
@click.option("--views", is_flag=True, help="List the views and their columns.")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Rows to print at most.")
@format_option()
@pass_app
def sql(app: App, statement: str | None, views: bool, limit: int, form: Format) -> None:
    """Ask the ledger in SQL, read-only; "-" reads the statement from standard input."""
    path = app.stores.ledger_path(app.settings)
    if not views and not statement:
        raise click.UsageError('Give a statement, such as "SELECT model, sum(amount_nusd) FROM ledger GROUP BY 1".')
    with closing(_open(path)) as connection:
        if views:
            show(_views(connection), form)
            return
        text = sys.stdin.read() if statement == "-" else str(statement)
        show(_ask(connection, text, limit), form)


def _open(path: Path) -> sqlite3.Connection:
    if not path.exists():
        raise StoreUnavailable(f"There is no ledger at {path} yet.", hint="It is made by the first booking.")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise StoreUnavailable(f"The ledger {path} cannot be opened: {error}.") from error
    connection.set_authorizer(_authorize)
    return connection


def _authorize(action: int, first: str | None, second: str | None, database: str | None, inner: str | None) -> int:
    """Reading only, and never the hashes of keys."""
    if action not in _READING or (action == sqlite3.SQLITE_READ and first in _HIDDEN_TABLES):
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and second == "load_extension":
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def _ask(connection: sqlite3.Connection, statement: str, limit: int) -> Table:
    try:
        cursor = connection.execute(statement)
        names = [part[0] for part in cursor.description or ()]
        rows = cursor.fetchmany(limit + 1)
    except sqlite3.DatabaseError as error:
        if any(word in str(error) for word in _REFUSED):
            raise Failed(
                "Only reading is allowed here: SELECT on the views that --views lists. The ledger is append-only; "
                "corrections are entries of their own."
            ) from error
        raise Broken(f'SQL: {error}. "farthing sql --views" lists views and columns.') from error
    except (sqlite3.Warning, sqlite3.ProgrammingError, OverflowError, ValueError) as error:
        raise Broken(f"SQL: {error}.") from error
    if not names:
        raise Failed("Nothing to read: the statement is empty.")
    notes = () if len(rows) <= limit else (f"Only the first {limit:,} rows are printed; --limit prints more.",)
    values = [tuple(_value(value) for value in row) for row in rows[:limit]]
    columns = tuple(
        Column(name=name, title=name, kind=_kind([row[place] for row in values]), unknown="NULL")
        for place, name in enumerate(names)
    )
    return Table(title="SQL", columns=columns, rows=tuple(values), notes=notes)


def _value(value: object) -> Value:
    if value is None or isinstance(value, int | str):
        return value
    return value.hex() if isinstance(value, bytes) else repr(value)


def _kind(values: list[Value]) -> Kind:
    numbers = [value for value in values if value is not None]
    return "int" if numbers and all(isinstance(value, int) for value in numbers) else "text"


def _views(connection: sqlite3.Connection) -> Table:
    rows: list[Row] = []
    for name, _ in VIEWS:
        cursor = connection.execute(f"SELECT * FROM {name} LIMIT 0")
        rows += [(name, part[0]) for part in cursor.description]
    columns = tuple(Column(name=name, title=name) for name in ("view", "column"))
    return Table(
        title="Views", columns=columns, rows=tuple(rows), notes=tuple(f"{name}: {what}" for name, what in VIEWS)
    )
