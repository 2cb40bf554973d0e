"""Importing a trace into the books: rows to entries and exchanges, priced at a chosen instant, booked all or none."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from farthing.core.money import PUSD_PER_NUSD, Nusd
from farthing.core.types import (
    AttemptFact,
    Charge,
    Decision,
    Exchange,
    LedgerEntry,
    PriceState,
    PromptView,
    Scope,
    Target,
    Usage,
    UsagePart,
)
from farthing.core.units import INPUT, INPUT_CACHE_READ, OUTPUT
from farthing.lab.traces import Source, TraceRow
from farthing.lab.traces_cells import BadRow
from farthing.ports.books import Importer
from farthing.ports.prices import Prices

WEB_SEARCH = "web_search"
INPUT_AUDIO, OUTPUT_AUDIO = "input_audio", "output_audio"
BYTES_PER_TOKEN = 4
"""Traces know tokens, exchanges count bytes: the assumed ratio gives both the body's size and the block's."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How rows become entries."""

    source: Source
    model: str
    """The model for rows that name none."""
    provider: str
    price_as: str
    scope: Scope
    priced_at_ms: int | None
    """The instant whose prices apply; None: each row's own time."""
    now_ms: int
    targets: dict[tuple[str, str], Target] = {}
    """Who served a row, by (provider, model) as it names them."""
    stated: bool = False
    """Book what the source says a row cost, with the book's own figure beside it."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What an import did, or would do."""

    rows: int
    bad: tuple[BadRow, ...]
    new: int = 0
    already_there: int = 0
    amount: Nusd = Nusd(0)
    """Of the rows with a price, whether they were already there or not."""
    unpriced: int = 0
    unpriced_reasons: tuple[str, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    calls: int = 0
    """Calls that the rows stand for; usage reports sum many in one."""
    stated: Nusd | None = None
    """What the source itself says that the rows cost; None: it does not say."""
    unstated: int = 0
    """Rows of a source that states costs, without one."""
    twice: int = 0
    """Rows left out because the file has their id already."""
    renamed: int = 0
    """Of the rows already there: those that the books have under another id."""


class Batch:
    """The understood rows of one file under one plan. Entries and exchanges are made as they are asked for.

    A record that the file holds twice under one id counts once: the first stands.
    """

    def __init__(self, rows: Sequence[TraceRow], bad: Sequence[BadRow], plan: Plan, prices: Prices) -> None:
        self._rows = tuple({row.id: row for row in reversed(rows)}.values())[::-1]
        self._twice = len(rows) - len(self._rows)
        self._bad = tuple(bad)
        self._plan = plan
        self._prices = prices
        self._looked: Summary | None = None

    def entries(self) -> Iterator[LedgerEntry]:
        """One entry per row, in file order."""
        return (self._entry(row, self._charge(row)) for row in self._rows)

    def exchanges(self) -> Iterator[Exchange]:
        """One exchange per row, in file order: what replay reads."""
        return (self._exchange(row, self._charge(row)) for row in self._rows)

    def look(self) -> Summary:
        """What would be booked; books nothing."""
        if self._looked is None:
            self._looked = self._sum()
        return self._looked

    def book(self, importer: Importer, *, known: frozenset[str] = frozenset()) -> Summary:
        """Books everything in one transaction; rows that are already there stay as they are.

        ``known``: ids of rows that the books have under other ones.
        """
        entries = (one for one in self.entries() if one.id not in known)
        exchanges = (one for one in self.exchanges() if one.request_id not in known)
        new, already_there = importer.import_batch(entries, exchanges)
        there = already_there + len(known)
        return msgspec.structs.replace(self.look(), new=new, already_there=there, renamed=len(known))

    def _sum(self) -> Summary:
        amount, unpriced, reasons = 0, 0, set()
        for row in self._rows:
            charge = self._charge(row)
            if charge.total is None:
                unpriced += 1
                reasons.add(charge.reason or "no price")
            else:
                amount += charge.total
        times = [row.at_ms for row in self._rows]
        known = [row.stated_nusd for row in self._rows if row.stated_nusd is not None]
        return Summary(
            rows=len(self._rows),
            bad=self._bad,
            amount=Nusd(amount),
            unpriced=unpriced,
            unpriced_reasons=tuple(sorted(reasons)),
            input_tokens=sum(row.input_tokens for row in self._rows),
            output_tokens=sum(row.output_tokens for row in self._rows),
            first_ms=min(times, default=None),
            last_ms=max(times, default=None),
            calls=sum(row.calls for row in self._rows),
            stated=Nusd(sum(known)) if known else None,
            unstated=len(self._rows) - len(known),
            twice=self._twice,
        )

    def _charge(self, row: TraceRow) -> Charge:
        at_ms = row.at_ms if self._plan.priced_at_ms is None else self._plan.priced_at_ms
        charge = self._prices.charge(_usage(row), self._target(row), at_ms=at_ms)
        if not self._plan.stated or row.stated_nusd is None:
            return charge
        state: PriceState = "priced" if row.stated_nusd else "free"
        return msgspec.structs.replace(
            charge, total=Nusd(row.stated_nusd), computed=charge.total, state=state, reason=""
        )

    def _usage(self, row: TraceRow) -> Usage:
        """What was booked as it stands says so: repricing leaves it, and replay takes it for what the call cost."""
        if not self._plan.stated or row.stated_nusd is None:
            return _usage(row)
        return msgspec.structs.replace(_usage(row), stated_pusd=row.stated_nusd * PUSD_PER_NUSD)

    def _target(self, row: TraceRow) -> Target:
        named = self._plan.targets.get((row.provider, row.model))
        if named is not None:
            return named
        return Target(provider=self._plan.provider, price_as=self._plan.price_as, model=row.model or self._plan.model)

    def _entry(self, row: TraceRow, charge: Charge) -> LedgerEntry:
        target = self._target(row)
        return LedgerEntry(
            id=row.id,
            request_id=row.id,
            attempt=1,
            received_at_ms=row.at_ms,
            booked_at_ms=self._plan.now_ms,
            scope=scope_of(row, self._plan.scope),
            dialect="openai",
            endpoint="chat",
            provider=target.provider,
            price_as=target.price_as,
            model_requested=target.model,
            model=target.model,
            usage=self._usage(row),
            charge=charge,
            baseline=charge.total,
            decisions=self._decisions(row),
            status=500 if row.failed else 200,
            error="upstream_error" if row.failed else "",
            latency_ms=row.latency_ms,
        )

    def _exchange(self, row: TraceRow, charge: Charge) -> Exchange:
        target = self._target(row)
        body_bytes = row.input_tokens * BYTES_PER_TOKEN
        return Exchange(
            request_id=row.id,
            received_at_ms=row.at_ms,
            scope=scope_of(row, self._plan.scope),
            dialect="openai",
            view=PromptView(endpoint="chat", model=target.model, body_bytes=body_bytes),
            outcome="failed" if row.failed else "answered",
            status=500 if row.failed else 200,
            error="upstream_error" if row.failed else "",
            blocks=row.blocks,
            block_bytes=(self._plan.source.block_tokens or 256) * BYTES_PER_TOKEN,
            attempts=(
                AttemptFact(
                    attempt=1,
                    provider=target.provider,
                    model=target.model,
                    status=200,  # it gave an answer that was billed: what failed afterwards is the request
                    started_at_ms=row.at_ms,
                    latency_ms=0,
                    entry_id=row.id,
                ),
            ),
            usage=self._usage(row),
            amount=charge.total,
            decisions=self._decisions(row),
        )

    def _decisions(self, row: TraceRow) -> tuple[Decision, ...]:
        priced = "row" if self._plan.priced_at_ms is None else str(self._plan.priced_at_ms)
        evidence = (
            ("source", self._plan.source.name),
            ("line", str(row.line)),
            ("priced_at_ms", priced),
            *((("calls", str(row.calls)),) if row.calls != 1 else ()),
        )
        return (Decision(stage="import", action="book", reason="imported", evidence=evidence),)


def gather(found: Iterable[TraceRow | BadRow]) -> tuple[list[TraceRow], list[BadRow]]:
    """Rows and bad rows apart, in file order."""
    rows: list[TraceRow] = []
    bad: list[BadRow] = []
    for one in found:
        if isinstance(one, TraceRow):
            rows.append(one)
        else:
            bad.append(one)
    return rows, bad


def scope_of(row: TraceRow, base: Scope) -> Scope:
    """The scope given for the whole file, with what the row itself says on top."""
    if not row.labels:
        return base
    tags = dict(base.tags) | {name[4:]: value for name, value in row.labels if name.startswith("tag:")}
    said = {name: value for name, value in row.labels if not name.startswith("tag:")}
    return msgspec.structs.replace(base, **said, tags=tuple(sorted(tags.items())))


def _usage(row: TraceRow) -> Usage:
    lines = (
        (INPUT, row.input_tokens - row.cached_tokens - row.audio_input - sum(count for _, count in row.written)),
        (INPUT_AUDIO, row.audio_input),
        (INPUT_CACHE_READ, row.cached_tokens),
        *row.written,
        (OUTPUT, row.output_tokens - row.audio_output),
        (OUTPUT_AUDIO, row.audio_output),
        (WEB_SEARCH, row.searches),
    )
    basis = row.tier_basis or row.input_tokens // max(1, row.calls)
    part = UsagePart(lines=tuple(line for line in lines if line[1]), tier_basis=basis)
    tier = "" if row.tier in ("standard", "default") else row.tier
    return Usage(parts=(part,), source="reported", finish_reason="stop", service_tier=tier, facets=row.facets)
