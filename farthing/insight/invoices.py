"""The ledger as an accountant reads it: each charge with everything that was booked later to correct it."""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

import msgspec

from farthing.core.bill import (
    ALL,
    TOKEN_CLASSES,
    Bill,
    BookedDay,
    Estimate,
    Place,
    Priced,
    allocate,
    folded,
    plain_tier,
    token_class,
)
from farthing.core.bill import Booked as BillBooked
from farthing.core.dimensions import entry_value
from farthing.core.money import Nusd
from farthing.core.repricing import effective
from farthing.core.types import LedgerEntry
from farthing.ports.books import Ledger

Where = tuple[tuple[str, str], ...]

DAY_MS: Final = 86_400_000

LONG_CONTEXT_TOKENS: Final = 200_000
"""Anthropic bills prompts beyond this as another context window."""


class Booked(msgspec.Struct, frozen=True, kw_only=True):
    """One charge and its corrections, in the order of booking."""

    entry: LedgerEntry
    corrections: tuple[LedgerEntry, ...] = ()

    @property
    def amount(self) -> Nusd | None:
        """The effective amount; None: unpriced."""
        return effective(self.entry, self.corrections)


def within(since_ms: int, until_ms: int, where: Where) -> Callable[[LedgerEntry], bool]:
    """Whether an entry was received in [since, until) and meets every equal-to filter."""

    def wanted(entry: LedgerEntry) -> bool:
        return since_ms <= entry.received_at_ms < until_ms and all(
            entry_value(entry, name) == value for name, value in where
        )

    return wanted


def booked(ledger: Ledger, *, since_ms: int, until_ms: int, where: Where = ()) -> Iterator[Booked]:
    """Every charge of the period, in booking order, with its corrections.

    A correction carries the instant of what it corrects, so both lie in the same period. The corrections are read
    first; of the charges only one is held at a time.
    """
    wanted = within(since_ms, until_ms, where)
    found: dict[str, list[LedgerEntry]] = {}
    roots: dict[str, str] = {}
    for entry in ledger.entries(since_ms=since_ms):
        if entry.kind != "charge" and since_ms <= entry.received_at_ms < until_ms:
            root = roots.get(entry.corrects, entry.corrects)
            roots[entry.id] = root
            found.setdefault(root, []).append(entry)
    for entry in ledger.entries(since_ms=since_ms):
        if entry.kind == "charge" and wanted(entry):
            yield Booked(entry=entry, corrections=tuple(found.get(entry.id, ())))


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How a bill words things, so that the ledger can be told in the same words."""

    classes: frozenset[str]
    models: bool = True
    """The bill tells models apart."""
    variants: bool = True
    """The bill tells tiers, regions and context windows apart."""
    midnight_ms: int = 600_000
    """Calls this close to midnight may be billed on the neighbouring day."""


def in_terms(
    found: Iterable[Booked], terms: Terms, canonical: Callable[[str], str], variant: Callable[[LedgerEntry], str]
) -> BillBooked:
    """The ledger's side of a bill. ``canonical`` gives a model its name in the price book."""
    days: BillBooked = {}
    for one in found:
        entry = one.entry
        day = datetime.fromtimestamp(entry.received_at_ms // 1000, UTC).strftime("%Y-%m-%d")
        place = Place(day, canonical(entry.model) if terms.models else ALL, variant(entry) if terms.variants else "")
        held = days.setdefault(place, BookedDay())
        if any(correction.kind == "reversal" for correction in one.corrections):
            continue
        held.calls += 1
        counts = _counts(entry, terms.classes)
        amounts = _amounts(one, counts, terms.classes)
        if entry.usage.source == "reported" and entry.fidelity != "unknown":
            _add_exact(held, one, counts, amounts, terms.classes)
        else:
            held.estimates.append(
                Estimate(
                    id=entry.id,
                    counts=tuple(counts.items()),
                    amounts=tuple(amounts.items()),
                    total=one.amount,
                    ceiling=entry.ceiling,
                )
            )
        in_day = entry.received_at_ms % DAY_MS
        for edge, near in (
            (held.early, in_day < terms.midnight_ms),
            (held.late, in_day >= DAY_MS - terms.midnight_ms),
        ):
            if near:
                for name, count in counts.items():
                    edge[name] = edge.get(name, 0) + count
    return days


def _counts(entry: LedgerEntry, classes: frozenset[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for part in entry.usage.parts:
        for unit, quantity in part.lines:
            name = folded(token_class(unit), classes)
            counts[name] = counts.get(name, 0) + quantity
    return counts


def _amounts(one: Booked, counts: dict[str, int], classes: frozenset[str]) -> dict[str, int]:
    """The effective amount by class. A total that is not the sum of its lines (a stated cost, a ceiling) is split."""
    total = one.amount
    if total is None:
        return {}
    sums: dict[str, int] = {}
    for record in (one.entry, *one.corrections):
        for line in record.charge.lines if record.charge.total is not None else ():
            if line.amount:
                name = folded(token_class(line.unit), classes)
                sums[name] = sums.get(name, 0) + line.amount
    if sum(sums.values()) == total:
        return sums
    weights = sums if any(sums.values()) else counts
    names = sorted(weights) or ["request"]
    return dict(zip(names, allocate(total, [weights.get(name, 0) for name in names]), strict=True))


def _add_exact(
    held: BookedDay, one: Booked, counts: dict[str, int], amounts: dict[str, int], classes: frozenset[str]
) -> None:
    for name in counts.keys() | amounts.keys():
        sums = held.exact.setdefault(name, Priced())
        quantity = counts.get(name, 0)
        sums.quantity += quantity
        sums.amount += amounts.get(name, 0)
        if one.amount is None:
            sums.unpriced += quantity
    for record in (one.entry, *one.corrections):
        for line in record.charge.lines if record.charge.total is not None else ():
            if line.price is not None:
                rows = held.exact.setdefault(folded(token_class(line.unit), classes), Priced()).rows
                key = (line.row, int(line.price))
                rows[key] = rows.get(key, 0) + line.quantity
                if not rows[key]:
                    del rows[key]


def aligned(bill: Bill, canonical: Callable[[str], str], *, midnight_ms: int) -> tuple[Bill, Terms]:
    """The bill with models under their names in the price book, as finely as both of its reports go.

    A cost report that does not tell classes, models or tiers apart decides: then quantities are summed alike.
    """
    charged = [row for row in bill.costs if row.amount > 0 and row.token_class != "credit"]
    models = bool(bill.usage or bill.costs) and not (charged and not any(row.place.model for row in charged))
    models = models and not (bill.usage and not any(row.place.model for row in bill.usage))
    coarse = any(row.token_class == ALL for row in charged) or any(
        name == ALL for row in bill.usage for name, _ in row.counts
    )
    used = {row.place.variant for row in bill.usage}
    paid = {row.place.variant for row in charged}
    variants = not (bill.usage and charged) or (paid <= used and bool(paid - {""}) == bool(used - {""}))

    def place(old: Place) -> Place:
        model = canonical(old.model) if models and old.model else "" if models else ALL
        return Place(old.day, model, old.variant if variants else "")

    def named(name: str) -> str:
        return ALL if coarse and name in TOKEN_CLASSES else name

    usage = tuple(
        msgspec.structs.replace(
            row, place=place(row.place), counts=_summed((named(name), count) for name, count in row.counts)
        )
        for row in bill.usage
    )
    costs = tuple(
        msgspec.structs.replace(row, place=place(row.place), token_class=named(row.token_class)) for row in bill.costs
    )
    classes = {name for row in usage for name, _ in row.counts} | {row.token_class for row in costs}
    terms = Terms(classes=frozenset(classes), models=models, variants=variants, midnight_ms=midnight_ms)
    return msgspec.structs.replace(bill, usage=usage, costs=costs), terms


def _summed(pairs: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    sums: dict[str, int] = {}
    for name, count in pairs:
        sums[name] = sums.get(name, 0) + count
    return tuple(sums.items())


def variant_of(provider: str) -> Callable[[LedgerEntry], str]:
    """How a provider's bill would call the variant of an entry."""

    def plain(entry: LedgerEntry) -> str:
        return plain_tier(entry.usage.service_tier)

    def anthropic(entry: LedgerEntry) -> str:
        region = dict(entry.usage.facets).get("region", "").lower()
        long = any(part.tier_basis > LONG_CONTEXT_TOKENS for part in entry.usage.parts)
        parts = (plain(entry), "" if region == "global" else region, "long" if long else "")
        return "+".join(part for part in parts if part)

    return anthropic if provider == "anthropic" else plain
