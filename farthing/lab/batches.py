"""Batches of the providers' own batch APIs: what one can cost before it is sent, and its results booked.

Each line of a results file is one answer at batch prices. Its entry is named after provider, batch and the caller's
own id, so that a file read twice, or polled in parts, books every answer once.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal

import msgspec

from farthing.core.money import Nusd
from farthing.core.types import Bounds, LedgerEntry, Scope, Target
from farthing.engine.batch_entries import Origin, entry_of, is_billed
from farthing.engine.batch_entries import entry_id as name_of
from farthing.ports.books import Importer
from farthing.ports.prices import Prices
from farthing.wire.usage.batches import BATCH_TIER, BatchLine

LineReader = Callable[[bytes], BatchLine]
Problem = Literal["no_custom_id", "no_usage"]


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Whose results these are."""

    id: str
    provider: str
    price_as: str
    dialect: Literal["openai", "anthropic"]
    model: str
    """For answers that name none."""
    scope: Scope
    at_ms: int
    """When it was done; decides the prices and the window."""
    now_ms: int
    price_models: dict[str, str] = {}


class Booked(msgspec.Struct, frozen=True, kw_only=True):
    """What a results file came to."""

    lines: int = 0
    free: int = 0
    """Lines that failed, expired or were cancelled: nobody bills them."""
    again: int = 0
    """Lines whose id an earlier line of the file had."""
    bad: tuple[tuple[int, Problem], ...] = ()
    """(line, what it lacks): answers that may be billed and cannot be booked."""
    entries: tuple[LedgerEntry, ...] = ()
    new: int = 0
    already_there: int = 0

    @property
    def nusd(self) -> int:
        """Of the entries with a price, new or not."""
        return sum(one.charge.total or 0 for one in self.entries)

    @property
    def unpriced(self) -> int:
        """Entries without one."""
        return sum(one.charge.total is None for one in self.entries)


def read_results(lines: Iterable[bytes], batch: Batch, read: LineReader, prices: Prices) -> Booked:
    """The entries of a results file, in its order; books nothing."""
    entries: dict[str, LedgerEntry] = {}
    bad: list[tuple[int, Problem]] = []
    count = free = again = 0
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        count += 1
        line = read(raw)
        if not line.custom_id:
            bad.append((number, "no_custom_id"))
        elif not is_billed(line):
            if line.usage.source == "missing":
                bad.append((number, "no_usage"))
            else:
                free += 1
        else:
            entry = _entry(line, batch, prices)
            again += entry.id in entries
            entries.setdefault(entry.id, entry)
    return Booked(lines=count, free=free, again=again, bad=tuple(bad), entries=tuple(entries.values()))


def book(found: Booked, importer: Importer) -> Booked:
    """Books what was read, all of it or nothing; answers that are booked already stay as they are."""
    new, already_there = importer.import_batch(found.entries, ())
    return msgspec.structs.replace(found, new=new, already_there=already_there)


def entry_id(batch: Batch, custom_id: str) -> str:
    """The name of an answer's entry: the same whenever and in whatever file it comes, or whoever books it."""
    return name_of(batch.provider, batch.id, custom_id)


def _entry(line: BatchLine, batch: Batch, prices: Prices) -> LedgerEntry:
    origin = Origin(
        batch=batch.id,
        dialect=batch.dialect,
        endpoint="messages" if batch.dialect == "anthropic" else "chat",
        target=_target(batch, line.usage.model or batch.model),
        scope=batch.scope,
        at_ms=batch.at_ms,
        booked_ms=batch.now_ms,
    )
    return entry_of(line, origin, prices)


def _target(batch: Batch, model: str) -> Target:
    named = batch.price_models.get(model, "")
    return Target(provider=batch.provider, price_as=batch.price_as, model=model, price_model=named)


# -- before it is sent


FAULTS_SHOWN: Final = 20
_OUTSIDE: Final = (b'"file_id"', b'"previous_response_id"', b'"http://', b'"https://', b'"mcp_servers"')
"""Content elsewhere: such a prompt may be as long as the model's window."""


class _Ask(msgspec.Struct):
    model: str = ""
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None


class _Line(msgspec.Struct):
    custom_id: str = ""
    body: msgspec.Raw = msgspec.Raw(b"null")
    params: msgspec.Raw = msgspec.Raw(b"null")


class Ceiling(msgspec.Struct, frozen=True, kw_only=True):
    """The most that a file of requests can cost at batch prices."""

    requests: int
    nusd: Nusd | None
    """None: some request has no known price, or no cap on its answer."""
    uncapped: int
    unpriced: int


def ceiling_of(lines: Iterable[bytes], batch: Batch, prices: Prices, *, output_assumed: int | None) -> Ceiling:
    """The ceiling of a requests file. Raises ``ValueError`` that names the lines that are no request."""
    total = requests = uncapped = unpriced = 0
    faults: list[str] = []
    for number, ask in _asks(lines, output_assumed):
        if isinstance(ask, str):
            faults.append(f"line {number} is no request of a batch: {ask}")
            continue
        model, bounds = ask
        requests += 1
        if not (model or batch.model):
            faults.append(f"line {number} names no model")
            continue
        if not bounds.output_tokens:
            uncapped += 1
            continue
        amount = prices.ceiling(bounds, _target(batch, model or batch.model), at_ms=batch.at_ms)
        unpriced += amount is None
        total += amount or 0
    if faults:
        more = f"; and {len(faults) - FAULTS_SHOWN:,} more" if len(faults) > FAULTS_SHOWN else ""
        raise ValueError(f"{'; '.join(faults[:FAULTS_SHOWN])}{more}")
    known = not uncapped and not unpriced
    return Ceiling(requests=requests, nusd=Nusd(total) if known else None, uncapped=uncapped, unpriced=unpriced)


def _asks(lines: Iterable[bytes], output_assumed: int | None) -> Iterator[tuple[int, tuple[str, Bounds] | str]]:
    """(line, model and bounds, or what is wrong)."""
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        try:
            line = msgspec.json.decode(raw, type=_Line)
            body = bytes(line.params) if bytes(line.params) != b"null" else bytes(line.body)
            ask = msgspec.json.decode(body, type=_Ask)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            yield number, str(error)
            continue
        cap = ask.max_tokens or ask.max_completion_tokens or ask.max_output_tokens or output_assumed or 0
        marks = b'"cache_control"' in body
        bounds = Bounds(
            input_tokens=len(body) + 2_048,
            output_tokens=cap,
            choices=max(1, ask.n or 1),
            images=body.count(b'"image'),
            unbounded=any(name in body for name in _OUTSIDE),
            cache_write=marks,
            cache_ttl_long=marks and b'"1h"' in body,
            service_tier=BATCH_TIER,
        )
        yield number, (ask.model, bounds)
