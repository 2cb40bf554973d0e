"""What commands and pages open: ledger, keys, logs and copies of an installation."""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from farthing.adapters import analytics, focus_files, store_opening
from farthing.adapters.alert_sinks import open_alert_log, open_sinks
from farthing.adapters.audited_keys import AuditedKeys
from farthing.adapters.parquet import Exported
from farthing.adapters.provider_reports import ProviderReports
from farthing.adapters.shipping import Shipped, Shipper
from farthing.adapters.store_opening import ReadableLedger
from farthing.adapters.system import SystemClock
from farthing.bootstrap.home import made_home, me, open_practice
from farthing.bootstrap.pricing import price_book
from farthing.config import Settings
from farthing.core.errors import ConfigError
from farthing.insight import ownership
from farthing.ports.alerts import AlertLog, AlertSink
from farthing.ports.audit import Changed
from farthing.ports.batches import BatchShelf
from farthing.ports.books import Importer, Ledger


def open_ledger(settings: Settings) -> ReadableLedger:
    """The ledger for reading, while gateways may be writing; sums come from its roll-ups where it has them."""
    return store_opening.open_rolled_up(settings, os.environ)


def open_reports(settings: Settings, source: str = "") -> Ledger:
    """What reports read: the ledger, an export in Parquet, or ClickHouse."""
    ledger = store_opening.open_rolled_up(settings, os.environ)
    return analytics.open_reports(ledger, settings.analytics, Path(settings.home), os.environ, source)


def export_parquet(
    settings: Settings, folder: Path | None, *, since_ms: int, rebuild: bool = False
) -> tuple[Path, Exported]:
    """Brings the Parquet files up to date with the ledger; the folder and what was written."""
    home = Path(settings.home)
    folder = folder or analytics.parquet_folder(settings.analytics, home)
    ledger = store_opening.open_ledger(settings, os.environ)
    return folder, analytics.export_parquet(ledger, folder, home=home, since_ms=since_ms, rebuild=rebuild)


def open_shipper(settings: Settings) -> Shipper:
    """What sends the books to ClickHouse."""
    feed = store_opening.open_feed(settings, os.environ)
    return analytics.open_shipper(feed, settings.analytics, Path(settings.home), os.environ)


def open_spans(settings: Settings) -> Shipper:
    """What sends spans to an OpenTelemetry collector."""
    feed = store_opening.open_feed(settings, os.environ)
    return analytics.open_spans(feed, settings.analytics, Path(settings.home), os.environ)


def spans_state(settings: Settings) -> Shipped | None:
    """How far the collector has come; None when there is none."""
    return analytics.spans_shipped(Path(settings.home)) if settings.analytics.otlp_url else None


def clickhouse_state(settings: Settings) -> Shipped | None:
    """How far ClickHouse has come; None when there is none."""
    return analytics.shipped(Path(settings.home)) if settings.analytics.clickhouse_url else None


def open_balances(settings: Settings) -> ReadableLedger:
    """The counters of budgets as the file has them."""
    return open_ledger(settings)


def open_importer(settings: Settings) -> Importer:
    """For booking traces of elsewhere, all of a file or nothing."""
    made_home(settings)
    return store_opening.open_importer(settings, os.environ)


def open_alerts(settings: Settings) -> AlertLog:
    """The alerts that were raised."""
    made_home(settings)
    return open_alert_log(settings, os.environ)


def open_batches(settings: Settings) -> BatchShelf:
    """Batches that run or ran."""
    made_home(settings)
    return store_opening.open_batches(settings, os.environ)


def alert_sinks(settings: Settings) -> dict[str, AlertSink]:
    """The ways to people, by name. Raises ConfigError."""
    return open_sinks(settings.alerts.sinks, env=os.environ, clock=SystemClock())


def open_keys(settings: Settings) -> AuditedKeys:
    """The virtual keys; making and revoking them goes on the audit log."""
    practice = open_practice(settings)
    return AuditedKeys(store_opening.open_keys(settings, os.environ), practice, me())


def note_state(settings: Settings, *, at_ms: int, by: str = "", prices_ref: str = "") -> None:
    """Puts the policy, the price book and the allocation rules on the audit log where they are not as they were."""
    rules = ownership.rules_of(settings.allocation)
    now = (
        ("policy", settings.policy.ref, settings.source or "defaults"),
        ("prices", prices_ref or price_book(settings).ref, ""),
        ("allocation", ownership.ref(rules), rules.version),
    )
    with contextlib.closing(open_practice(settings)) as practice:
        for subject, after, detail in now:
            practice.note(Changed(at_ms=at_ms, subject=subject, after=after, by=by, detail=detail))


def check_store(settings: Settings) -> tuple[list[str], list[str]]:
    """(what is fine, what is wrong) with the store, each a line for people."""
    if settings.store.kind == "sqlite":
        return [], []
    store_opening.postgres_url(settings, os.environ)
    from farthing.adapters.store_check import store_checks  # an extra: not needed with SQLite

    return store_checks(settings, os.environ)


def store_status(settings: Settings) -> list[tuple[str, str]]:
    """How the store fares, in rows for people."""
    if settings.store.kind == "sqlite":
        return []
    store_opening.postgres_url(settings, os.environ)
    from farthing.adapters.store_check import store_rows  # an extra: not needed with SQLite

    return store_rows(settings, os.environ)


def provider_reports(settings: Settings) -> ProviderReports:
    """The providers' usage and cost reports."""
    return ProviderReports()


def write_focus(path: Path, columns: Sequence[tuple[str, str]], rows: Iterable[Mapping[str, object]]) -> None:
    """Rows of a FOCUS export as CSV, or as Parquet when the file's name ends so."""
    focus_files.write(path, columns, rows)


def admin_key(name: str) -> str:
    """The admin key in an environment variable. Raises ConfigError when there is none."""
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError([f"the environment variable {name} is not set or empty"], source="--admin-key-env")
    return key
