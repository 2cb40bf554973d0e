"""``farthing baseline``: the traffic by which pull requests are priced."""

from pathlib import Path

import click
import msgspec

from farthing.cli.context import App, Failed, pass_app, since_option, until_option
from farthing.insight import ci_baseline

DEFAULT = Path(".farthing/baseline.json")


@click.group()
def baseline() -> None:
    """The traffic by which pull requests are priced: exported from the ledger, committed, no secret in it."""


@baseline.command()
@since_option("30d")
@until_option()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=DEFAULT, show_default=True,
              help="The file to commit.")  # fmt: skip
@pass_app
def export(app: App, since: int, until: int, out: Path) -> None:
    """Calls a month, token means, output quantiles, cache shares and cost, by prompt and model.

    Calls are told apart by the tag "prompt" (x-farthing-tags: prompt=ID); where they carry none, by feature.
    """
    if until <= since or since == 0:
        raise click.BadParameter("a baseline needs a period, such as --since 30d", param_hint="--since")
    with app.ledger() as ledger:
        try:
            found = ci_baseline.export(ledger.entries(since_ms=since), since_ms=since, until_ms=until)
        except ValueError as error:
            raise Failed(str(error)) from error
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    click.echo(f"Wrote the traffic of {len(found.traffic)} prompts to {out}.")
