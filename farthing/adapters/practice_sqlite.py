"""Marks, outcomes and the audit log in the SQLite file of the books."""

from farthing.adapters.practice_log import SqlPractice
from farthing.adapters.sqlite_acts import SqliteActs


class SqlitePractice(SqliteActs, SqlPractice):
    """What the practice of FinOps keeps, over the file."""
