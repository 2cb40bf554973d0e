"""``farthing outcomes``: what calls were good for, reported from a file."""

from pathlib import Path

import click

from farthing.cli.context import App, Failed, closed, format_option, pass_app, show, since_option
from farthing.cli.practice import stores_of
from farthing.insight.moments import shown
from farthing.insight.outcome_rows import read_rows
from farthing.insight.render import Format
from farthing.insight.table import Column, Table
from farthing.ports.outcomes import Outcome

_LISTED = 20


@click.group()
def outcomes() -> None:
    """Outcomes: what calls were good for. Programs report them to POST /api/v1/outcomes."""


@outcomes.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Read everything, keep nothing.")
@pass_app
def import_(app: App, file: Path, dry_run: bool) -> None:
    """Take outcomes from FILE (.csv with a header, or .jsonl), all of it or nothing.

    Columns: id, kind, at, session, request_id, value_usd, success. The same id again changes nothing.
    """
    found, bad = _read(file, app.now_ms())
    for line in bad[:_LISTED]:
        click.echo(line, err=True)
    if bad:
        raise Failed(f"{len(bad):,} rows cannot be read: nothing was taken.")
    if dry_run:
        click.echo(f"{len(found):,} outcomes can be read; dry run, nothing was taken.")
        return
    with closed(stores_of(app).open_practice(app.settings)) as practice:
        new, seen = practice.add(found)
    click.echo(f"Took {new:,} outcomes; {seen:,} were there already.")


@outcomes.command()
@since_option("30d")
@click.option("--kind", default="", help="Only this kind.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many, newest first.")
@format_option()
@pass_app
def ls(app: App, since: int, kind: str, limit: int, form: Format) -> None:
    """Outcomes that were reported."""
    with closed(stores_of(app).open_practice(app.settings)) as practice:
        found = practice.all(kind=kind, since_ms=since)
    rows = tuple(
        (
            shown(one.at_ms), one.kind, one.session or one.request_id, one.value_nusd,
            "yes" if one.success else "no", one.id,
        )
        for one in reversed(found[-limit:])
    )  # fmt: skip
    columns = (
        Column(name="at", title="at (UTC)"),
        Column(name="kind", title="kind"),
        Column(name="of", title="session or request"),
        Column(name="value", title="value", kind="usd", unknown="not said"),
        Column(name="success", title="success"),
        Column(name="id", title="id"),
    )
    notes = (f"{len(found):,} in all.",)
    show(Table(title="Outcomes", columns=columns, rows=rows, notes=notes), form)


def _read(file: Path, now_ms: int) -> tuple[list[Outcome], list[str]]:
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        return [], [f"{file.name} is not UTF-8: {error}"]
    return read_rows(text, jsonl=file.suffix in (".jsonl", ".ndjson"), now_ms=now_ms)
