"""The alert log and the sinks that a configuration names, with their addresses and keys from the environment."""

from collections.abc import Mapping
from pathlib import Path

from farthing.adapters.alert_apprise import AppriseSink
from farthing.adapters.alert_log_lines import LogSink
from farthing.adapters.alert_sqlite import SqliteAlerts
from farthing.adapters.alert_webhook import WebhookSink
from farthing.adapters.store_opening import LEDGER_FILE, postgres_url
from farthing.config.settings import AlertSinkSettings, Settings
from farthing.core.errors import ConfigError
from farthing.ports.alerts import AlertLog, AlertSink
from farthing.ports.clock import Clock


def open_alert_log(settings: Settings, env: Mapping[str, str]) -> AlertLog:
    """The alerts of an installation, beside its ledger. Raises ``StoreUnavailable``, ``ConfigError``."""
    if settings.store.kind == "sqlite":
        return SqliteAlerts(Path(settings.home) / LEDGER_FILE)
    url = postgres_url(settings, env)
    from farthing.adapters.alert_postgres import PostgresAlerts  # an extra: not needed with SQLite

    return PostgresAlerts(url, settings.store.namespace)


def open_sinks(
    settings: tuple[AlertSinkSettings, ...], *, env: Mapping[str, str], clock: Clock
) -> dict[str, AlertSink]:
    """By name. Raises :class:`ConfigError` with every problem; none of them shows an address or a key."""
    problems: list[str] = []
    found: dict[str, AlertSink] = {}
    for one in settings:
        missing = [
            f"alert_sinks '{one.name}': the environment variable {name} ({key}) is not set or empty"
            for key, name in (("url_env", one.url_env), ("secret_env", one.secret_env))
            if name and not env.get(name, "").strip()
        ]
        problems += missing
        if not missing:
            try:
                found[one.name] = _sink(one, env, clock)
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(problems, source="alert_sinks")
    return found


def _sink(one: AlertSinkSettings, env: Mapping[str, str], clock: Clock) -> AlertSink:
    url = env.get(one.url_env, "").strip()
    match one.kind:
        case "log":
            return LogSink()
        case "apprise":
            return AppriseSink(one.name, url)
        case "webhook":
            if not url.startswith(("http://", "https://")):
                raise ConfigError([f"alert_sinks '{one.name}': the address in {one.url_env} is not http or https"])
            return WebhookSink(url, env[one.secret_env].strip(), clock)
