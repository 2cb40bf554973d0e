"""The shelf of batches in PostgreSQL, for gateways on several hosts."""

from farthing.adapters.batch_shelf import SqlBatches
from farthing.adapters.postgres_acts import PostgresActs


class PostgresBatches(PostgresActs, SqlBatches):
    """``BatchShelf`` over the database of the books."""
