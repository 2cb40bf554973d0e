"""The two scaled stores, put together: PostgreSQL alone, and Valkey in front of PostgreSQL."""

from pathlib import Path
from typing import Literal

from farthing.adapters.leases_books import LeasedBooks
from farthing.adapters.leases_threaded import ThreadedLeases
from farthing.adapters.postgres import PostgresLedger
from farthing.adapters.postgres_leases import PostgresLeases
from farthing.adapters.postgres_shelf import Shelf
from farthing.adapters.valkey_leases import ValkeyLeases


def postgres_books(
    home: Path,
    *,
    worker: str,
    url: str,
    namespace: str = "farthing",
    durability: Literal["strict", "relaxed"] = "strict",
    on_lost: Literal["ceiling", "release"] = "ceiling",
    allowance: int | None = None,
) -> LeasedBooks:
    """Holds and ledger in PostgreSQL."""
    return LeasedBooks(
        home,
        worker=worker,
        shelf=lambda name: Shelf(url, namespace, name, leases=True),
        leases=lambda name, shelf: ThreadedLeases(PostgresLeases(url, namespace, name)),
        reader=PostgresLedger(url, namespace, keep=True),
        durability=durability,
        on_lost=on_lost,
        allowance=allowance,
    )


def valkey_books(
    home: Path,
    *,
    worker: str,
    url: str,
    valkey_url: str,
    namespace: str = "farthing",
    durability: Literal["strict", "relaxed"] = "strict",
    on_lost: Literal["ceiling", "release"] = "ceiling",
    allowance: int | None = None,
) -> LeasedBooks:
    """Leases in Valkey, the ledger in PostgreSQL."""
    return LeasedBooks(
        home,
        worker=worker,
        shelf=lambda name: Shelf(url, namespace, name),
        leases=lambda name, shelf: ValkeyLeases(valkey_url, namespace, name, shelf),
        reader=PostgresLedger(url, namespace, keep=True),
        durability=durability,
        on_lost=on_lost,
        allowance=allowance,
    )
