"""``farthing anomalies``: cost that is out of the ordinary, incident by incident."""

import click
import msgspec

from farthing.cli.context import App, Failed, Finite, assignments, closed, format_option, pass_app, show, since_option
from farthing.cli.practice import list_price, me, stores_of
from farthing.cli.report import check_dimension, dimensions
from farthing.core.alerts import alert_id, incident_key
from farthing.core.errors import BadRequest
from farthing.core.series import Detector
from farthing.insight import anomalies as finder
from farthing.insight import rule_trial
from farthing.insight.anomalies import RULES, Incident
from farthing.insight.daily import Grain
from farthing.insight.incident_details import both_periods, example_requests, grew_most
from farthing.insight.incident_list import expected_days
from farthing.insight.moments import shown
from farthing.insight.render import Format
from farthing.insight.reports import incidents as listing
from farthing.insight.reports import why
from farthing.insight.table import Column, Table
from farthing.ports.books import Ledger
from farthing.ports.incidents import ExpectedDays, IncidentMarks, Mark

Where = tuple[tuple[str, str], ...]
DETAILED = 20
_grain = click.option(
    "--grain", type=click.Choice(["day", "hour"]), default="day", show_default=True, help="Cost by day or by hour."
)
_by = click.option("--by", default="feature", show_default=True, help='Slices that are judged; "" for the whole.')


@click.group()
def anomalies() -> None:
    """Cost that is out of the ordinary: list, open, acknowledge, expect, back-test."""


@anomalies.command()
@since_option("30d")
@_by
@_grain
@click.option("--where", "where", multiple=True, callback=assignments, help="Only team=search, say; repeatable.")
@click.option("--open", "open_only", is_flag=True, help="Only those that go on and nobody has acknowledged.")
@click.option("--quick", is_flag=True, help="Without the slice that grew most and example requests.")
@format_option()
@pass_app
def ls(app: App, since: int, by: str, grain: Grain, where: Where, open_only: bool, quick: bool, form: Format) -> None:
    """Incidents, those that go on first.

    Cost of each slice against the median of the same weekday (or hour of the week) before it, with growth and scatter
    of its own past. Three weeks are learned from before anything is said.
    """
    groups = _groups(by)
    now_ms = app.now_ms()
    stores = stores_of(app)
    with (
        closed(stores.open_practice(app.settings)) as practice,
        closed(app.stores.open_ledger(app.settings)) as ledger,
    ):
        rule = practice.rule(grain) or RULES[grain]
        found = _find(ledger, practice, groups, grain, rule, (since, now_ms), where)
        marks = practice.marks()
        if open_only:
            found = tuple(one for one in found if one.open and one.id not in marks)
        details = {
            one.id: (grew_most(ledger, one, rule.season), example_requests(ledger, one))
            for one in found[: 0 if quick else DETAILED]
        }
    title = f"{listing.TITLE} by {grain}, {shown(since)} to {shown(now_ms)} UTC"
    show(listing.build(found, marks, details, title=title, notes=_notes(found, rule)), form)


@anomalies.command()
@click.argument("incident")
@since_option("90d")
@_by
@_grain
@click.option("--inside", default="user", show_default=True, help="Dimensions by which the cause is split.")
@format_option()
@pass_app
def explain(app: App, incident: str, since: int, by: str, grain: Grain, inside: str, form: Format) -> None:
    """Open an INCIDENT: what its cost above the same time before is put down to."""
    groups, inner = _groups(by), _groups(inside)
    stores = stores_of(app)
    with (
        closed(stores.open_practice(app.settings)) as practice,
        closed(app.stores.open_ledger(app.settings)) as ledger,
    ):
        rule = practice.rule(grain) or RULES[grain]
        one = _one(_find(ledger, practice, groups, grain, rule, (since, app.now_ms()), ()), incident)
        before, during = both_periods(ledger, one, rule.season, inner, list_price(app))
        requests = example_requests(ledger, one)
    title = f"{one.kind} in {one.name}, {shown(one.began_ms)} to {shown(one.until_ms)} UTC"
    table = why.build(before, during, inner, title=title, limit=20)
    more = (f"Example requests: {', '.join(requests)} (farthing receipt ID opens one).",) if requests else ()
    show(msgspec.structs.replace(table, notes=(*table.notes, *more)), form)


@anomalies.command()
@click.argument("incident")
@click.option("--by", "who", default="", help="Who takes care of it; you, by default.")
@click.option("--note", default="", help="What it was.")
@pass_app
def ack(app: App, incident: str, who: str, note: str) -> None:
    """Acknowledge an INCIDENT: somebody takes care of it."""
    with closed(stores_of(app).open_practice(app.settings)) as practice:
        if incident in practice.marks():
            raise Failed(f"{incident} was acknowledged before; the first who did stays.")
        if not incident.startswith("an-"):
            raise Failed(f"{incident} is no incident; 'farthing anomalies ls' lists them.")
        practice.acknowledge(Mark(incident=incident, by=who or me(), at_ms=app.now_ms(), note=note))
    with closed(app.stores.open_alerts(app.settings)) as log:
        log.acknowledge(alert_id(incident_key(incident)), by=who or me(), at_ms=app.now_ms())
    click.echo(f"{incident} is acknowledged.")


@anomalies.command()
@click.argument("first", required=False)
@click.argument("last", required=False)
@click.option("--why", "reason", default="", help="A launch, a batch job, a price change.")
@click.option("--slice", "slice_name", default="", help="Only this slice; all, by default.")
@click.option("--remove", metavar="ID", help="Take an entry out again.")
@format_option()
@pass_app
def expected(
    app: App, first: str | None, last: str | None, reason: str, slice_name: str, remove: str | None, form: Format
) -> None:
    """Days (UTC) from FIRST to LAST on which unusual cost is no news; without arguments, the calendar."""
    with closed(stores_of(app).open_practice(app.settings)) as practice:
        if remove is not None:
            if not practice.forget_expected(remove):
                raise Failed(f"There is no entry {remove} in the calendar.")
        elif first is not None:
            practice.expect(_days(first, last or first, slice_name, reason, app.now_ms()))
        rows = tuple(
            (one.id, one.first, one.last, one.slice or "all", one.why, one.by) for one in practice.expected()
        )
    names = ("id", "first", "last", "slice", "why", "by")
    columns = tuple(Column(name=name, title=name) for name in names)
    show(Table(title="Expected days", columns=columns, rows=rows), form)


@anomalies.command()
@since_option("90d")
@_by
@_grain
@click.option("--z", type=Finite(1, 20), help="Score beyond which one slot is an anomaly.")
@click.option("--min-usd", type=Finite(min=0, min_open=True, max=1e9), help="Least dollars above the expectation.")
@click.option("--cusum", type=Finite(1, 100), help="How far steps and leaks may add up.")
@click.option("--drops", is_flag=True, help="Large falls too.")
@click.option("--save", is_flag=True, help="From now on this is the rule.")
@format_option()
@pass_app
def backtest(
    app: App,
    /,
    since: int,
    by: str,
    grain: Grain,
    z: float | None,
    min_usd: float | None,
    cusum: float | None,
    drops: bool,
    save: bool,
    form: Format,
) -> None:
    """Try a rule on the past before it is saved: what it would have said, beside the rule that applies now."""
    groups = _groups(by)
    now_ms = app.now_ms()
    stores = stores_of(app)
    with (
        closed(stores.open_practice(app.settings)) as practice,
        closed(app.stores.open_ledger(app.settings)) as ledger,
    ):
        current = practice.rule(grain) or RULES[grain]
        tried = msgspec.structs.replace(
            current,
            z=current.z if z is None else z,
            impact_min=current.impact_min if min_usd is None else min_usd,
            cusum_limit=current.cusum_limit if cusum is None else cusum,
            drops=drops or current.drops,
        )
        query = finder.query(groups, grain, since_ms=since, until_ms=now_ms)
        found = rule_trial.trial(
            ledger.totals(query), groups, current, tried, since_ms=since, until_ms=now_ms,
            expected=practice.expected(), grain=grain,
        )  # fmt: skip
        if save:
            practice.save_rule(grain, tried)
            practice.note(rule_trial.changed(grain, current, tried, by=me(), at_ms=now_ms))
    notes = (
        rule_trial.sentence(found),
        *((rule_trial.estimate(found),) if grain == "day" else ()),
        *_notes(found.tried, tried),
        "Saved: this rule applies from now on." if save else "Not saved; --save makes it the rule.",
    )
    title = f"Back-test by {grain}, {shown(since)} to {shown(now_ms)} UTC"
    show(listing.build(found.tried, {}, {}, title=title, notes=notes), form)


def _find(
    ledger: Ledger,
    practice: IncidentMarks,
    groups: tuple[str, ...],
    grain: Grain,
    rule: Detector,
    period: tuple[int, int],
    where: Where,
) -> tuple[Incident, ...]:
    since, until = period
    rows = ledger.totals(finder.query(groups, grain, since_ms=since, until_ms=until, where=where))
    return finder.find(rows, groups, grain, rule, since_ms=since, until_ms=until, expected=practice.expected())


def _one(found: tuple[Incident, ...], wanted: str) -> Incident:
    for one in found:
        if one.id == wanted:
            return one
    raise Failed(f"There is no incident {wanted} in that period; 'farthing anomalies ls' lists them.")


def _groups(by: str) -> tuple[str, ...]:
    groups = dimensions(by)
    for name in groups:
        check_dimension(name, "--by", time=False)
    return groups


def _days(first: str, last: str, slice_name: str, reason: str, now_ms: int) -> ExpectedDays:
    try:
        return expected_days(first, last, slice_name, reason, by=me(), at_ms=now_ms)
    except BadRequest as error:
        raise click.BadParameter(error.message) from error


def _notes(found: tuple[Incident, ...], rule: Detector) -> tuple[str, ...]:
    weeks = rule.learning * rule.season
    notes = [f"Rule: z > {rule.z:g}, CUSUM > {rule.cusum_limit:g}, at least ${rule.impact_min:g} above expected."]
    if not found:
        notes.append(
            f"Nothing out of the ordinary; the first {weeks} slots of a series are learned from, not judged."
        )
    return tuple(notes)
