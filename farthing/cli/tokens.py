"""``farthing tokens``: how many tokens a text has, how that was counted, and how wrong it may be."""

import json
import sys
from pathlib import Path

import click

from farthing.cli.context import App, format_option, pass_app
from farthing.insight.render import Format


@click.command()
@click.argument("text", metavar="TEXT|FILE", required=False)
@click.option("--model", default="gpt-4o", show_default=True, help="The model that would read it.")
@click.option(
    "--file", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Count a file instead."
)
@click.option("--text", "literal", is_flag=True, help="What is given is the text, also where a file is called so.")
@format_option("table", "json")
@pass_app
def tokens(app: App, text: str | None, model: str, path: Path | None, literal: bool, form: Format) -> None:
    """Count a TEXT, a FILE or standard input for a model: tokens, upper bound, method, expected error.

    What is given is a file where one is called so, else the text itself.
    """
    if path is None and text is not None and not literal and _is_file(text):
        path = Path(text)
    if path is not None:
        data = path.read_bytes()
    elif text is not None:
        data = text.encode("utf-8", "replace")
    else:
        data = sys.stdin.buffer.read()
    counted = app.stores.tokenizer(app.settings).count(data, model=model)
    error = "not measured" if counted.error is None else "exact" if counted.error == 0 else f"±{counted.error:.1%}"
    if form == "json":
        said = {"tokens": counted.tokens, "bound": counted.bound, "method": counted.method, "error": counted.error,
                "model": model, "file": "" if path is None else str(path)}  # fmt: skip
        click.echo(json.dumps(said))
        return
    of = f" in {path}" if path is not None else ""
    click.echo(f"{counted.tokens} tokens{of} (at most {counted.bound}), {counted.method}, error: {error}")


def _is_file(text: str) -> bool:
    """A file is called so; a text that no file can be called is none."""
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False
