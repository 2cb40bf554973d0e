"""Anomalies and alerts: what is out of the ordinary, who was told, who takes care of it."""

from collections.abc import Mapping
from contextlib import closing

from farthing.core.alert_text import title
from farthing.core.alerts import alert_id, incident_key
from farthing.core.errors import BadRequest
from farthing.insight.incident_list import expected_days
from farthing.insight.moments import shown
from farthing.insight.reports import month
from farthing.insight.table import Column, Table
from farthing.ports.incidents import Mark
from farthing.server.pages.ask import OFFICE, Ask, View
from farthing.server.pages.blocks import Block, Field, Form, Link, Note, Page, RowAction, TableBlock
from farthing.server.pages.views.incidents import LEARNING_DAYS, found_in, incident_table

ALERTS = 100


def build(ask: Ask) -> Page:
    """Incidents first, then the alerts of budgets."""
    rows = {name: ask.ledger.totals(month.query((name,), ask.now_ms)) for name in ("feature", "model", "team")}
    found = found_in(ask, rows)
    rule = Link(text="The rule, and its back-test", href="/anomalies/rule")
    blocks: list[Block] = [incident_table(ask, found), (rule,), _alerts(ask), *_calendar(ask)]
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
    with closing(ask.sources.practice()) as practice:
        practice.acknowledge(Mark(incident=incident, by=ask.person.name, at_ms=ask.now_ms))
    with closing(ask.sources.alerts()) as log:  # whoever was to be told of it need not be any more
        log.acknowledge(alert_id(incident_key(incident)), by=ask.person.name, at_ms=ask.now_ms)
    return "/anomalies"


def expect(ask: Ask, said: Mapping[str, str]) -> str:
    """Days on which unusual cost is no news. Raises ``BadRequest``."""
    first = said.get("first", "").strip()
    last = said.get("last", "").strip() or first
    days = expected_days(
        first, last, said.get("slice", "").strip(), said.get("why", "").strip(), by=ask.person.name, at_ms=ask.now_ms
    )
    with closing(ask.sources.practice()) as practice:
        practice.expect(days)
    return "/anomalies"


def forget(ask: Ask, said: Mapping[str, str]) -> str:
    """Takes days out of the calendar again. Raises ``BadRequest``."""
    with closing(ask.sources.practice()) as practice:
        if not practice.forget_expected(said.get("id", "")):
            raise BadRequest("There is no such entry in the calendar.")
    return "/anomalies"


def acknowledge_alert(ask: Ask, said: Mapping[str, str]) -> str:
    """Somebody takes care of an alert. Raises ``BadRequest``."""
    wanted = said.get("id", "")
    with closing(ask.sources.alerts()) as log:
        if not log.acknowledge(wanted, by=ask.person.name, at_ms=ask.now_ms):
            raise BadRequest("There is no such alert.", hint="It may be older than alerts are kept.")
        told = next((one.alert for one in log.records(limit=ALERTS) if one.alert.id == wanted), None)
    if told is not None and told.incident:
        with closing(ask.sources.practice()) as practice:
            practice.acknowledge(Mark(incident=told.incident, by=ask.person.name, at_ms=ask.now_ms))
    return "/anomalies"


def _alerts(ask: Ask) -> TableBlock:
    with closing(ask.sources.alerts()) as log:
        records = log.records(limit=ALERTS)
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
        links={
            "what": tuple(f"/anomalies/{one.alert.incident}" if one.alert.incident else "" for one in records),
        },
        actions=(RowAction(label="Acknowledge", path="/alerts/acknowledge", ids=ids),),
        empty="No budget has crossed a line, and nothing spent too fast.",
        command="farthing alert test",
    )


def _calendar(ask: Ask) -> tuple[Block, ...]:
    """Days on which unusual cost is expected, and the form that adds some."""
    with closing(ask.sources.practice()) as practice:
        known = practice.expected()
    columns = tuple(Column(name=name, title=name) for name in ("first", "last", "slice", "why", "by", "id"))
    table = Table(
        title="Expected days",
        columns=columns,
        rows=tuple((one.first, one.last, one.slice or "all", one.why, one.by, one.id) for one in known),
    )
    block = TableBlock(
        id="expected",
        table=table,
        hide=("id",),
        actions=(RowAction(label="Remove", path="/anomalies/forget", ids=tuple(one.id for one in known)),),
        empty="Nothing unusual is expected: every large change is an anomaly.",
    )
    form = Form(
        id="expect",
        title="Expect something",
        method="post",
        action="/anomalies/expect",
        submit="Add to the calendar",
        folded=True,
        fields=(
            Field(name="first", label="First day", kind="date", required=True),
            Field(name="last", label="Last day", kind="date", hint="the first, if left out"),
            Field(name="slice", label="Only this slice", hint="a feature, model or team; empty: all"),
            Field(name="why", label="Why", required=True, hint="a launch, a batch job, a price change"),
        ),
    )
    return block, form


VIEW = View(name="anomalies", title="Anomalies & alerts", group="Control", build=build, roles=OFFICE)
