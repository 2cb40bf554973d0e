"""``farthing budget explain``: which limits apply to one request, and what became of it."""

import click
import msgspec

from farthing.cli.context import App, Failed, Finite, closed, format_option, pass_app, scope_of, scope_options, show
from farthing.cli.receipt import find_entries, find_exchange
from farthing.config.checks import serving
from farthing.core.budget import Budgets, Need
from farthing.core.pricing_ceiling import at_ceiling_rates
from farthing.core.types import Bounds, Scope, Target
from farthing.insight.render import Format
from farthing.insight.reports import budget_explain


@click.command()
@click.argument("request_id", required=False)
@scope_options
@click.option("--key", default="", metavar="ID", help="The id of the virtual key.")
@click.option("--provider", default="", metavar="NAME", help="The provider that would serve it.")
@click.option("--model", default="", metavar="NAME", help="The model that it would ask for.")
@click.option("--tokens", type=click.IntRange(0), default=0, help="Input tokens, at most.")
@click.option(
    "--output", type=click.IntRange(0), help="Output tokens, at most. Default: as for a call that caps none."
)
@click.option(
    "--usd", type=Finite(min=0, max=9e9), help="What it can cost at most. Default: what --model asks for it."
)
@format_option()
@pass_app
def explain(app: App, /, request_id: str | None, form: Format, **said: object) -> None:
    """Which limits apply to a request, what it needed of them, what was booked, and why it was refused.

    With REQUEST_ID, of one that was made. Without, of one that might be: --team search --model gpt-4o --tokens 8000.
    """
    if request_id is not None:
        with app.ledger() as ledger:
            entries = find_entries(ledger, request_id)
            exchange = find_exchange(ledger, entries, request_id)
        if not entries and exchange is None:
            raise Failed(f'There is no request "{request_id}"; "farthing requests" lists the last ones.')
        asked = budget_explain.asked_of(entries, exchange)
    else:
        asked = _imagined(app, said, app.now_ms())
    budgets = Budgets(app.settings.policy.budgets)
    found = budget_explain.applying(budgets, asked)
    with closed(app.stores.open_balances(app.settings)) as books:
        balances = books.balances(budget_explain.wanted(found))
    show(budget_explain.build(asked, found, balances), form)


def _imagined(app: App, said: dict[str, object], now_ms: int) -> budget_explain.Asked:
    names = [name for name in Scope.__struct_fields__ if name not in ("tags", "key")]
    tags = said["tags"]
    assert isinstance(tags, tuple)
    scope = scope_of({name: str(said[name]) for name in names}, tags, key=str(said["key"]))
    usd, tokens, output = said["usd"], said["tokens"], said["output"]
    assert isinstance(tokens, int)
    target = _target(app, str(said["provider"]), str(said["model"]))
    policy = app.settings.policy
    given = output if isinstance(output, int) else policy.limits.output_tokens_assumed if target.model else 0
    cap, by = _cap(app, scope, target)
    capped = cap is not None and (cap < given or output is None)
    given = cap if cap is not None and capped else given
    need = Need(usd=None, input_tokens=tokens, output_tokens=given)
    unpriced = ""
    if isinstance(usd, float):
        need = msgspec.structs.replace(need, usd=round(usd * 1e9))
    elif target.model:
        bounds = Bounds(input_tokens=tokens, output_tokens=given)
        amount = app.stores.price_book(app.settings).ceiling(bounds, target, at_ms=now_ms)
        if amount is None:
            unpriced = policy.unpriced.action
            if unpriced == "ceiling":
                amount = at_ceiling_rates(policy.unpriced, input_tokens=tokens, output_tokens=given)
        need = msgspec.structs.replace(need, usd=amount)
    return budget_explain.Asked(
        scope=scope, provider=target.provider, model=target.model, at_ms=now_ms, need=need, unpriced=unpriced,
        capped_by=by if capped else "",
    )  # fmt: skip


def _cap(app: App, scope: Scope, target: Target) -> tuple[int | None, str]:
    """(the most output that the policy lets one call ask for, what says so), as the gateway caps it."""
    policy = app.settings.policy
    most, by = policy.limits.output_tokens_max, "limits.output_tokens_max"
    need = Need(usd=0, input_tokens=0, output_tokens=2**62)
    found = Budgets(policy.budgets).violation(scope, provider=target.provider, model=target.model, need=need)
    if found is not None and found.unit == "output_tokens" and (most is None or found.limit < most):
        return found.limit, found.budget.name
    return most, by


def _target(app: App, provider: str, model: str) -> Target:
    """Who would serve the model, as the gateway chooses; what was not said and cannot be known stays empty."""
    found = serving(app.settings.providers, f"{provider}/{model}" if provider else model) if model else ()
    if not found:
        return Target(provider=provider, price_as=provider, model=model)
    one = found[0]
    name = model.removeprefix(f"{one.name}/")
    return Target(
        provider=one.name,
        price_as=one.price_as or one.name,
        model=name,
        price_model=dict(one.price_models).get(name, ""),
    )
