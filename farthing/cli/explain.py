"""``farthing explain``: a request's route decision made again from what was logged, beside what was logged."""

from pathlib import Path
from typing import Protocol, cast

import click

from farthing.cli.context import App, Failed, format_option, log_state, pass_app, show
from farthing.cli.receipt import find_entries, find_exchange
from farthing.cli.route import embedded
from farthing.core.errors import ConfigError
from farthing.core.route_check import Checked, recheck
from farthing.core.route_clusters import ClusterModel
from farthing.engine.routing import Trained
from farthing.insight.render import Format
from farthing.insight.table import Column, Table
from farthing.wire.asked import asked


class ExplainStores(Protocol):
    """What this command needs of ``farthing.bootstrap`` beyond the common stores."""

    def trained_of(self, path: Path) -> Trained: ...


@click.command()
@click.argument("wanted", metavar="ID")
@format_option()
@pass_app
def explain(app: App, wanted: str, form: Format) -> None:
    """Decide a logged request again, and compare.

    The route, its table and the logged evidence are put together again; with the prompt in the traffic log
    (exchange_log.text) the features are read again too. Exit code 1 when the decision differs.
    """
    with app.ledger() as ledger:
        entries = find_entries(ledger, wanted)
        exchange = find_exchange(ledger, entries, wanted)
    if exchange is None:
        known = log_state(app) or ' "farthing requests" lists the last ones.'
        raise Failed(f'The traffic log has no request "{wanted}".{known}')
    decision = next((one for one in exchange.decisions if one.stage == "route"), None)
    if decision is None:
        raise Failed(f"Nothing was routed: {exchange.view.model} was asked for and asked.")
    if decision.reason == "experiment_control":
        raise Failed("Routes were off for this call: its conversation is in the control arm of an experiment.")
    name = dict(decision.evidence).get("route", "")
    route = next((one for one in app.settings.policy.routes if one.name == name), None)
    if route is None:
        raise Failed(f"The route '{name}' is not in the policy any more (policy then: {exchange.policy_ref}).")
    trained = None
    if route.table:
        trained = cast(ExplainStores, app.stores).trained_of(Path(app.settings.home) / route.table)
    text = None if exchange.prompt is None else asked(exchange.view.endpoint, exchange.prompt).first
    vector = None
    if text is not None and trained is not None and isinstance(trained.model, ClusterModel):
        vector = vector_of(app, trained.model, text)
    checked = recheck(
        route,
        decision,
        text=text,
        tools=exchange.view.tools,
        learned=trained.model if trained else None,
        artefact=trained.artefact if trained else None,
        vector=vector,
    )
    show(_table(exchange.request_id, checked), form)
    if checked.agrees is False:
        raise Failed("The decision is not what it would be now.")


def vector_of(app: App, model: ClusterModel, text: str) -> bytes | None:
    """The text's vector; None where the table's embedder is not to be had: the logged figures are taken then."""
    try:
        return embedded(app, model, [text])[0]
    except (ConfigError, Failed):
        return None


def _table(request_id: str, checked: Checked) -> Table:
    verdict = {True: "It is decided the same way now.", False: "It would be decided differently now.", None: ""}
    return Table(
        title=f"Route decision of {request_id}",
        columns=tuple(Column(name=name, title=name) for name in ("fact", "logged", "again")),
        rows=tuple(checked.rows),
        notes=tuple(note for note in (verdict[checked.agrees], *checked.notes) if note),
    )
