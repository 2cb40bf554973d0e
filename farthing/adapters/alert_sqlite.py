"""The alert log in the SQLite file of the books."""

from farthing.adapters.alert_log import SqlAlerts
from farthing.adapters.sqlite_acts import SqliteActs


class SqliteAlerts(SqliteActs, SqlAlerts):
    """``AlertLog`` over the file."""
