"""The alert log in PostgreSQL, for gateways on several hosts."""

from farthing.adapters.alert_log import SqlAlerts
from farthing.adapters.postgres_acts import PostgresActs


class PostgresAlerts(PostgresActs, SqlAlerts):
    """``AlertLog`` over the database of the books; a gateway starts without it."""

    lock_rows = " FOR UPDATE OF d SKIP LOCKED"
