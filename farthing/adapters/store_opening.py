"""Which store the books are in, by ``[store]``: opened for the gateway, for reading, for keys and for importing."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from farthing.adapters.batch_sqlite import SqliteBatches
from farthing.adapters.ledger_copy import FOLDER as COPY_FOLDER
from farthing.adapters.ledger_copy import CopiedLedger, Copier, copy_of
from farthing.adapters.practice_log import SqlPractice
from farthing.adapters.practice_sqlite import SqlitePractice
from farthing.adapters.rollouts_sql import SqlRollouts
from farthing.adapters.rollouts_sqlite import SqliteRollouts
from farthing.adapters.rollup_file import FILE as ROLLUPS
from farthing.adapters.rollup_running import Rolling, rolled_up, rolling
from farthing.adapters.sqlite import SqliteBooks, SqliteKeys, SqliteLedger
from farthing.adapters.sqlite_import import SqliteImporter
from farthing.adapters.sqlite_newest import SqliteNewest
from farthing.config import Settings
from farthing.core.errors import ConfigError
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery, Totals
from farthing.ports.batches import BatchShelf
from farthing.ports.books import Balance, Books, Importer, Keys, Ledger, Newest

LEDGER_FILE = "farthing.db"


class GatewayBooks(Books, Protocol):
    """What a gateway needs of its books beyond the port."""

    async def start(self) -> None: ...

    async def prune(self, before_ms: int) -> int: ...

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]: ...

    def entries(self, *, request_id: str = "", since_ms: int = 0, after: str = "") -> Iterator[LedgerEntry]: ...

    def exchanges(self, *, since_ms: int = 0, after: str = "") -> Iterator[Exchange]: ...


class ReadableLedger(Ledger, Protocol):
    """A ledger that also shows counters."""

    def balances(self, counters: Sequence[tuple[str, str]]) -> tuple[Balance, ...]: ...


def open_books(settings: Settings, *, worker: str, env: Mapping[str, str]) -> GatewayBooks:
    """The books of one worker process, not started yet. Raises ``ConfigError``."""
    store = settings.store
    url = postgres_url(settings, env) if store.kind != "sqlite" else ""
    home = Path(settings.home)
    if store.kind == "sqlite":
        return SqliteBooks(home / LEDGER_FILE, worker=worker, durability=settings.server.durability)
    from farthing.adapters.leases_open import postgres_books, valkey_books  # an extra: not needed with SQLite

    allowance = store.allowance if settings.policy.on_store_failure == "allow" else None
    if store.kind == "postgres":
        return postgres_books(
            home,
            worker=worker,
            url=url,
            namespace=store.namespace,
            durability=settings.server.durability,
            allowance=allowance,
        )
    return valkey_books(
        home,
        worker=worker,
        url=url,
        valkey_url=valkey_url(settings, env),
        namespace=store.namespace,
        durability=settings.server.durability,
        allowance=allowance,
    )


def books_gauges(books: GatewayBooks) -> dict[str, float]:
    """The store's own figures for ``/metrics``."""
    gauges: Callable[[], Mapping[str, float]] | None = getattr(books, "gauges", None)
    return {} if gauges is None else dict(gauges())


def open_ledger(settings: Settings, env: Mapping[str, str]) -> ReadableLedger:
    """The ledger for reading, while gateways may be writing."""
    if settings.store.kind == "sqlite":
        return SqliteLedger(Path(settings.home) / LEDGER_FILE)
    url = postgres_url(settings, env)
    from farthing.adapters.postgres import PostgresLedger  # an extra: not needed with SQLite

    return PostgresLedger(url, settings.store.namespace)


def open_rolled_up(settings: Settings, env: Mapping[str, str]) -> ReadableLedger:
    """The ledger for reports and pages: with its roll-ups or its copy, where it has any. The answers are the same."""
    ledger = open_ledger(settings, env)
    if is_copied(settings):
        return CopiedLedger(ledger, Path(settings.home) / COPY_FOLDER)
    return rolled_up(ledger) if settings.analytics.rollups and isinstance(ledger, SqliteLedger) else ledger


def open_rolling(
    settings: Settings, now_ms: Callable[[], int], wanted: Iterable[tuple[str, ...]] = ()
) -> Rolling | None:
    """What keeps the roll-ups up to date, not started yet; None where there are none.

    ``wanted``: dimensions that will be asked about together.
    """
    if not settings.analytics.rollups:
        return None
    if is_copied(settings):
        return rolling(copy_of(Path(settings.home) / COPY_FOLDER), now_ms, wanted)
    if settings.store.kind != "sqlite":
        return None
    return rolling(SqliteLedger(Path(settings.home) / LEDGER_FILE), now_ms, wanted)


def is_copied(settings: Settings) -> bool:
    """Reports read a copy of the ledger: of one in PostgreSQL only."""
    return settings.analytics.reports == "copy" and settings.store.kind != "sqlite"


def open_copier(settings: Settings, env: Mapping[str, str]) -> Copier | None:
    """What brings the copy up to date; None where there is none."""
    if not is_copied(settings):
        return None
    from farthing.adapters.postgres_feed import PostgresFeed  # an extra: not needed with SQLite

    feed = PostgresFeed(postgres_url(settings, env), settings.store.namespace)
    return Copier(feed, Path(settings.home) / COPY_FOLDER)


def open_newest(settings: Settings, env: Mapping[str, str]) -> Newest:
    """The newest records, page by page."""
    if settings.store.kind == "sqlite":
        home = Path(settings.home)
        return SqliteNewest(home / LEDGER_FILE, home / ROLLUPS if settings.analytics.rollups else None)
    from farthing.adapters.postgres_newest import PostgresNewest  # an extra: not needed with SQLite

    return PostgresNewest(postgres_url(settings, env), settings.store.namespace)


def open_feed(settings: Settings, env: Mapping[str, str]) -> Ledger:
    """The ledger for those who follow it record by record and remember where they are."""
    if settings.store.kind == "sqlite":
        return SqliteLedger(Path(settings.home) / LEDGER_FILE)
    url = postgres_url(settings, env)
    from farthing.adapters.postgres_feed import PostgresFeed  # an extra: not needed with SQLite

    return PostgresFeed(url, settings.store.namespace)


def open_keys(settings: Settings, env: Mapping[str, str]) -> Keys:
    """The virtual keys."""
    if settings.store.kind == "sqlite":
        return SqliteKeys(Path(settings.home) / LEDGER_FILE)
    url = postgres_url(settings, env)
    from farthing.adapters.postgres import PostgresKeys  # an extra: not needed with SQLite

    return PostgresKeys(url, settings.store.namespace)


def open_practice(settings: Settings, env: Mapping[str, str]) -> SqlPractice:
    """Marks on incidents, outcomes and the audit log."""
    if settings.store.kind == "sqlite":
        return SqlitePractice(Path(settings.home) / LEDGER_FILE)
    url = postgres_url(settings, env)
    from farthing.adapters.practice_postgres import PostgresPractice  # an extra: not needed with SQLite

    return PostgresPractice(url, settings.store.namespace)


def open_rollouts(settings: Settings, env: Mapping[str, str]) -> SqlRollouts:
    """Where the roll-outs of routes stand, beside the ledger."""
    if settings.store.kind == "sqlite":
        return SqliteRollouts(Path(settings.home) / LEDGER_FILE)
    url = postgres_url(settings, env)
    from farthing.adapters.rollouts_postgres import PostgresRollouts  # an extra: not needed with SQLite

    return PostgresRollouts(url, settings.store.namespace)


def open_batches(settings: Settings, env: Mapping[str, str]) -> BatchShelf:
    """Batches while they run, and calls that wait for one."""
    if settings.store.kind == "sqlite":
        return SqliteBatches(Path(settings.home) / LEDGER_FILE)
    url = postgres_url(settings, env)
    from farthing.adapters.batch_postgres import PostgresBatches  # an extra: not needed with SQLite

    return PostgresBatches(url, settings.store.namespace)


def open_importer(settings: Settings, env: Mapping[str, str]) -> Importer:
    """For booking traces of elsewhere."""
    if settings.store.kind == "sqlite":
        return SqliteImporter(Path(settings.home) / LEDGER_FILE)
    url = postgres_url(settings, env)
    from farthing.adapters.postgres import PostgresImporter  # an extra: not needed with SQLite

    return PostgresImporter(url, settings.store.namespace)


def postgres_url(settings: Settings, env: Mapping[str, str]) -> str:
    """Where the ledger is. Raises ``ConfigError``; also where the ``scale`` extra is not installed."""
    if find_spec("psycopg") is None or find_spec("valkey") is None:
        raise ConfigError([f'store.kind: "{settings.store.kind}" needs an extra: pip install "farthing[scale]"'])
    return _from(env, settings.store.postgres_url_env, "store.postgres_url_env")


def valkey_url(settings: Settings, env: Mapping[str, str]) -> str:
    """Where the leases are. Raises ``ConfigError``."""
    return _from(env, settings.store.valkey_url_env, "store.valkey_url_env")


def _from(env: Mapping[str, str], name: str, setting: str) -> str:
    url = env.get(name, "").strip()
    if not url:
        raise ConfigError([f"{setting}: the environment variable {name} is not set or empty; put the URL into it"])
    return url
