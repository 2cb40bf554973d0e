"""``farthing budget``: budgets, what is left of them, what they would do, and changing them."""

import click

from farthing.cli.budget_explain import explain
from farthing.cli.budget_forecast import forecast
from farthing.cli.budget_set import set_
from farthing.cli.context import App, closed, format_option, pass_app, show
from farthing.core.policy import Budget
from farthing.insight import budget_counters
from farthing.insight.render import Format
from farthing.insight.reports import budget_list, budget_status


@click.group()
def budget() -> None:
    """Set, list and explain budgets, and show what is left of them."""


budget.add_command(set_)
budget.add_command(explain)
budget.add_command(forecast)


@budget.command("ls")
@format_option()
@pass_app
def list_(app: App, form: Format) -> None:
    """Every budget as it is configured."""
    show(budget_list.build(app.settings.policy.budgets, app.now_ms()), form)


@budget.command()
@click.option("--name", help="Only this budget.")
@format_option()
@pass_app
def status(app: App, name: str | None, form: Format) -> None:
    """What each budget has spent, holds and has left, at which rate, and when it starts anew."""
    now_ms = app.now_ms()
    chosen = chosen_budgets(app, name)
    found: list[budget_counters.BudgetCounter] = []
    with app.ledger() as ledger:
        for one in chosen:
            frames = budget_counters.frames_of(one, now_ms)
            if frames:
                window = frames[0][0]
                answers = [row for query in budget_counters.queries(one, window) for row in ledger.totals(query)]
                found += budget_counters.counters(one, frames, answers)
    with closed(app.stores.open_balances(app.settings)) as books:
        balances = books.balances(budget_counters.wanted(found))
    show(budget_status.build(found, balances, chosen, now_ms=now_ms), form)


def chosen_budgets(app: App, name: str | None) -> list[Budget]:
    """All budgets, or the one of a name. Raises ``BadParameter`` when there is none."""
    chosen = [one for one in app.settings.policy.budgets if name in (None, one.name)]
    if name is not None and not chosen:
        known = ", ".join(one.name for one in app.settings.policy.budgets) or "none"
        raise click.BadParameter(f'no budget "{name}"; configured: {known}', param_hint="--name")
    return chosen
