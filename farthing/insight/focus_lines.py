"""Ledger entries as lines of cost and usage: what FOCUS rows are made of, before any column has a name.

A line has four amounts in nano-USD. *Billed* is what the ledger says, and the only one that sums to its total.
*Contracted* is what the installed price book computes, *list* what the published prices alone would. *Effective*
equals billed: there are no commitments to amortise.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import msgspec

from farthing.core.bill import allocate
from farthing.core.money import BASIS, PUSD_PER_NUSD, round_half_even
from farthing.core.types import Charge, ChargeLine, LedgerEntry, Scope
from farthing.insight.invoices import DAY_MS, Booked
from farthing.insight.moments import iso

Grain = Literal["day", "entry"]

ListPrices = Callable[[LedgerEntry], Charge]
"""What an entry's usage costs at published prices."""


class Key(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What a line is about; lines of a day with equal keys become one row."""

    start_ms: int
    end_ms: int
    provider: str
    price_as: str
    model: str
    unit: str
    tier: str
    region: str
    scope: tuple[tuple[str, str], ...]
    """(dimension, value) of what was said, then (``tag:<name>``, value)."""
    contracted_price: Fraction | None
    """Nano-USD a unit, multipliers included; None: the amount does not rest on a unit price."""
    list_price: Fraction | None
    row: str
    """The price row."""
    source: str
    correction: bool
    """Corrects a charge of a month that was already over when it was booked."""
    unpriced: bool = False
    entry_id: str = ""
    """Empty where rows are days."""
    request_id: str = ""


class Amounts(msgspec.Struct, kw_only=True):
    """Sums of one row. Mutable: lines are added to it."""

    quantity: int = 0
    billed: int = 0
    contracted: int = 0
    listed: int = 0
    lines: int = 0
    """Roundings in ``contracted`` and ``listed``: each is off by half a nano-dollar at most."""


class FocusLine(msgspec.Struct, frozen=True, kw_only=True):
    """One row to be."""

    key: Key
    amounts: Amounts
    id: str
    """Stable: the same ledger gives the same row the same id in every export."""


class Counts(msgspec.Struct, kw_only=True):
    """What was seen while lines were made."""

    entries: int = 0
    unpriced: int = 0


def lines(
    found: Iterable[Booked], grain: Grain, list_prices: ListPrices, counts: Counts, *, include_unpriced: bool = False
) -> Iterator[FocusLine]:
    """The rows of an export: per entry as they come, or per day sorted by key."""
    pairs = _pairs(found, grain, list_prices, counts, include_unpriced)
    if grain == "entry":
        last, number = "", 0
        for key, amounts in pairs:
            last, number = key.entry_id, number + 1 if key.entry_id == last else 0
            yield FocusLine(key=key, amounts=amounts, id=_id(key, str(number)))
        return
    sums: dict[Key, Amounts] = {}
    for key, amounts in pairs:
        held = sums.setdefault(key, Amounts())
        for name in Amounts.__struct_fields__:
            setattr(held, name, getattr(held, name) + getattr(amounts, name))
    for key in sorted(sums, key=_order):
        held = sums[key]
        if held.quantity or held.billed or held.contracted or held.listed or key.unpriced:
            yield FocusLine(key=key, amounts=held, id=_id(key))


def _order(key: Key) -> tuple[object, ...]:
    return (key.start_ms, key.provider, key.model, key.unit, key.tier, key.region, key.scope, _id(key))


def _id(key: Key, extra: str = "") -> str:
    return hashlib.sha256(msgspec.json.encode([_plain(key), extra])).hexdigest()[:32]


def _plain(key: Key) -> list[object]:
    values = [getattr(key, name) for name in key.__struct_fields__]
    return [str(value) if isinstance(value, Fraction) else value for value in values]


def _pairs(
    found: Iterable[Booked], grain: Grain, list_prices: ListPrices, counts: Counts, include_unpriced: bool
) -> Iterator[tuple[Key, Amounts]]:
    for one in found:
        counts.entries += 1
        listed = _by_unit(list_prices(one.entry)) if one.entry.usage.parts else {}
        if one.amount is None:
            counts.unpriced += 1
            if include_unpriced:
                yield from _unpriced(one.entry, grain)
            continue
        for record in (one.entry, *one.corrections):
            if record.charge.total is not None:
                yield from _priced(record, grain, listed)


def _by_unit(charge: Charge) -> dict[tuple[str, str], Fraction]:
    """(unit, model) → nano-USD a unit at published prices; units rated in several steps at their mean."""
    found: dict[tuple[str, str], list[tuple[int, Fraction]]] = {}
    for line in charge.lines:
        price = unit_price(line)
        if price is not None:
            found.setdefault((line.unit, line.model), []).append((line.quantity, price))
    return {key: _mean(steps) for key, steps in found.items()}


def _mean(steps: list[tuple[int, Fraction]]) -> Fraction:
    quantity = sum(count for count, _ in steps)
    if len(steps) == 1 or not quantity:
        return steps[0][1]
    return sum((count * price for count, price in steps), Fraction(0)) / quantity


def unit_price(line: ChargeLine) -> Fraction | None:
    """Nano-USD a unit, multipliers included; None: unknown."""
    return None if line.price is None else _multiplied(line.price, line.multipliers)


@lru_cache(maxsize=4096)
def _multiplied(price: int, multipliers: tuple[tuple[str, int], ...]) -> Fraction:
    nano = Fraction(price, PUSD_PER_NUSD)
    for _, basis_points in multipliers:
        nano *= Fraction(basis_points, BASIS)
    return nano


def _priced(
    record: LedgerEntry, grain: Grain, listed: dict[tuple[str, str], Fraction]
) -> Iterator[tuple[Key, Amounts]]:
    total = record.charge.total or 0
    parts = [line for line in record.charge.lines if line.amount is not None]
    if not parts:
        parts = [ChargeLine(unit="request", quantity=0, price=None, amount=record.charge.total)]
    billed = [int(line.amount or 0) for line in parts]
    if sum(billed) != total:
        billed = allocate(total, billed)
    for line, amount in zip(parts, billed, strict=True):
        price = unit_price(line)
        list_price = listed.get((line.unit, line.model)) if price is not None else None
        contracted = amount if price is None else int(line.amount or 0)
        at_list = contracted if list_price is None else _nusd(line.quantity, list_price)
        if not (line.quantity or amount or contracted or at_list):
            continue
        key = _key(record, grain, line.unit, line.model, line.row if price is not None else "", price, list_price)
        yield key, Amounts(quantity=line.quantity, billed=amount, contracted=contracted, listed=at_list, lines=1)


def _nusd(quantity: int, price: Fraction) -> int:
    return round_half_even(quantity * price.numerator, price.denominator)


def _unpriced(entry: LedgerEntry, grain: Grain) -> Iterator[tuple[Key, Amounts]]:
    for part in entry.usage.parts:
        for unit, quantity in part.lines:
            key = _key(entry, grain, unit, part.model, "", None, None)
            yield msgspec.structs.replace(key, unpriced=True), Amounts(quantity=quantity, lines=1)


def _key(
    record: LedgerEntry,
    grain: Grain,
    unit: str,
    model: str,
    row: str,
    price: Fraction | None,
    list_price: Fraction | None,
) -> Key:
    by_day = grain == "day"
    at = record.received_at_ms - record.received_at_ms % (DAY_MS if by_day else 1_000)
    facets = dict(record.usage.facets)
    return Key(
        start_ms=at,
        end_ms=at + (DAY_MS if by_day else 1_000),
        provider=record.provider,
        price_as=record.price_as,
        model=model or record.model,
        unit=unit,
        tier=record.usage.service_tier or facets.get("processing", ""),
        region=facets.get("region", ""),
        scope=_said(record.scope, session=not by_day),
        contracted_price=price,
        list_price=list_price,
        row=row,
        source=record.usage.source,
        correction=record.kind != "charge" and _month(record.booked_at_ms) > _month(record.received_at_ms),
        entry_id="" if by_day else record.id,
        request_id="" if by_day else record.request_id,
    )


def _month(at_ms: int) -> str:
    return iso(at_ms)[:7]


def _said(scope: Scope, *, session: bool) -> tuple[tuple[str, str], ...]:
    """The scope as pairs; sessions are too many for rows of days."""
    named = [
        (name, value)
        for name, value in msgspec.structs.asdict(scope).items()
        if isinstance(value, str) and value and (session or name != "session")
    ]
    return (*named, *((f"tag:{name}", value) for name, value in scope.tags))
