"""Incidents as alerts: one for each that goes on and that nobody was told of, with what opening it would show."""

from collections.abc import Callable, Sequence
from typing import Final

from farthing.core.alerts import Alert, Severity, alert_id, incident_key
from farthing.core.types import Totals
from farthing.insight import incident_list
from farthing.insight.anomalies import AHEAD_DAYS, Incident
from farthing.insight.incident_details import example_requests, grew_most
from farthing.insight.incident_list import DIMENSIONS, Judged, is_part
from farthing.ports.books import Ledger

CRITICAL_TIMES: Final = 1
"""Above this many times its expectation on top of it, an incident is critical: ×2 and more."""


def new_alerts(
    totals: Ledger, ledger: Ledger, judged: Callable[[], Judged], told: Sequence[Alert], *, now_ms: int
) -> tuple[Alert, ...]:
    """What people do not know yet. ``totals`` may remember answers about closed days; ``ledger`` has the entries.

    An incident is told once, under the first slice that shows it: when the same money shows under another dimension
    later, that is no news. What is over, acknowledged or a fall is on the page and pages nobody.
    """
    by = judged()
    rows: dict[str, tuple[Totals, ...]] = {
        dimension: totals.totals(incident_list.query(dimension, now_ms)) for dimension in DIMENSIONS
    }
    known = {one.incident for one in told}
    found = incident_list.read(rows, by, now_ms=now_ms)
    fresh = [
        one
        for one in found.waiting
        if one.open and one.so_far_nusd > 0 and one.id not in known and not any(_told(one, other) for other in told)
    ]
    return tuple(alert_of(one, ledger, by.rule.season, now_ms) for one in fresh)


def alert_of(one: Incident, ledger: Ledger, season: int, now_ms: int) -> Alert:
    """The alert of an incident: dollars so far, projection, what grew most, example requests."""
    key = incident_key(one.id)
    return Alert(
        id=alert_id(key),
        key=key,
        kind="incident",
        severity=_severity(one),
        counter=slice_name(one),
        window=one.said,
        unit="usd",
        used=one.so_far_nusd,
        at_ms=now_ms,
        projected=one.projected_nusd if one.open else None,
        projected_days=AHEAD_DAYS,
        incident=one.id,
        slice=one.slice,
        anomaly=one.kind,
        began_ms=one.began_ms,
        expected=one.expected_nusd,
        grew=grew_most(ledger, one, season),
        examples=example_requests(ledger, one),
    )


def slice_name(one: Incident) -> str:
    """``feature=agent``; the name by which it can be muted."""
    return ",".join(f"{name}={value or '(none)'}" for name, value in one.slice) or "everything"


def _severity(one: Incident) -> Severity:
    return "critical" if one.so_far_nusd > CRITICAL_TIMES * one.expected_nusd else "warning"


def _told(one: Incident, alert: Alert) -> bool:
    """People were told of this money under a slice of another dimension, while it went on."""
    if alert.began_ms is None or alert.began_ms >= one.until_ms or one.began_ms > alert.at_ms:
        return False
    return is_part(one, alert.slice, alert.used)
