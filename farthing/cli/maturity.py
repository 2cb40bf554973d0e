"""``farthing maturity``: how far the practice is, and what to do next."""

import click

from farthing.cli.context import App, closed, format_option, pass_app, show
from farthing.cli.practice import stores_of
from farthing.insight.practice_evidence import gather
from farthing.insight.render import Format
from farthing.insight.reports.maturity import build


@click.command()
@format_option()
@pass_app
def maturity(app: App, form: Format) -> None:
    """The level of the practice from evidence of the last 30 days, each step with what shows it, and the next one."""
    with closed(stores_of(app).open_practice(app.settings)) as practice, app.ledger() as ledger:
        found = gather(ledger, practice, app.settings, now_ms=app.now_ms())
    show(build(found), form)
