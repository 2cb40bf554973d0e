"""``farthing governance``: who owns the cost, and what here is evidence for the NIST AI RMF."""

import click

from farthing.cli.context import App, closed, format_option, pass_app, show
from farthing.cli.practice import stores_of
from farthing.insight.governance_evidence import DAYS, gather, owners
from farthing.insight.render import Format
from farthing.insight.reports import governance as report


@click.command()
@click.option(
    "--nist", is_flag=True, help="The functions of the NIST AI RMF, each with its evidence and what is open."
)
@format_option()
@pass_app
def governance(app: App, nist: bool, form: Format) -> None:
    """Owners of the cost of the last 30 days with their budgets, keys and people; or the NIST AI RMF.

    'farthing audit' lists every change of policy, prices, keys and rules.
    """
    keys = app.stores.open_keys(app.settings).all()
    with closed(stores_of(app).open_practice(app.settings)) as practice, app.ledger() as ledger:
        if nist:
            show(report.nist(gather(ledger, keys, practice, app.settings, now_ms=app.now_ms())), form)
            return
        found = owners(ledger, keys, app.settings, now_ms=app.now_ms())
    show(report.owners(found, title=f"Owners, last {DAYS} days"), form)
