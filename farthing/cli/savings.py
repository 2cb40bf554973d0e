"""``farthing savings``: the proof of savings as one page, and whether a page still holds."""

from pathlib import Path
from typing import Literal, Protocol, cast

import click
import msgspec

from farthing import __version__
from farthing.cli.context import App, Failed, assignments, closed, pass_app
from farthing.cli.experiment import find
from farthing.cli.practice import Practice, stores_of
from farthing.core.dimensions import SCOPE_DIMENSIONS
from farthing.insight.gathering import Where, gather, overlapping
from farthing.insight.moments import EXAMPLES, parse_moment
from farthing.insight.proof_page import page
from farthing.insight.proof_report import Proof, proof
from farthing.ports.experiments import Experiments

_DEFAULT_MS = 30 * 86_400_000


class Register(Experiments, Practice, Protocol):
    """Experiments and outcomes."""


class _Page(msgspec.Struct):
    """What a page in JSON must have to be checked."""

    since: str
    until: str
    experiment: str
    where: Where
    fingerprint: str


@click.group()
def savings() -> None:
    """What was really saved: measured, exact and modelled, each apart."""


@savings.command()
@click.option(
    "--since", default="", metavar="WHEN", help=f"From this instant: {EXAMPLES}. Default: the experiment's."
)
@click.option(
    "--until", default="now", show_default=True, metavar="WHEN", help="Up to this instant, itself excluded."
)
@click.option(
    "--experiment", "name", default="", metavar="NAME", help="Only this experiment; else all of the period."
)
@click.option("--where", multiple=True, callback=assignments, metavar="NAME=VALUE", help="Only team=search, say.")
@click.option("--format", "form", type=click.Choice(["md", "html", "json"]), default="md", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file instead.")
@pass_app
def report(
    app: App, since: str, until: str, name: str, where: Where, form: Literal["md", "html", "json"], out: Path | None
) -> None:
    """One page that proves what was saved, or says what is missing; its last line makes it again.

    Measured savings come of experiments, with intervals; exact ones of arithmetic on the bill; modelled ones of a
    counterfactual. They are never added to each other.
    """
    made = _proof(app, since, until, name, where)
    text = page(made, form)
    if out is None:
        click.echo(text)
        return
    out.write_text(text + "\n", encoding="utf-8")
    click.echo(f"{out}: {made.headline}")


@savings.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@pass_app
def verify(app: App, file: Path) -> None:
    """Make the page of FILE (JSON) again from the books, and say whether its figures still hold."""
    try:
        was = msgspec.json.decode(file.read_bytes(), type=_Page)
    except msgspec.MsgspecError as error:
        raise Failed(f"{file}: is no page of 'farthing savings report --format json': {error}.") from None
    made = _proof(app, was.since, was.until, was.experiment, was.where)
    if made.fingerprint != was.fingerprint:
        raise Failed(
            f"{file}: the books say something else now (fingerprint {made.fingerprint}, then {was.fingerprint}): "
            f"entries were corrected or came late, or another release counts otherwise. Now: {made.headline}"
        )
    click.echo(f"{file}: every figure is as the books have it ({made.fingerprint}).")


def _proof(app: App, since: str, until: str, name: str, where: Where) -> Proof:
    now = app.now_ms()
    for dimension, _ in where:
        if dimension not in SCOPE_DIMENSIONS and not dimension.startswith("tag:"):
            raise click.BadParameter(f'"{dimension}" is none of {", ".join(SCOPE_DIMENSIONS)}, tag:<name>')
    until_ms = _moment(until, "--until", now)
    with closed(cast("Register", stores_of(app).open_practice(app.settings))) as register:
        known = register.experiments()
        chosen = [find(known, name)] if name else []
        default_ms = chosen[0].starts_ms if chosen else until_ms - _DEFAULT_MS
        since_ms = _moment(since, "--since", now) if since else default_ms
        if until_ms <= since_ms:
            raise click.BadParameter("ends before it begins", param_hint="--until")
        with app.ledger() as ledger:
            found = gather(
                ledger,
                app.stores.price_book(app.settings),
                chosen or overlapping(known, since_ms, until_ms),
                lambda first_ms, last_ms: register.all(since_ms=first_ms, until_ms=last_ms),
                since_ms=since_ms,
                until_ms=until_ms,
                where=where,
            )
    return proof(found, experiment=name, version=__version__)


def _moment(said: str, option: str, now_ms: int) -> int:
    try:
        return parse_moment(said, now_ms=now_ms)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error
