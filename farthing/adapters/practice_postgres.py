"""Marks, outcomes and the audit log in PostgreSQL, for gateways on several hosts."""

from farthing.adapters.postgres_acts import PostgresActs
from farthing.adapters.practice_log import SqlPractice


class PostgresPractice(PostgresActs, SqlPractice):
    """What the practice of FinOps keeps, over the database of the books."""
