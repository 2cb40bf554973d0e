"""``farthing budget``: budgets and what is left of them."""

import click

from farthing.cli.context import App, closed, format_option, pass_app, show
from farthing.insight.render import Format
from farthing.insight.reports import budget_status


@click.group()
def budget() -> None:
    """Show budgets and what is left of them."""


@budget.command()
@click.option("--name", help="Only this budget.")
@format_option()
@pass_app
def status(app: App, name: str | None, form: Format) -> None:
    """What each budget has spent, holds and has left, and when it starts anew."""
    settings, now_ms = app.settings, app.now_ms()
    chosen = [one for one in settings.policy.budgets if name in (None, one.name)]
    if name is not None and not chosen:
        known = ", ".join(one.name for one in settings.policy.budgets) or "none"
        raise click.BadParameter(f'no budget "{name}"; configured: {known}', param_hint="--name")
    found: list[budget_status.BudgetCounter] = []
    with app.ledger() as ledger:
        for one in chosen:
            window = budget_status.window_of(one, now_ms)
            if window is not None:
                answers = [row for query in budget_status.queries(one, window) for row in ledger.totals(query)]
                found += budget_status.counters(one, window, answers)
    with closed(app.stores.open_balances(settings)) as books:
        balances = books.balances([(counter.counter, counter.window.name) for counter in found])
    show(budget_status.build(found, balances, [one for one in chosen if one.per == "request"]), form)
