"""``farthing alert``: what was raised, who was told, and whether the ways to people work."""

import asyncio
import getpass

import click

from farthing.cli.context import App, Failed, closed, format_option, pass_app, show
from farthing.config.values import Wrong, duration_ms
from farthing.core.alert_text import title
from farthing.core.alerts import Alert, alert_id
from farthing.engine.alerting import is_wanted
from farthing.insight.moments import shown
from farthing.insight.render import Format
from farthing.insight.table import Column, Row, Table
from farthing.ports.alerts import AlertSink, SinkFailed

_COLUMNS = (
    Column(name="at", title="at (UTC)"),
    Column(name="severity", title="severity"),
    Column(name="kind", title="kind"),
    Column(name="what", title="what"),
    Column(name="top", title="top key, feature, model", unknown=""),
    Column(name="told", title="told", unknown="nobody"),
    Column(name="acknowledged", title="acknowledged", unknown="no"),
    Column(name="id", title="id"),
)


@click.group()
def alert() -> None:
    """Alerts: list, test, acknowledge, mute."""


@alert.command()
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@click.option("--open", "open_only", is_flag=True, help="Only those that nobody has acknowledged.")
@format_option()
@pass_app
def ls(app: App, limit: int, open_only: bool, form: Format) -> None:
    """The alerts that were raised, newest first."""
    with closed(app.stores.open_alerts(app.settings)) as log:
        records = log.records(limit=limit, open_only=open_only)
        mutes = log.mutes(now_ms=app.now_ms())
    rows: list[Row] = []
    for one in records:
        top = one.alert.top[0] if one.alert.top else None
        rows.append(
            (
                shown(one.alert.at_ms),
                one.alert.severity,
                one.alert.kind,
                title(one.alert),
                f"{top.key or '-'}, {top.feature or '-'}, {top.model or '-'}" if top else None,
                ", ".join(f"{sink}: {state}" for sink, state in one.deliveries) or None,
                None if one.acknowledged_at_ms is None else f"{one.acknowledged_by} {shown(one.acknowledged_at_ms)}",
                one.alert.id,
            )
        )
    notes = tuple(f"Muted until {shown(until)} UTC: {name}" for name, until in mutes)
    if not is_wanted(app.settings.alerts, app.settings.policy):
        notes += ("Nothing is watched: there are no [[alert_sinks]], no thresholds of budgets, no velocity limit.",)
    show(Table(title="Alerts", columns=_COLUMNS, rows=tuple(rows), notes=notes), form)


@alert.command()
@click.option("--sink", "name", help="Only this sink.")
@pass_app
def test(app: App, name: str | None) -> None:
    """Send a test alert through every sink and say what came of it."""
    sinks = app.stores.alert_sinks(app.settings)
    chosen = {one: sink for one, sink in sinks.items() if name in (None, one)}
    if not chosen:
        known = ", ".join(sinks) or "none; add [[alert_sinks]] to farthing.toml"
        raise Failed(f"There is no sink to test. Configured: {known}.")
    now_ms = app.now_ms()
    key = f"test|{now_ms}"
    message = Alert(id=alert_id(key), key=key, kind="test", severity="info", at_ms=now_ms)
    outcomes = asyncio.run(_send(chosen, message))
    for one, why in outcomes.items():
        click.echo(f"{one}: {why or 'delivered'}")
    if any(outcomes.values()):
        raise Failed("A test alert was not delivered.")


@alert.command()
@click.argument("alert_id")
@click.option("--by", default="", help="Who takes care of it; you, by default.")
@pass_app
def ack(app: App, alert_id: str, by: str) -> None:
    """Acknowledge an alert: what has not been delivered of it is dropped."""
    with closed(app.stores.open_alerts(app.settings)) as log:
        found = log.acknowledge(alert_id, by=by or getpass.getuser(), at_ms=app.now_ms())
    if not found:
        raise Failed(f"There is no alert {alert_id}; 'farthing alert ls' lists them.")
    click.echo(f"{alert_id} is acknowledged.")


@alert.command()
@click.argument("name")
@click.option("--for", "span", default="1h", show_default=True, metavar="DURATION", help="How long: 30m, 2h, 1d; 0.")
@pass_app
def mute(app: App, name: str, span: str) -> None:
    """Record the alerts of a budget or counter without telling anybody for a while; --for 0 ends that."""
    now_ms = app.now_ms()
    try:
        lasts_ms = 0 if span == "0" else int(str(duration_ms(span)))
    except Wrong as wrong:
        raise click.BadParameter(str(wrong), param_hint="--for") from wrong
    budget = name.partition("|")[0]
    known = [one.name for one in app.settings.policy.budgets]
    if budget not in known:
        raise click.BadParameter(f'no budget "{budget}"; configured: {", ".join(known) or "none"}', param_hint="NAME")
    with closed(app.stores.open_alerts(app.settings)) as log:
        log.mute(name, until_ms=now_ms + lasts_ms)
    click.echo(f"{name} is muted until {shown(now_ms + lasts_ms)} UTC." if lasts_ms else f"{name} is muted no more.")


async def _send(sinks: dict[str, AlertSink], message: Alert) -> dict[str, str]:
    """Why each sink failed; empty: delivered."""
    outcomes: dict[str, str] = {}
    for name, sink in sinks.items():
        try:
            async with asyncio.timeout(20):
                await sink.send(message)
            outcomes[name] = ""
        except TimeoutError:
            outcomes[name] = "no answer within 20 s"
        except SinkFailed as error:
            outcomes[name] = str(error)
        finally:
            await sink.close()
    return outcomes
