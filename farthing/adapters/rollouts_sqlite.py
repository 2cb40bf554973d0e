"""Roll-outs of routes in the SQLite file of the books."""

from farthing.adapters.rollouts_sql import SqlRollouts
from farthing.adapters.sqlite_acts import SqliteActs


class SqliteRollouts(SqliteActs, SqlRollouts):
    """The port ``Rollouts`` over the file."""
