"""``farthing unit``: cost per outcome, user, customer or session."""

import click

from farthing.cli.context import (
    App,
    Failed,
    assignments,
    closed,
    format_option,
    pass_app,
    show,
    since_option,
    until_option,
)
from farthing.cli.practice import stores_of
from farthing.cli.report import check_dimension, dimensions
from farthing.insight import unit_economics as economics
from farthing.insight.moments import shown
from farthing.insight.render import Format
from farthing.insight.reports import unit as report


@click.command()
@click.option("--outcome", "kind", default="", metavar="KIND", help="Cost per successful outcome of this kind.")
@click.option("--per", type=click.Choice(["user", "customer", "session"]), help="Or cost per head.")
@click.option("--by", default="feature", show_default=True, help='Dimensions, comma-separated; "" for one row.')
@since_option("30d")
@until_option()
@click.option("--where", "where", multiple=True, callback=assignments, help="Only team=search, say; repeatable.")
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="Only that many rows; 0: all.")
@format_option()
@pass_app
def unit(
    app: App, /, kind: str, per: str | None, by: str, since: int, until: int, where: tuple[tuple[str, str], ...],
    limit: int, form: Format,
) -> None:  # fmt: skip
    """Unit economics: what an outcome, a user, a customer or a session costs, with a 95 % interval.

    The interval is of the ratio over sessions, which stand for themselves: calls of one session move together.
    """
    if bool(kind) == bool(per):
        raise click.UsageError("say either --outcome KIND or --per user|customer|session")
    groups = dimensions(by)
    for name in groups:
        check_dimension(name, "--by")
    cluster = per or "session"
    if cluster in groups:
        raise click.BadParameter(f"is by {cluster} already", param_hint="--by")
    query = economics.query(groups, cluster, since_ms=since, until_ms=until, where=where)
    title = f"{report.TITLE}, {shown(since)} to {shown(until)} UTC"
    with app.ledger() as ledger:
        rows = ledger.totals(query)
        if per:
            heads = economics.per_head(rows)
            missing = economics.unknown(rows)
            show(report.per_head(heads, groups, per, unpriced=missing, title=title, limit=limit), form)
            return
        with closed(stores_of(app).open_practice(app.settings)) as practice:
            found = practice.all(kind=kind, since_ms=since, until_ms=until + 1)  # what is told now counts now
            known = practice.kinds()
        if not found and kind not in dict(known):
            listed = ", ".join(name for name, _ in known) or "none yet (farthing outcomes import)"
            raise Failed(f'There is no outcome of kind "{kind}"; reported kinds: {listed}.')
        units, lost = economics.per_outcome(ledger, rows, found, groups)
    missing = economics.unknown(rows)
    show(report.build(units, groups, unpriced=missing, title=f"{title}: {kind}", lost=lost, limit=limit), form)
