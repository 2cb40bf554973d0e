"""``farthing cache doctor``: why prompts were not read from the provider's cache, in dollars a month."""

from collections.abc import Iterator
from pathlib import Path

import click

from farthing.cli.calc import rates_of
from farthing.cli.context import App, Failed, format_option, pass_app, show, since_option
from farthing.cli.price import stores
from farthing.core.prefix_cache import ANTHROPIC_5M, OPENAI_AUTO, CacheRule
from farthing.core.types import Exchange
from farthing.core.units import INPUT_CACHE_READ
from farthing.insight.moments import shown
from farthing.insight.render import Format, usd
from farthing.insight.table import Column, Row, Table, share
from farthing.lab.doctor import Doctor, Rates, Report, summarise
from farthing.lab.doctor_trace import Diagnosis, Reading, diagnose, read_trace
from farthing.lab.doctor_ttl import Kept, TtlAdvice
from farthing.lab.replay_log import in_order

MONTH_MS = 30 * 86_400_000
_PUSD_PER_NUSD = 1_000


@click.command()
@since_option("30d")
@click.option(
    "--trace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A JSON Lines trace with hash_ids instead of this installation's traffic log.",
)
@click.option("--model", "models", multiple=True, help="With --trace: price it as this model; repeatable.")
@format_option()
@pass_app
def doctor(app: App, since: int, trace: Path | None, models: tuple[str, ...], form: Format) -> None:
    """What the provider's prompt cache could have saved, and why it did not.

    Reads salted hashes of the traffic log, never text. --trace examines a public trace of prefix blocks at the prices
    of the models given (default: one of Anthropic's and one of OpenAI's).
    """
    if trace is not None:
        try:
            found = diagnose(read_trace(trace))
        except ValueError as error:
            raise Failed(f"{error}.") from None
        show(_trace_table(app, trace, found, models or ("claude-sonnet-4-5", "gpt-4o")), form)
        return
    rates = RatesOf(app)
    doctor_ = Doctor(rates, rates.rule, marks_needed=rates.needs_marks)
    span = _Span()
    advice = TtlAdvice(rates, rates.needs_marks)
    with app.ledger() as ledger:
        report = summarise(doctor_.examine(advice.watch(in_order(span.over(ledger.exchanges(since_ms=since))))))
    if not report.requests:
        raise Failed(f"The traffic log has no answered request with a prompt since {shown(since)} UTC.")
    show(_table(report, since, span.days(app.now_ms()), advice.kept()), form)


class _Span:
    """The time that the log covers."""

    def __init__(self) -> None:
        self._first: int | None = None

    def over(self, exchanges: Iterator[Exchange]) -> Iterator[Exchange]:
        for exchange in exchanges:
            if self._first is None or exchange.received_at_ms < self._first:
                self._first = exchange.received_at_ms
            yield exchange

    def days(self, now_ms: int) -> float:
        """At least an hour: a minute's traffic says nothing about a month."""
        return max(1 / 24, (now_ms - (self._first or now_ms)) / 86_400_000)


class RatesOf:
    """Rates and cache rules of the price book's models, by the provider they were asked at."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._book = stores(app).price_book(app.settings).book
        self._settings = {one.name: one for one in app.settings.providers}
        self._memo: dict[tuple[str, str], Rates | None] = {}

    def __call__(self, provider: str, model: str) -> Rates | None:
        key = (provider, model)
        if key not in self._memo:
            self._memo[key] = self._find(provider, model)
        return self._memo[key]

    def rule(self, provider: str, model: str) -> CacheRule:
        """The cache rule of a provider's family."""
        return ANTHROPIC_5M if self.needs_marks(provider) else OPENAI_AUTO

    def needs_marks(self, provider: str) -> bool:
        """Anthropic caches up to marks that the caller sets."""
        known = self._settings.get(provider)
        return known is not None and known.kind == "anthropic"

    def _find(self, provider: str, model: str) -> Rates | None:
        known = self._settings.get(provider)
        owner = (known.price_as or known.name) if known is not None else provider
        resolved = self._book.resolve(owner, model)
        if resolved is None:
            return None
        rates = self._book.sheet(resolved, {}, self._app.now_ms()).rates
        if "input" not in rates:
            return None
        read = rates.get(INPUT_CACHE_READ)
        return Rates(input=rates["input"].steps[0][1], read=read.steps[0][1] if read is not None else None)


def _table(report: Report, since: int, days: float, kept: tuple[Kept, ...]) -> Table:
    rows = tuple(
        (
            one.cause,
            one.requests,
            one.tokens,
            one.nusd if one.requests > one.unpriced else None,
            round(one.nusd * 30 / days) if one.requests > one.unpriced else None,
            one.where,
            one.example,
            one.advice,
        )
        for one in report.findings
    )
    unpriced = sum(one.unpriced for one in report.findings)
    notes = [
        f"Read from the cache: {report.read_share:.1%} of {report.input_tokens:,} input tokens; "
        f"{report.possible_share:.1%} could have been.",
        f"A month is 30 days at the rate of the last {days:.1f}. What writing costs is not taken off.",
    ]
    if kept:
        each = ", ".join(f"{one.rule.name} {usd(round(one.saved_nusd * 30 / days))}" for one in kept)
        best = max(kept, key=lambda one: one.saved_nusd)
        pays = best.rule.name if best.saved_nusd > 0 else "none"
        notes.append(f"Time to live that pays where prompts are marked: {pays} (a month, net of writes: {each}).")
    if unpriced:
        notes.append(f"{unpriced} misses are of models without a price; they are in no sum.")
    return Table(
        title=f"Prompt cache since {shown(since)} UTC: {report.requests} requests",
        columns=(
            Column(name="cause", title="cause"),
            Column(name="requests", title="requests", kind="int"),
            Column(name="tokens", title="tokens missed", kind="int"),
            Column(name="usd", title="missed", kind="usd", unknown="unpriced"),
            Column(name="usd_per_month", title="per month", kind="usd", unknown="unpriced"),
            Column(name="where", title="where"),
            Column(name="example", title="example"),
            Column(name="advice", title="what to do"),
        ),
        rows=rows,
        notes=tuple(notes),
    )


def _trace_table(app: App, path: Path, found: Diagnosis, models: tuple[str, ...]) -> Table:
    rows: list[Row] = []
    for model in models:
        rate = rates_of(app, model)
        claude = rate.cache_write_1h is not None
        readings = [one for one in found.readings if (one.rule is not OPENAI_AUTO) == claude]
        rows.append((model, "none", None, None, _cost(found.tokens * 10_000, rate.input), 0, None))
        best = min(readings, key=lambda one: one.cost_bp)
        for one in readings:
            rows.append(_reading_row(model, one, rate.input, rate.cache_read, best))
    return Table(
        title=f"{path.name}: {found.prompts} prompts, {found.tokens:,} input tokens",
        columns=(
            Column(name="model", title="priced as"),
            Column(name="ttl", title="cache"),
            Column(name="read", title="read", kind="percent"),
            Column(name="written", title="written", kind="percent"),
            Column(name="input_cost", title="input cost", kind="usd"),
            Column(name="saved", title="saves", kind="usd"),
            Column(name="saved_share", title="of input", kind="percent"),
        ),
        rows=tuple(rows),
        notes=(
            f"{found.cacheable / found.tokens:.1%} of all input repeats a prefix that an earlier prompt had, "
            "however long ago: no cache can read more.",
            "A negative saving is a cache that costs more than it saves: do not mark prompts for it.",
            f"Cheapest of all rules at their own prices: {', '.join(_best(found, models, app))}.",
        ),
    )  # fmt: skip


def _reading_row(
    model: str, one: Reading, input_rate: float, read_rate: float | None, best: Reading
) -> tuple[str, str, int | None, int | None, int, int, int | None]:
    read_bp = one.rule.read_bp if read_rate is None else round(read_rate / input_rate * 10_000)
    cost = (one.tokens - one.read - one.written) * 10_000 + one.read * read_bp + one.written * one.rule.write_bp
    name = one.rule.name + (" (best)" if one is best and cost < one.plain_bp else "")
    saved = one.plain_bp - cost
    return (
        model,
        name,
        share(one.read, one.tokens),
        share(one.written, one.tokens),
        _cost(cost, input_rate),
        _cost(saved, input_rate),
        share(saved, one.plain_bp),
    )


def _best(found: Diagnosis, models: tuple[str, ...], app: App) -> Iterator[str]:
    for model in models:
        claude = rates_of(app, model).cache_write_1h is not None
        readings = [one for one in found.readings if (one.rule is not OPENAI_AUTO) == claude]
        best = min(readings, key=lambda one: one.cost_bp)
        yield f"{model}: {best.rule.name if best.saved_bp > 0 else 'none'}"


def _cost(basis_points: int, usd_per_million: float) -> int:
    """Nano-USD of so many basis points of an input token's price."""
    pusd = round(usd_per_million * 1_000_000)
    return basis_points * pusd // 10_000 // _PUSD_PER_NUSD
