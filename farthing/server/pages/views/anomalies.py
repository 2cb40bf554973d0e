"""Anomalies and alerts: what is out of the ordinary, who was told, who takes care of it."""

from collections.abc import Mapping

from farthing.core.alert_text import title
from farthing.core.errors import BadRequest
from farthing.insight.moments import shown
from farthing.insight.reports import month
from farthing.insight.table import Column, Table
from farthing.ports.incidents import Mark
from farthing.server.pages.ask import OFFICE, Ask, View
from farthing.server.pages.blocks import Block, Note, Page, RowAction, TableBlock
from farthing.server.pages.views.incidents import LEARNING_DAYS, Found, incident_table

ALERTS = 100


def build(ask: Ask) -> Page:
    """Incidents first, then the alerts of budgets."""
    rows = {name: ask.ledger.totals(month.query((name,), ask.now_ms)) for name in ("feature", "model", "team")}
    found = Found.of(ask, rows)
    blocks: list[Block] = [incident_table(ask, found), _alerts(ask)]
    if found.days_known < LEARNING_DAYS:
        learning = Note(
            title="Still learning",
            text=f"{found.days_known} of {LEARNING_DAYS} days are known. A day is judged by the same weekdays before "
            "it; until then only budgets and the velocity guard raise alerts.",
            command="farthing budget set team-day --per day --limit usd=20 --each team",
        )
        blocks.insert(0, learning)
    lead = "Cost that is out of the ordinary for its own past, and the alerts of budgets. Last 30 days."
    return Page(title="Anomalies & alerts", lead=lead, blocks=tuple(blocks))


def acknowledge(ask: Ask, said: Mapping[str, str]) -> str:
    """Somebody takes care of an incident. Raises ``BadRequest``."""
    incident = said.get("id", "")
    if not incident.startswith("an-") or len(incident) > 64:
        raise BadRequest("This is no incident.", hint="Use the button beside one.")
    practice = ask.sources.practice()
    try:
        practice.acknowledge(Mark(incident=incident, by=ask.person.name, at_ms=ask.now_ms))
    finally:
        practice.close()
    return "/anomalies"


def acknowledge_alert(ask: Ask, said: Mapping[str, str]) -> str:
    """Somebody takes care of an alert. Raises ``BadRequest``."""
    log = ask.sources.alerts()
    try:
        if not log.acknowledge(said.get("id", ""), by=ask.person.name, at_ms=ask.now_ms):
            raise BadRequest("There is no such alert.", hint="It may be older than alerts are kept.")
    finally:
        log.close()
    return "/anomalies"


def _alerts(ask: Ask) -> TableBlock:
    log = ask.sources.alerts()
    try:
        records = log.records(limit=ALERTS)
    finally:
        log.close()
    table = Table(
        title="Alerts",
        columns=(
            Column(name="at", title="at (UTC)"),
            Column(name="severity", title="severity"),
            Column(name="what", title="what"),
            Column(name="told", title="told", unknown="nobody"),
            Column(name="acknowledged", title="acknowledged", unknown="no"),
            Column(name="id", title="id"),
        ),
        rows=tuple(
            (
                shown(one.alert.at_ms),
                one.alert.severity,
                title(one.alert),
                ", ".join(f"{sink}: {state}" for sink, state in one.deliveries) or None,
                None if one.acknowledged_at_ms is None else f"{one.acknowledged_by} {shown(one.acknowledged_at_ms)}",
                one.alert.id,
            )
            for one in records
        ),
    )
    ids = tuple(one.alert.id if one.acknowledged_at_ms is None else "" for one in records)
    return TableBlock(
        id="alerts",
        table=table,
        hide=("id",),
        actions=(RowAction(label="Acknowledge", path="/alerts/acknowledge", ids=ids),),
        empty="No budget has crossed a line, and nothing spent too fast.",
        command="farthing alert test",
    )


VIEW = View(name="anomalies", title="Anomalies & alerts", group="Control", build=build, roles=OFFICE)
