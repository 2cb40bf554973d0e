"""Roll-outs of routes in PostgreSQL, for gateways on several hosts."""

from farthing.adapters.practice_postgres import PostgresPractice
from farthing.adapters.rollouts_sql import SqlRollouts


class PostgresRollouts(PostgresPractice, SqlRollouts):
    """The port ``Rollouts`` over the database of the books."""
