"""Alerts through ``apprise``: Slack, Teams, e-mail, PagerDuty, SNS and many others, by one address each."""

import importlib
import logging
import warnings
from typing import Final, Protocol, cast

from farthing.core.alert_text import text, title
from farthing.core.alerts import Alert, Severity
from farthing.core.errors import ConfigError
from farthing.ports.alerts import SinkFailed

_TYPES: Final[dict[Severity, str]] = {"info": "info", "warning": "warning", "critical": "failure"}


class _Apprise(Protocol):
    def add(self, servers: str) -> bool: ...

    async def async_notify(self, *, body: str, title: str, notify_type: str, body_format: str) -> bool | None: ...


class AppriseSink:
    """``AlertSink``. Raises :class:`ConfigError` when apprise is not installed or knows no such service."""

    def __init__(self, name: str, url: str) -> None:
        """``url`` may hold secrets: it is in no message, and apprise's own log stays silent."""
        logger = logging.getLogger("apprise")
        logger.propagate = False
        logger.addHandler(logging.NullHandler())
        try:
            with warnings.catch_warnings():  # its plugins use modules that Python has begun to retire
                warnings.simplefilter("ignore", DeprecationWarning)
                module = importlib.import_module("apprise")
                self._apprise = cast(_Apprise, module.Apprise())
                known = self._apprise.add(url)
        except ModuleNotFoundError:
            raise ConfigError(
                [f"alert_sinks '{name}': kind apprise needs a package; pip install 'farthing[alerts]'"]
            ) from None
        if not known:
            raise ConfigError(
                [f"alert_sinks '{name}': the address in its variable is of no service that apprise knows"]
            )

    async def send(self, alert: Alert) -> None:
        arrived = await self._apprise.async_notify(
            title=f"[{alert.severity}] {title(alert)}",
            body=text(alert),
            notify_type=_TYPES[alert.severity],
            body_format="text",
        )
        if not arrived:
            raise SinkFailed("the service did not take it")

    async def close(self) -> None:
        return
