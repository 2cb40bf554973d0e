"""``farthing chargeback``: what each owner is charged for a month."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import click

from farthing.cli.allocate import note_rules, version_of
from farthing.cli.context import App, Failed, closed, pass_app, show
from farthing.cli.export import ExportStores
from farthing.cli.practice import stores_of
from farthing.core.allocation import allocate
from farthing.core.types import LedgerQuery
from farthing.insight import ownership
from farthing.insight.chargeback_files import FOCUS_COLUMNS, focus_rows, page
from farthing.insight.moments import parse_moment
from farthing.insight.ownership import Charged
from farthing.insight.render import Format, render, usd
from farthing.insight.reports import chargeback as report
from farthing.insight.reports.allocation import untagged
from farthing.insight.reports.focus import kind_of

_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
Statements = Mapping[str, Sequence[Charged]]


class _Target(click.ParamType[Path]):
    """A path; a name that ends in a separator is a folder, and made."""

    name = "path"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        if str(value).endswith(("/", os.sep)):
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                self.fail(f"{path}: {error.strerror or error}", param, ctx)
        return path


@click.command()
@click.option("--month", required=True, metavar="YYYY-MM", help="The calendar month, in UTC.")
@click.option("--owner", "wanted", help='Only this owner; "" is what nobody claims.')
@click.option("--format", "form", type=click.Choice(["table", "json", "csv", "md", "html", "focus"]),
              default="table", show_default=True, help="How to write.")  # fmt: skip
@click.option("--out", type=_Target(), help="A file; a folder (DIR/ is made) gets one file per owner.")
@click.option("--from", "source", default="", metavar="SOURCE", help="As of 'farthing report'.")
@pass_app
def chargeback(app: App, month: str, wanted: str | None, form: str, out: Path | None, source: str) -> None:
    """What each owner is charged for a MONTH: direct cost by model, and their parts of shared pools.

    The statements together are the ledger's total of the month, to the nano-dollar; what no rule claims is a
    statement of its own. The ledger is only read.
    """
    since, until = _period(month)
    rules = ownership.rules_of(app.settings.allocation)
    query = ownership.query((rules,), since_ms=since, until_ms=until, also=(ownership.DETAIL,))
    with closed(stores_of(app).open_reports(app.settings, source)) as ledger:
        found = ownership.lines(ledger.totals(query), query.group_by)
        (whole,) = ledger.totals(LedgerQuery(since_ms=since, until_ms=until))
    statements: Statements = ownership.statements(rules, found)
    charged = sum(line.amount for statement in statements.values() for line in statement)
    if charged != whole.amount:
        raise Failed(f"The statements sum to {usd(charged)}, the ledger to {usd(whole.amount)}: nothing was written.")
    note_rules(app, rules)
    if wanted is not None:
        wanted = "" if wanted == "(unallocated)" and wanted not in statements else wanted
        if wanted not in statements:
            names = ", ".join(owner or "(unallocated)" for owner in statements) or "nobody"
            raise Failed(f'Nobody is charged as "{wanted}" in {month}; owners: {names}.')
        statements = {wanted: statements[wanted]}
    notes = (
        untagged(allocate(rules, found)),
        f"Rules {version_of(rules)}; calendar month in UTC.",
        *((f"{month} is not over: these are no final amounts.",) if until > app.now_ms() else ()),
    )
    _write(app, statements, month, (since, until), form, out, notes, ownership.ref(rules))


def _write(
    app: App,
    found: Statements,
    month: str,
    period: tuple[int, int],
    form: str,
    out: Path | None,
    notes: tuple[str, ...],
    ref: str,
) -> None:
    if form == "focus" and out is None:
        raise click.UsageError("FOCUS goes to a file: --out chargeback.csv")
    if out is None:
        table = report.build(found, title=f"{report.TITLE} {month}", notes=notes)
        if form == "html":
            click.echo(page(table), nl=False)
        else:
            show(table, cast("Format", form))
        return
    files = {out: found}
    if out.is_dir():
        files = {out / f"{month}-{_file_name(owner)}.{_suffix(form)}": {owner: found[owner]} for owner in found}
    for path, part in files.items():
        if form == "focus":
            rows = focus_rows(part, since_ms=period[0], until_ms=period[1], rules=ref)
            kinds = [(name, kind_of(name)) for name in FOCUS_COLUMNS]
            cast("ExportStores", app.stores).write_focus(path, kinds, rows)
            continue
        table = report.build(part, title=f"{report.TITLE} {month}", notes=notes)
        text = page(table) if form == "html" else render(table, cast("Format", form)) + "\n"
        path.write_text(text, encoding="utf-8")
    click.echo(f"Wrote {len(files)} {'file' if len(files) == 1 else 'files'} to {out}.")


def _period(month: str) -> tuple[int, int]:
    if not _MONTH.fullmatch(month):
        raise click.BadParameter(f'"{month}" is no month such as 2026-10', param_hint="--month")
    year, number = int(month[:4]), int(month[5:])
    after = f"{year + number // 12:04}-{number % 12 + 1:02}"
    return parse_moment(month, now_ms=0), parse_moment(after, now_ms=0)


def _file_name(owner: str) -> str:
    """Safe on any file system, and still two files for two owners."""
    plain = re.sub(r"[^\w.-]+", "_", owner).strip("._")
    if not owner:
        return "_unallocated"
    return plain if plain == owner else f"{plain}-{hashlib.sha256(owner.encode()).hexdigest()[:8]}"


def _suffix(form: str) -> str:
    return {"focus": "csv", "table": "txt"}.get(form, form)
