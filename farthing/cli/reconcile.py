"""``farthing reconcile``: a provider's bill beside the ledger, and a cause for every difference."""

from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Protocol, cast

import click

from farthing.cli.context import App, Failed, assignments, closed, format_option, moment, pass_app, show
from farthing.cli.report import check_dimension
from farthing.config import Settings
from farthing.core.bill import Bill, Correctable, Reconciliation, unit_of
from farthing.core.money import Nusd
from farthing.core.price_book import PriceBook
from farthing.core.repricing import BILLED_STAGE, correction
from farthing.core.types import Charge, ChargeLine, Decision, LedgerEntry
from farthing.insight.billed import Kind, compared
from farthing.insight.invoices import DAY_MS, Booked, Where
from farthing.insight.moments import EXAMPLES, shown
from farthing.insight.render import Format, usd
from farthing.insight.reports import reconcile as report


class Priced(Protocol):
    """Prices over a book."""

    @property
    def book(self) -> PriceBook:
        """The book itself."""
        ...


class Reports(Protocol):
    """Where bills come from."""

    def from_files(
        self, kind: Kind, files: tuple[Path, ...], *, since_ms: int, until_ms: int, columns: Mapping[str, str]
    ) -> Bill: ...

    def fetch(self, kind: Kind, url: str, key: str, *, since_ms: int, until_ms: int) -> Bill: ...


class ReconcileStores(Protocol):
    """What this command needs of ``farthing.bootstrap`` beyond the common stores."""

    def price_book(self, settings: Settings) -> Priced: ...

    def provider_reports(self, settings: Settings) -> Reports: ...

    def admin_key(self, name: str) -> str: ...


def tolerance(ctx: click.Context, param: click.Parameter | None, value: str) -> Fraction:
    """``0.5`` or ``0.5%`` as a share; a callback."""
    try:
        percent = Decimal(value.strip().removesuffix("%").strip())
        if not percent.is_finite() or percent < 0:
            raise InvalidOperation
    except InvalidOperation as error:
        raise click.BadParameter(f'"{value}" is not a percentage', ctx=ctx, param=param) from error
    return Fraction(percent) / 100


@click.command()
@click.option(
    "--provider", "kind", type=click.Choice(["openai", "anthropic", "csv"]), required=True, help="Whose bill."
)
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Saved answers of the report APIs, or CSV; repeatable. Else the API is asked.",
)
@click.option("--url", default="", help="The report API, if not the provider's own.")
@click.option("--admin-key-env", "key_env", metavar="NAME", help="Environment variable that holds the admin key.")
@click.option("--since", callback=moment, required=True, help=f"From the start of this UTC day: {EXAMPLES}.")
@click.option("--until", callback=moment, default="today", show_default=True, help="Up to the start of this UTC day.")
@click.option(
    "--map", "columns", multiple=True, callback=assignments, metavar="FIELD=COLUMN", help="csv: which column is what."
)
@click.option(
    "--gateway-key", "keys", multiple=True, metavar="ID", help="The provider's id of a key the gateway uses."
)
@click.option("--where", "where", multiple=True, callback=assignments, help="Only entries with provider=azure, say.")
@click.option("--midnight", type=click.IntRange(0, 720), default=10, show_default=True, metavar="MINUTES",
              help="Calls this close to midnight may be billed on the neighbouring day.")  # fmt: skip
@click.option("--tolerance", callback=tolerance, default="0.5", show_default=True, metavar="PERCENT",
              help="The largest unnamed share of the bill that is no finding.")  # fmt: skip
@click.option("--detail", is_flag=True, help="Every part of the gap: by cause, day, model and token class.")
@click.option(
    "--correct", is_flag=True, help="Book what the provider billed for calls that were booked on an estimate."
)
@format_option()
@pass_app
def reconcile(
    app: App,
    kind: Kind,
    files: tuple[Path, ...],
    url: str,
    key_env: str | None,
    since: int,
    until: int,
    columns: Where,
    keys: tuple[str, ...],
    where: Where,
    midnight: int,
    tolerance: Fraction,
    detail: bool,
    correct: bool,
    form: Format,
) -> None:
    """A provider's bill beside the ledger, by UTC day, model and token class: quantities first, then money.

    Every difference gets a cause or is counted as unnamed. Exit code 1 when the unnamed part of the bill is larger
    than the tolerance.
    """
    for name, _ in where:
        check_dimension(name, "--where", time=False)
    since, until = since - since % DAY_MS, until - until % DAY_MS
    if until <= since:
        raise click.BadParameter("leaves no whole UTC day", param_hint="--until")
    stores = cast("ReconcileStores", app.stores)
    raw = read_bill(app, kind, files, url, key_env, since, until, dict(columns))
    if not raw.usage and not raw.costs:
        raise Failed(f"The bill has nothing between {shown(since)} and {shown(until)} UTC.")
    book = stores.price_book(app.settings).book
    with app.ledger() as ledger:
        both = compared(
            raw,
            ledger,
            book,
            kind,
            since_ms=since,
            until_ms=until,
            where=where,
            midnight_ms=midnight * 60_000,
            gateway_keys=frozenset(keys),
        )
    found, estimated = both.found, both.estimated
    notes = (book_corrections(app, found, estimated, both.ref),) if correct else ()
    title = f"{report.TITLE} with {kind}, {shown(since)} to {shown(until)} UTC"
    table = (
        report.detail(found, title=title, notes=notes)
        if detail
        else report.build(found, provider=kind, title=title, notes=notes)
    )
    show(table, form)
    unnamed = report.Sums(found).unnamed()
    if unnamed > tolerance:
        click.echo(
            f"Unnamed: {_percent(unnamed)} of the bill, more than the tolerated {_percent(tolerance)}.", err=True
        )
        raise SystemExit(1)


def read_bill(
    app: App,
    kind: Kind,
    files: tuple[Path, ...],
    url: str,
    key_env: str | None,
    since: int,
    until: int,
    columns: Mapping[str, str],
) -> Bill:
    """The bill from files when there are any, else from the API. Raises ``UsageError``."""
    stores = cast("ReconcileStores", app.stores)
    if files:
        return stores.provider_reports(app.settings).from_files(
            kind, files, since_ms=since, until_ms=until, columns=columns
        )
    if kind == "csv":
        raise click.UsageError("--provider csv needs --file.")
    if key_env is None:
        raise click.UsageError("Give --file, or --admin-key-env NAME to ask the provider's report API.")
    key = stores.admin_key(key_env)
    return stores.provider_reports(app.settings).fetch(kind, url, key, since_ms=since, until_ms=until)


def book_corrections(app: App, found: Reconciliation, estimated: Mapping[str, Booked], ref: str) -> str:
    """Books the adjustments of every unambiguous place; says what was done."""
    entries = [entry for one in found.correctable for entry in corrections(one, estimated, ref, now_ms=app.now_ms())]
    with closed(app.stores.open_importer(app.settings)) as importer:
        new, _ = importer.import_batch(entries, [])
    amount = usd(sum(entry.charge.total or 0 for entry in entries))
    calls = sum(len(one.calls) for one in found.correctable)
    return (
        f"Corrected: {new:,} adjustments, {amount} in all, for {calls:,} of {len(estimated):,} estimated calls; the "
        "others share their day and model with a difference of another cause. Counters of budgets are unchanged."
    )


def corrections(one: Correctable, estimated: Mapping[str, Booked], ref: str, *, now_ms: int) -> Iterator[LedgerEntry]:
    """What brings the estimated calls of one place to their share of the bill."""
    for call, share in zip(one.calls, one.shares(), strict=True):
        before = dict(call.amounts)
        names = sorted(share.keys() | before.keys())
        changes = [(name, share.get(name, 0) - before.get(name, 0)) for name in names]
        lines = tuple(
            ChargeLine(unit=unit_of(name), quantity=0, price=None, amount=Nusd(change), row=f"bill {ref}")
            for name, change in changes
            if change
        )
        if not lines and call.total is not None:
            continue
        held = estimated[call.id]
        total = Nusd(sum(change for _, change in changes))
        after = sum(share.values())
        evidence = (("bill", ref), ("day", one.place.day), ("model", one.place.model), ("billed_nusd", str(after)))
        yield correction(
            held.entry,
            held.corrections,
            Charge(lines=lines, total=total, state="priced", reason="billed", price_ref=held.entry.charge.price_ref),
            Decision(stage=BILLED_STAGE, action="adjust", reason="billed", evidence=evidence),
            (BILLED_STAGE, str(after)),
            now_ms=now_ms,
        )


def _percent(part: Fraction) -> str:
    hundredths = round(part * 10_000)
    return f"{hundredths // 100}.{hundredths % 100:02d} %"
