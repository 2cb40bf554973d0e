"""Where reports read from when it is not the ledger itself, and the worker that keeps ClickHouse up to date."""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from farthing.adapters.clickhouse import ClickHouseLedger, ClickHouseSink
from farthing.adapters.clickhouse_http import ClickHouseHttp
from farthing.adapters.duckdb_ledger import DuckDBLedger
from farthing.adapters.otel_sink import OtelSink
from farthing.adapters.parquet import Exported, ParquetExport, export_ledger
from farthing.adapters.parquet_rows import MANIFEST
from farthing.adapters.shipping import Shipped, Shipper, read_state
from farthing.adapters.sqlite_reader import SqliteLedger
from farthing.config import AnalyticsSettings
from farthing.core.errors import ConfigError, FarthingError
from farthing.ports.books import Ledger

PAUSE_S: Final = 1.0
"""Between two looks for what is new, once nothing is left."""
PAUSE_MAX_S: Final = 30.0
"""Between two tries while ClickHouse does not answer."""
STATE_FILE: Final = "clickhouse.json"
SPANS_FILE: Final = "otlp.json"
_LOG = logging.getLogger("farthing.analytics")


def open_reports(
    ledger: Ledger, settings: AnalyticsSettings, home: Path, env: Mapping[str, str], source: str
) -> Ledger:
    """What ``source`` names: ``ledger``, ``parquet`` (or ``duckdb``), ``parquet:DIR``, ``clickhouse``.

    Empty: as the settings say. Raises ``ConfigError`` for anything else, ``StoreUnavailable`` when it is not there.
    """
    kind, _, place = (source or settings.reports).partition(":")
    if not place and kind in ("ledger", "copy"):  # a copy is the ledger's own affair
        return ledger
    if kind in ("parquet", "duckdb"):
        return DuckDBLedger(place or parquet_folder(settings, home))
    if kind == "clickhouse" and not place:
        return ClickHouseLedger(open_clickhouse(settings, env))
    raise ConfigError(
        [f'"{source}" is nothing that reports can read; allowed: ledger, parquet, parquet:DIR, clickhouse'],
        source="--from",
    )


def parquet_folder(settings: AnalyticsSettings, home: Path) -> Path:
    """The folder of the export: the one of the settings, or one in the installation's own folder."""
    return Path(settings.parquet) if settings.parquet else home / "parquet"


def open_clickhouse(settings: AnalyticsSettings, env: Mapping[str, str]) -> ClickHouseHttp:
    """The server of the settings. Raises ``ConfigError`` when there is none or its password is not set."""
    if not settings.clickhouse_url:
        raise ConfigError(["analytics.clickhouse_url is not set; name the server, such as http://clickhouse:8123"])
    password = env.get(settings.clickhouse_password_env, "") if settings.clickhouse_password_env else ""
    if settings.clickhouse_password_env and not password:
        raise ConfigError(
            [f"the environment variable {settings.clickhouse_password_env} of clickhouse_password_env is not set"]
        )
    return ClickHouseHttp(
        settings.clickhouse_url,
        database=settings.clickhouse_database,
        user=settings.clickhouse_user,
        password=password,
    )


def open_shipper(ledger: Ledger, settings: AnalyticsSettings, home: Path, env: Mapping[str, str]) -> Shipper:
    """What sends this installation's books to ClickHouse; its place is kept in the installation's folder."""
    return Shipper(ledger, ClickHouseSink(open_clickhouse(settings, env)), home / STATE_FILE)


def open_spans(ledger: Ledger, settings: AnalyticsSettings, home: Path, env: Mapping[str, str]) -> Shipper:
    """What sends spans to the collector of the settings. Raises ``ConfigError`` when there is none."""
    if not settings.otlp_url:
        raise ConfigError(["analytics.otlp_url is not set; name the collector, such as http://collector:4318"])
    return Shipper(ledger, OtelSink(settings.otlp_url, _otlp_headers(settings, env)), home / SPANS_FILE)


def _otlp_headers(settings: AnalyticsSettings, env: Mapping[str, str]) -> dict[str, str]:
    """``name=value,name=value``, as OTEL_EXPORTER_OTLP_HEADERS has them."""
    if not settings.otlp_headers_env:
        return {}
    pairs = [pair.partition("=") for pair in env.get(settings.otlp_headers_env, "").split(",") if pair.strip()]
    if not pairs or not all(name.strip() and mark for name, mark, _ in pairs):
        where = settings.otlp_headers_env
        raise ConfigError([f"the environment variable {where} of otlp_headers_env is not name=value,name=value"])
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}


def shipped(home: Path) -> Shipped:
    """How far ClickHouse has come, as the installation's folder says."""
    return read_state(home / STATE_FILE)


def spans_shipped(home: Path) -> Shipped:
    """How far the collector has come, as the installation's folder says."""
    return read_state(home / SPANS_FILE)


def export_parquet(ledger: Ledger, folder: Path, *, home: Path, since_ms: int, rebuild: bool) -> Exported:
    """Brings the Parquet files in ``folder`` up to date with the ledger; ``rebuild``: from nothing."""
    if rebuild:
        for kind in ("entries", "exchanges"):
            shutil.rmtree(folder / kind, ignore_errors=True)
        (folder / MANIFEST).unlink(missing_ok=True)
    if isinstance(ledger, SqliteLedger):
        return ParquetExport(ledger.path, folder).run(since_ms=since_ms)
    return export_ledger(ledger, folder, scratch=home / "parquet-scratch.db", since_ms=since_ms)


class Shipping:
    """Runs a shipper in the background of a gateway's loop; an outage delays, and loses nothing."""

    def __init__(self, shipper: Shipper, now_ms: Callable[[], int], *, name: str) -> None:
        """``name``: of the server, in metrics."""
        self._shipper = shipper
        self._name = name
        self._now_ms = now_ms
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """The loop must be running."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Waits for the batch that is on its way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._shipper.close)

    def gauges(self) -> dict[str, float]:
        """For ``/metrics``: what was sent, and for how long the server takes nothing."""
        state = self._shipper.state
        since = state.failed_since_ms
        return {
            f"{self._name}_entries_sent": state.entries,
            f"{self._name}_exchanges_sent": state.exchanges,
            f"{self._name}_outage_seconds": 0 if since is None else max(0, self._now_ms() - since) / 1000,
        }

    async def _run(self) -> None:
        pause = PAUSE_S
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(self._shipper.step, now_ms=self._now_ms()))
            try:
                sent = await asyncio.shield(step)
                pause = PAUSE_S
                if sent:
                    continue
            except asyncio.CancelledError:
                with contextlib.suppress(FarthingError, OSError):
                    await step
                raise
            except (FarthingError, OSError) as error:
                if pause == PAUSE_S:
                    _LOG.warning("%s The ledger keeps what is new; it is sent later.", error)
                pause = min(PAUSE_MAX_S, pause * 2)
            await asyncio.sleep(pause)
