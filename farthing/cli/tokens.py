"""``farthing tokens``: how many tokens a text has, how that was counted, and how wrong it may be."""

import sys
from pathlib import Path

import click

from farthing.cli.context import App, pass_app


@click.command()
@click.argument("text", required=False)
@click.option("--model", default="gpt-4o", show_default=True, help="The model that would read it.")
@click.option(
    "--file", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Count a file instead."
)
@pass_app
def tokens(app: App, text: str | None, model: str, path: Path | None) -> None:
    """Count TEXT (or standard input) for a model: tokens, upper bound, method, expected error."""
    if path is not None:
        data = path.read_bytes()
    elif text is not None:
        data = text.encode("utf-8", "replace")
    else:
        data = sys.stdin.buffer.read()
    counted = app.stores.tokenizer(app.settings).count(data, model=model)
    error = "not measured" if counted.error is None else "exact" if counted.error == 0 else f"±{counted.error:.1%}"
    click.echo(f"{counted.tokens} tokens (at most {counted.bound}), {counted.method}, error: {error}")
