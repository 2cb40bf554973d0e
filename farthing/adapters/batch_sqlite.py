"""The shelf of batches in the SQLite file of the books."""

from farthing.adapters.batch_shelf import SqlBatches
from farthing.adapters.sqlite_acts import SqliteActs


class SqliteBatches(SqliteActs, SqlBatches):
    """``BatchShelf`` over the file."""
