"""Is the store fit for use, and how does it fare: for ``farthing check`` and ``farthing status``. Blocking."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, cast

from valkey.exceptions import ValkeyError

from farthing.adapters.journal import bytes_waiting, count, read_entries, workers_of
from farthing.adapters.postgres import PostgresLedger
from farthing.adapters.postgres_schema import connect, expand, migrations
from farthing.adapters.store_opening import postgres_url, valkey_url
from farthing.adapters.valkey_leases import clock_skew_ms, valkey_error
from farthing.adapters.valkey_leases import connect as connect_valkey
from farthing.config import Settings
from farthing.core.errors import StoreUnavailable

POSTGRES_MIN: Final = 130_000
VALKEY_MIN: Final = (7, 0)
SKEW_MS_MAX: Final = 2_000
COUNTED_BYTES_MAX: Final = 256 * 1024 * 1024


def store_checks(settings: Settings, env: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """(what is fine, what is wrong), each a line for people; nothing for SQLite. Raises ``ConfigError``."""
    fine: list[str] = []
    wrong: list[str] = []
    if settings.store.kind == "sqlite":
        return fine, wrong
    for check in (_postgres, _valkey) if settings.store.kind == "valkey" else (_postgres,):
        try:
            check(settings, env, fine, wrong)
        except StoreUnavailable as error:
            wrong.append(str(error))
    return fine, wrong


def store_rows(settings: Settings, env: Mapping[str, str]) -> list[tuple[str, str]]:
    """How the store fares, for ``farthing status``: the journals of this host, and the ledger behind them."""
    if settings.store.kind == "sqlite":
        return []
    folder = Path(settings.home) / "workers"
    waiting = bytes_waiting(folder) if folder.exists() else 0
    if waiting <= COUNTED_BYTES_MAX:
        kept = sum(count(read_entries(folder, worker)) for worker in workers_of(folder)) if folder.exists() else 0
        journal = f"{kept} entries in open segments, {waiting:,} bytes"
    else:
        journal = f"{waiting:,} bytes"
    rows = [("store", settings.store.kind), ("journal here", journal)]
    ledger = PostgresLedger(postgres_url(settings, env), settings.store.namespace)
    try:
        facts = ledger.facts()
        rows.append(("workers", f"{facts['workers']} live, {facts['workers_lost']} lost"))
        rows.append(("entries set aside", facts["conflicts"]))
    except StoreUnavailable as error:
        rows.append(("ledger", error.message))
    finally:
        ledger.close()
    return rows


def _postgres(settings: Settings, env: Mapping[str, str], fine: list[str], wrong: list[str]) -> None:
    connection = connect(postgres_url(settings, env), settings.store.namespace)
    try:
        version = connection.info.server_version
        if version < POSTGRES_MIN:
            wrong.append(f"PostgreSQL is version {version // 10_000}; 13 or newer is needed")
            return
        expand(connection, settings.store.namespace)
        row = connection.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint").fetchone()
        assert row is not None
        skew_ms = int(str(row[0])) - time.time_ns() // 1_000_000
        _skew("PostgreSQL", skew_ms, wrong)
        fine.append(f"PostgreSQL {version // 10_000}, schema {len(migrations())}, clock {skew_ms:+d} ms")
    finally:
        connection.close()


def _valkey(settings: Settings, env: Mapping[str, str], fine: list[str], wrong: list[str]) -> None:
    client = connect_valkey(valkey_url(settings, env))
    try:
        info = cast(dict[str, object], client.info())
        version = str(info.get("valkey_version") or info["redis_version"])
        if tuple(int(part) for part in version.split(".")[:2]) < VALKEY_MIN:
            wrong.append(f"Valkey is version {version}; 7.0 or newer is needed")
        if client.eval("return redis.call('TIME')[1]", 0) is None:
            wrong.append("Valkey runs no scripts")
        policy = str(info.get("maxmemory_policy", "noeviction"))
        if policy != "noeviction":
            wrong.append(f"Valkey may evict counters (maxmemory-policy {policy}); set it to noeviction")
        skew_ms = clock_skew_ms(client)
        _skew("Valkey", skew_ms, wrong)
        fine.append(f"Valkey {version}, scripts run, {policy}, clock {skew_ms:+d} ms")
    except (ValkeyError, OSError) as error:
        raise valkey_error(error) from error
    finally:
        client.close()  # type: ignore[no-untyped-call]


def _skew(name: str, skew_ms: int, wrong: list[str]) -> None:
    if abs(skew_ms) > SKEW_MS_MAX:
        wrong.append(f"{name}'s clock is {skew_ms:+d} ms off ours; windows of budgets would differ: run NTP")
