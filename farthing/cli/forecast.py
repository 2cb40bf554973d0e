"""``farthing forecast``: what the month will cost."""

import click

from farthing.cli.context import App, assignments, closed, format_option, pass_app, show
from farthing.cli.practice import stores_of
from farthing.cli.report import check_dimension, check_where, dimensions
from farthing.insight.render import Format
from farthing.insight.reports import forecast as report


@click.command()
@click.option("--by", default="team", show_default=True, help='Dimensions, comma-separated; "" for the whole alone.')
@click.option("--where", "where", multiple=True, callback=assignments, help="Only team=search, say; repeatable.")
@click.option("--budgets", is_flag=True, help="Monthly budgets in dollars beside what their scope will cost.")
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="Only that many rows; 0: all.")
@click.option("--from", "source", default="", metavar="SOURCE", help="As of 'farthing report'.")
@format_option()
@pass_app
def forecast(
    app: App, by: str, where: tuple[tuple[str, str], ...], budgets: bool, limit: int, source: str, form: Format
) -> None:
    """What the month will cost: weekday profile and damped trend, with a band and its own error on the past.

    When the limits of single counters are reached is what 'farthing budget forecast' says.
    """
    groups = dimensions(by)
    for name in groups:
        check_dimension(name, "--by", time=False)
    check_where(where)
    now_ms = app.now_ms()
    with closed(stores_of(app).open_reports(app.settings, source)) as ledger:
        if budgets:
            limits = [
                (one.name, dict(one.limits)["usd"], ledger.totals(report.query((), now_ms, where=one.match)))
                for one in app.settings.policy.budgets
                if report.is_monthly(one)
            ]
            show(report.against(limits, now_ms), form)
            return
        show(
            report.build(ledger.totals(report.query(groups, now_ms, where=where)), groups, now_ms, limit=limit), form
        )
