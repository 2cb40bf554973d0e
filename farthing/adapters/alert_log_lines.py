"""Alerts as lines of the gateway's own log, for installations whose logs are collected anyway."""

import logging
from typing import Final

from farthing.core.alert_text import text, title
from farthing.core.alerts import Alert, Severity

_LOG = logging.getLogger("farthing.alert")
_LEVELS: Final[dict[Severity, int]] = {
    "info": logging.WARNING,  # below that, a gateway's log keeps nothing
    "warning": logging.WARNING,
    "critical": logging.CRITICAL,
}


class LogSink:
    """``AlertSink``: one line an alert."""

    async def send(self, alert: Alert) -> None:
        _LOG.log(_LEVELS[alert.severity], "%s | %s", title(alert), text(alert).replace("\n", " | "))

    async def close(self) -> None:
        return
