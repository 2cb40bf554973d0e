"""``farthing experiment``: prove a saving by a holdout; start, watch and stop it."""

import secrets
from typing import Protocol, cast

import click

from farthing.cli.context import (
    App,
    Failed,
    assignments,
    closed,
    format_option,
    pass_app,
    show,
)
from farthing.cli.practice import Practice, me, stores_of
from farthing.core.experiment import Experiment
from farthing.insight.arms import CARRY_MS
from farthing.insight.experiment_design import Words, design, outlook, traffic
from farthing.insight.gathering import gather
from farthing.insight.moments import shown
from farthing.insight.render import Format
from farthing.insight.reports import experiments as report
from farthing.ports.audit import Changed
from farthing.ports.experiments import Experiments


class Register(Experiments, Practice, Protocol):
    """Experiments, and the audit log on which they stand too."""


@click.group()
def experiment() -> None:
    """Prove a saving: part of the conversations does without it, drawn by chance.

    Control is served without caches, routes or levers, whole conversations at a time, and both arms are metered. The
    result is read with 'farthing savings report'.
    """


@experiment.command()
@click.argument("name")
@click.option(
    "--off",
    default="",
    metavar="PARTS",
    help="What control does without: caches, routes, levers, comma-separated. Default: all that the policy has.",
)
@click.option("--holdout", default="", metavar="PERCENT", help="Control's share; 5, of a switchback's blocks 50.")
@click.option("--match", multiple=True, callback=assignments, metavar="NAME=VALUE", help="Only such calls take part.")
@click.option("--until", default="", metavar="WHEN", help="An end fixed now; then the plain interval may be read.")
@click.option(
    "--switchback", default="", metavar="SPAN", help='Draw blocks of time, such as "2h", not conversations.'
)
@click.option("--washout", default="", metavar="SPAN", help="Unmeasured beginning of a block; a tenth of it.")
@click.option("--margin", default="2", show_default=True, metavar="POINTS", help="Loss of quality allowed.")
@click.option("--why", default="", help="What for; kept with it.")
@pass_app
def start(
    app: App,
    name: str,
    off: str,
    holdout: str,
    match: tuple[tuple[str, str], ...],
    until: str,
    switchback: str,
    washout: str,
    margin: str,
    why: str,
) -> None:
    """Start an experiment; running gateways take it up within seconds, without a restart.

    A conversation is a session; without one a user; without either each call is one of its own. Its design cannot be
    changed any more. One experiment runs at a time.
    """
    now = app.now_ms()
    words = Words(
        name=name, off=off, holdout=holdout, match=match, until=until, switchback=switchback, washout=washout,
        margin=margin, why=why,
    )  # fmt: skip
    made = design(words, app.settings.policy, now_ms=now, salt=secrets.token_hex(8), by=me())
    with closed(_register(app)) as register:
        register.begin(made, now_ms=now)
        register.note(Changed(at_ms=now, subject="experiment", name=name, after="started", by=me(), detail=why))
    click.echo(
        f"Experiment '{name}' begins at {shown(made.starts_ms)} UTC: {made.control_share:.1%} of "
        f"{'the blocks of time' if switchback else 'conversations'} do without {', '.join(made.off)}."
    )
    with app.ledger() as ledger:
        click.echo(outlook(made, ledger.totals(traffic(made, now_ms=now))))
    click.echo(f"Watch it: farthing experiment status {name}\nProve it: farthing savings report --experiment {name}")


@experiment.command()
@click.argument("name", required=False)
@pass_app
def stop(app: App, name: str | None) -> None:
    """Stop the experiment that runs. What it measured stays; its name is not used again."""
    now = app.now_ms()
    with closed(_register(app)) as register:
        running = register.running()
        if running is None or (name and running.name != name):
            raise Failed(_none_runs(name, running))
        if not register.end(running.name, at_ms=now):
            raise Failed(f"The experiment '{running.name}' was stopped by somebody else just now.")
        register.note(Changed(at_ms=now, subject="experiment", name=running.name, after="stopped", by=me()))
    click.echo(f"Experiment '{running.name}' stopped at {shown(now)} UTC; every call is served as the policy says.")


@experiment.command(name="ls")
@format_option()
@pass_app
def list_(app: App, form: Format) -> None:
    """Every experiment of this installation."""
    with closed(_register(app)) as register:
        show(report.listed(register.experiments(), now_ms=app.now_ms()), form)


@experiment.command()
@click.argument("name", required=False)
@format_option()
@pass_app
def status(app: App, name: str | None, form: Format) -> None:
    """How far an experiment is: its arms, its interval, and what is still missing."""
    now = app.now_ms()
    with closed(_register(app)) as register:
        chosen = find(register.experiments(), name)
        with app.ledger() as ledger:
            found = gather(
                ledger,
                app.stores.price_book(app.settings),
                [chosen],
                lambda since_ms, until_ms: register.all(since_ms=since_ms, until_ms=until_ms),
                since_ms=chosen.starts_ms - CARRY_MS,
                until_ms=max(now, chosen.starts_ms) + 1,
            ).measured[0]
    if form in ("json", "csv"):
        show(report.results([found]), form)
        return
    state = report.state_of(chosen, now)
    tables = (
        report.results([found], title=f"Experiment {chosen.name}: {state}"),
        report.arms(found),
        report.quality(found),
    )
    for place, table in enumerate(tables):
        if place:
            click.echo()
        show(table, form)


def find(experiments: tuple[Experiment, ...], name: str | None) -> Experiment:
    """The experiment of a name, or the last one begun. Raises ``Failed``."""
    known = ", ".join(one.name for one in experiments[:10])
    if not experiments:
        raise Failed("There is no experiment yet; begin one with 'farthing experiment start NAME'.")
    found = next((one for one in experiments if name in (None, "", one.name)), None)
    if found is None:
        raise Failed(f"There is no experiment '{name}'; known are {known}.")
    return found


def _register(app: App) -> Register:
    return cast("Register", stores_of(app).open_practice(app.settings))


def _none_runs(name: str | None, running: Experiment | None) -> str:
    if running is None:
        return "No experiment is running; 'farthing experiment ls' lists those that were."
    return f"'{name}' is not running; '{running.name}' is."
