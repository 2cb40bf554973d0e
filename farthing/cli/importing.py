"""``farthing import``: a trace of elsewhere into the books, all of it or nothing."""

import codecs
import csv
import gzip
import io
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, TextIO, cast

import click
import msgspec

from farthing.cli.context import (
    App,
    Failed,
    assignments,
    closed,
    format_option,
    moment,
    pass_app,
    scope_of,
    scope_options,
    show,
)
from farthing.cli.models import sells
from farthing.config.checks import serving
from farthing.core.errors import StoreUnavailable
from farthing.core.types import Exchange, LedgerEntry, Scope
from farthing.insight.moments import iso, shown
from farthing.insight.render import Format
from farthing.insight.table import Column, Money, Row, Table
from farthing.lab.import_again import again
from farthing.lab.import_targets import target_of
from farthing.lab.importer import Batch, Plan, Summary, gather
from farthing.lab.traces import FIELDS, SOURCES, Source, TraceRow, read_rows
from farthing.lab.traces_cells import BadRow
from farthing.ports.books import Importer

_LISTED_BAD: Final = 20
_STEP: Final = 1000

Pairs = tuple[tuple[str, str], ...]


@click.command("import")
@click.argument("source", type=click.Choice(list(SOURCES)))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--as", "model", default="", help="The model to price the rows as (where they name none).")
@click.option("--provider", default="", help="The provider to price them at; else the one that serves the model.")
@click.option("--map", "mapped", multiple=True, callback=assignments, help=f"COLUMN=FIELD; {', '.join(FIELDS)}.")
@click.option("--start", help="The instant of time 0, for sources with relative times: 2026-11-21.")
@click.option(
    "--price-at",
    default="now",
    show_default=True,
    help='Prices of which instant: "now", "trace" (each row\'s own time; models may not have existed), a date, or '
    '"source": the cost that the rows state, which is what "now" means for tools that state one.',
)
@scope_options
@click.option("--dry-run", is_flag=True, help="Read and price everything, book nothing.")
@click.option("--strict", is_flag=True, help="Book nothing when any row is bad.")
@click.option("--allow-unpriced", is_flag=True, help="Book rows whose price is unknown, as unpriced.")
@click.option("--allow-overlap", is_flag=True, help="Book sums of a period that the books have other sums of.")
@click.option(
    "--encoding", metavar="NAME", help="How the file writes letters, as cp1252. [default: UTF-8, or its BOM's]"
)
@click.option("--rejects", type=click.Path(dir_okay=False, path_type=Path), help="Write every bad row there, as CSV.")
@format_option()
@pass_app
def import_(
    app: App,
    /,
    source: str,
    file: Path,
    model: str,
    provider: str,
    mapped: Pairs,
    start: str | None,
    price_at: str,
    tags: Pairs,
    dry_run: bool,
    strict: bool,
    allow_unpriced: bool,
    allow_overlap: bool,
    encoding: str | None,
    rejects: Path | None,
    form: Format,
    **said: str,
) -> None:
    """Book the trace FILE, of the kind SOURCE, all of it in one transaction.

    The same file again books nothing twice. Rows that cannot be read are left out, counted and named.
    """
    kind = _columns(SOURCES[source], mapped)
    rows, bad = _read(file, kind, start, encoding or _encoding(file))
    if rejects is not None:
        _write_rejects(rejects, bad)
    scope = scope_of(said, tags)
    plan = _plan(app, kind, rows, scope, model=model, provider=provider, price_at=price_at)
    batch = Batch(rows, bad, plan, app.stores.price_book(app.settings))
    summary = batch.look()
    refusal = _refusal(summary, plan, strict=strict, allow_unpriced=allow_unpriced)
    if refusal:
        _say_bad(bad)
        raise Failed(refusal)
    if dry_run:
        # Without books there is nothing to compare with, and a dry run makes none.
        with suppress(StoreUnavailable):
            _again(app, batch, kind, allowed=allow_overlap)
    else:
        with closed(app.stores.open_importer(app.settings)) as importer:
            known = _again(app, batch, kind, allowed=allow_overlap)
            summary = batch.book(_Watched(importer, summary.rows), known=known)
    show(_table(summary, plan, file, dry_run=dry_run), form)
    _say_bad(bad)


def _columns(source: Source, mapped: Pairs) -> Source:
    """The source with the user's map on top."""
    for _, field in mapped:
        if field not in FIELDS and not (field.startswith("tag:") and len(field) > 4):
            raise click.BadParameter(
                f'"{field}" is no field; allowed: {", ".join(FIELDS)}, tag:<name>', param_hint="--map"
            )
    fields = {field for _, field in mapped}
    kept = tuple(pair for pair in source.columns if pair[1] not in fields)
    return msgspec.structs.replace(source, columns=(*kept, *mapped))


def _encoding(file: Path) -> str:
    """What the byte order mark says; UTF-8 where there is none."""
    with _content(file) as content:
        return "utf-16" if content.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8"


def _content(file: Path) -> IO[bytes]:
    """The bytes of a file, unpacked where it is gzipped, whatever it is called."""
    with file.open("rb") as content:
        packed = content.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(file)) if packed else file.open("rb")


def _read(file: Path, source: Source, start: str | None, encoding: str) -> tuple[list[TraceRow], list[BadRow]]:
    if source.relative and start is None:
        raise click.UsageError(f"{source.name} has relative times; say when it begins: --start 2026-11-21")
    start_ms = moment(click.get_current_context(), None, start) if start else None
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise click.BadParameter(
            f'"{encoding[:40]}" is no encoding; utf-8, utf-16, cp1252 …', param_hint="--encoding"
        ) from error
    with io.TextIOWrapper(_content(file), encoding=encoding, errors="replace", newline="") as lines:
        try:
            return gather(read_rows(_watched_lines(lines, file), source, start_ms=start_ms))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise Failed(f"{file} cannot be unpacked ({error}): nothing was booked.") from None


def _watched_lines(lines: Iterable[str], file: Path) -> Iterator[str]:
    with click.progressbar(length=file.stat().st_size, label="reading", file=_terminal()) as bar:
        done = odd = 0
        for number, line in enumerate(lines, 1):
            done += len(line)
            odd += "\N{REPLACEMENT CHARACTER}" in line
            if number % _STEP == 0:
                bar.update(done)
                done = 0
            yield line
        bar.update(done)
    if odd:
        click.echo(f"{odd:,} lines have letters that could not be read and became \N{REPLACEMENT CHARACTER}; "
                   "say how the file writes them: --encoding cp1252", err=True)  # fmt: skip


class _Watched:
    """An importer that shows how far it is."""

    def __init__(self, inner: Importer, rows: int) -> None:
        self._inner = inner
        self._rows = rows

    def import_batch(self, entries: Iterable[LedgerEntry], exchanges: Iterable[Exchange]) -> tuple[int, int]:
        with click.progressbar(entries, length=self._rows, label="booking", file=_terminal()) as bar:
            return self._inner.import_batch(bar, exchanges)


def _terminal() -> TextIO:
    """Where progress is shown: standard error when people watch it, else nowhere."""
    return sys.stderr if sys.stderr.isatty() else io.StringIO()


def _plan(
    app: App, source: Source, rows: list[TraceRow], scope: Scope, *, model: str, provider: str, price_at: str
) -> Plan:
    nameless = next((row for row in rows if not row.model), None)
    if nameless is not None and not model:
        first = "ask for the report grouped by model, or " if source.sums else ""
        raise click.UsageError(
            f"line {nameless.line} names no model; {first}say which prices apply: --as gpt-4o-mini"
        )
    providers = app.settings.providers
    name = model or (rows[0].model if rows else "")
    chosen = next((one for one in providers if one.name == provider), None)
    if not provider and name:
        chosen = next(iter(serving(providers, name)), None)
        if chosen is None:
            raise click.UsageError(f'no configured provider serves "{name}"; name one: --provider openai')
    now_ms, sold = app.now_ms(), sells(app)
    targets = {} if provider else {
        named: target_of(*named, providers, sold)
        for named in {(row.provider, row.model) for row in rows if row.model}
    }  # fmt: skip
    at_ms = None if price_at in ("trace", "source") else moment(click.get_current_context(), None, price_at)
    return Plan(
        source=source,
        model=model,
        provider=chosen.name if chosen else provider,
        price_as=(chosen.price_as or chosen.name) if chosen else provider,
        scope=scope,
        priced_at_ms=at_ms,
        now_ms=now_ms,
        targets=targets,
        stated=price_at == "source" or (source.stated and price_at == "now"),
    )


def _refusal(summary: Summary, plan: Plan, *, strict: bool, allow_unpriced: bool) -> str:
    """Why nothing is booked; empty when it can be."""
    if strict and summary.bad:
        return f"{len(summary.bad):,} bad rows and --strict: nothing was booked."
    if not summary.rows:
        return "No row could be read: nothing was booked."
    if summary.unpriced and not allow_unpriced:
        reasons = ", ".join(summary.unpriced_reasons)
        at = "their own time" if plan.priced_at_ms is None else f"{shown(plan.priced_at_ms)} UTC"
        return (
            f"{summary.unpriced:,} of {summary.rows:,} rows have no known price at {at} ({reasons}): nothing was "
            f'booked. Check "farthing price show {plan.model or "MODEL"}", choose --as, --provider or --price-at, or '
            "book them as unpriced with --allow-unpriced."
        )
    return ""


def _again(app: App, batch: Batch, source: Source, *, allowed: bool) -> frozenset[str]:
    """Ids of rows of a report that the books have under others. Raises ``Failed`` where they have other sums."""
    first_ms = batch.look().first_ms
    if not source.sums or first_ms is None:
        return frozenset()
    with closed(app.stores.open_ledger(app.settings)) as ledger:
        there = again(ledger.entries(since_ms=first_ms), tuple(batch.entries()), source=source.name)
    if not there.grown or allowed:
        return there.same
    one = there.grown[0]
    raise Failed(
        f"{len(there.grown):,} rows are sums of a period that was imported before with other counts (the first: "
        f"{one.model}, {shown(one.received_at_ms)} UTC): a day that was not over then counts twice now. Nothing was "
        "booked. Leave these days out, or book the rows as well with --allow-overlap, as for another organisation."
    )


def _table(summary: Summary, plan: Plan, file: Path, *, dry_run: bool) -> Table:
    rows: list[Row] = [
        ("rows", summary.rows),
        ("bad rows", len(summary.bad)),
        ("booked now", None if dry_run else summary.new),
        ("already there", None if dry_run else summary.already_there),
        ("input tokens", summary.input_tokens),
        ("output tokens", summary.output_tokens),
        ("cost of all rows", Money(summary.amount)),
        ("of them unpriced", summary.unpriced),
        ("cost that the source states", None if summary.stated is None else Money(summary.stated)),
        ("calls", summary.calls),
        ("from (UTC)", None if summary.first_ms is None else shown(summary.first_ms)),
        ("to (UTC)", None if summary.last_ms is None else shown(summary.last_ms)),
    ]
    priced = "each row's own time" if plan.priced_at_ms is None else iso(plan.priced_at_ms)
    at = ", ".join(sorted({one.provider for one in plan.targets.values()})) or plan.provider
    notes = [f"Priced as {plan.model or 'named in the rows'} at {at}, with the prices of {priced}."]
    if summary.already_there:
        notes.append("Rows that were already there stay as they were first booked, whatever was chosen now.")
    if summary.renamed:
        notes.append(f"{summary.renamed:,} of them are there under the id that an earlier version gave them.")
    if summary.twice:
        notes.append(f"{summary.twice:,} rows have the id of an earlier row of the file and count once.")
    if dry_run:
        notes.append("Dry run: nothing was booked.")
    columns = (Column(name="what", title="what"), Column(name="value", title="value", kind="quantity"))
    return Table(title=f"Import of {file.name}", columns=columns, rows=tuple(rows), notes=tuple(notes))


def _say_bad(bad: list[BadRow]) -> None:
    for row in bad[:_LISTED_BAD]:
        click.echo(f"line {row.line}: {row.reason}", err=True)
    if len(bad) > _LISTED_BAD:
        click.echo(f"and {len(bad) - _LISTED_BAD:,} more bad rows; --rejects FILE writes them all", err=True)


def _write_rejects(path: Path, bad: list[BadRow]) -> None:
    with path.open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["line", "reason", "content"])
        writer.writerows((row.line, row.reason, row.content) for row in bad)
