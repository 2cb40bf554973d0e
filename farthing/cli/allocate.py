"""``farthing allocate``: whose the cost is, by rules that never touch the ledger."""

from pathlib import Path

import click

from farthing.cli.context import App, closed, format_option, pass_app, show, since_option, text_of, until_option
from farthing.cli.practice import me, stores_of
from farthing.cli.report import check_dimension, dimensions
from farthing.config import parse
from farthing.core.allocation import UNALLOCATED, AllocationRules, owner_of
from farthing.core.allocation import allocate as allocate_lines
from farthing.core.types import Totals
from farthing.insight import ownership
from farthing.insight.moments import shown
from farthing.insight.render import Format
from farthing.insight.reports import allocation as report
from farthing.insight.table import Column, Table
from farthing.ports.audit import Changed


@click.group()
def allocate() -> None:
    """Whose the cost is: owners by rules, shared pools, and what nobody claims."""


@allocate.command()
@since_option("30d")
@until_option()
@format_option()
@pass_app
def run(app: App, since: int, until: int, form: Format) -> None:
    """Owners with their direct cost and their parts of shared pools; what no rule claims is the last row, always.

    Reads the ledger and changes nothing in it: other rules can be tried on the past at any time.
    """
    rules = ownership.rules_of(app.settings.allocation)
    query = ownership.query((rules,), since_ms=since, until_ms=until)
    with app.ledger() as ledger:
        owners = allocate_lines(rules, ownership.lines(ledger.totals(query), query.group_by))
    note_rules(app, rules)
    title = f"{report.TITLE}, {shown(since)} to {shown(until)} UTC"
    show(report.build(owners, title=title, version=version_of(rules)), form)


@allocate.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@since_option("30d")
@until_option()
@format_option()
@pass_app
def preview(app: App, file: Path, since: int, until: int, form: Format) -> None:
    """The [allocation] of FILE on the past, beside the rules that apply now."""
    now = ownership.rules_of(app.settings.allocation)
    then = ownership.rules_of(parse(text_of(file), env={"HOME": "/"}, source=str(file)).allocation)
    query = ownership.query((now, then), since_ms=since, until_ms=until)
    with app.ledger() as ledger:
        found = ownership.lines(ledger.totals(query), query.group_by)
    title = f"Preview of {file.name} ({version_of(then)}), {shown(since)} to {shown(until)} UTC"
    show(report.beside(allocate_lines(now, found), allocate_lines(then, found), title=title), form)


@allocate.command()
@since_option("30d")
@until_option()
@click.option("--by", default="key,feature,user", show_default=True, help="What is shown of it.")
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="Only that many rows; 0: all.")
@format_option()
@pass_app
def untagged(app: App, since: int, until: int, by: str, limit: int, form: Format) -> None:
    """Cost without an owner, largest first: what to tag next."""
    groups = dimensions(by)
    for name in groups:
        check_dimension(name, "--by")
    rules = ownership.rules_of(app.settings.allocation)
    query = ownership.query((rules,), since_ms=since, until_ms=until, also=groups)
    with app.ledger() as ledger:
        rows = ledger.totals(query)
    found: dict[tuple[str, ...], list[int]] = {}
    for row, line in zip(rows, ownership.lines(rows, query.group_by), strict=True):
        if ownership.is_pooled(rules, line.values) or owner_of(rules, line.values) != UNALLOCATED:
            continue
        values = dict(zip(query.group_by, row.group, strict=True))
        sums = found.setdefault(tuple(values[name] for name in groups), [0, 0])
        sums[0] += row.amount
        sums[1] += row.requests
    kept = [Totals(group=group, amount=sums[0], requests=sums[1]) for group, sums in found.items()]
    show(report.queue(kept, groups, sum(row.amount for row in rows), limit=limit), form)


@allocate.command()
@format_option()
@pass_app
def rules(app: App, form: Format) -> None:
    """The rules that apply, in their order."""
    found = ownership.rules_of(app.settings.allocation)
    lines = [("rule", rule.owner, _match(rule.match), "first match decides", "") for rule in found.rules]
    lines += [
        ("pool", pool.name, _match(pool.match), pool.basis, ", ".join(f"{name} {part}" for name, part in pool.shares))
        for pool in found.pools
    ]
    names = ("kind", "owner", "match", "basis", "shares")
    columns = tuple(Column(name=name, title=name) for name in names)
    show(Table(title=f"Allocation rules {version_of(found)}", columns=columns, rows=tuple(lines)), form)


def version_of(found: AllocationRules) -> str:
    """Name and content hash."""
    return f"{found.version} {ownership.ref(found)}".strip()


def note_rules(app: App, found: AllocationRules) -> None:
    """Puts a new version of the rules on the audit log."""
    with closed(stores_of(app).open_practice(app.settings)) as practice:
        practice.note(
            Changed(
                at_ms=app.now_ms(), subject="allocation", after=ownership.ref(found), by=me(), detail=found.version
            )
        )


def _match(pairs: tuple[tuple[str, str], ...]) -> str:
    return ", ".join(f"{name}={pattern or '(none)'}" for name, pattern in pairs) or "everything"
