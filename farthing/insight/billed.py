"""A provider's bill beside this installation's ledger: which entries it is about, and every difference's cause."""

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from farthing.core.bill import Bill, Reconciliation
from farthing.core.price_book import PriceBook
from farthing.core.reconciliation import compare
from farthing.insight.invoices import Booked, Where, aligned, booked, in_terms, variant_of
from farthing.ports.books import Ledger

Kind = Literal["openai", "anthropic", "csv"]


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """A bill compared with the ledger."""

    found: Reconciliation
    ref: str
    """Names the bill."""
    estimated: dict[str, Booked]
    """Entries with estimated quantities, which a bill can correct."""


def compared(
    raw: Bill,
    ledger: Ledger,
    book: PriceBook,
    kind: Kind,
    *,
    since_ms: int,
    until_ms: int,
    where: Where = (),
    midnight_ms: int = 600_000,
    gateway_keys: frozenset[str] = frozenset(),
) -> Compared:
    """Both sides in the same words, day by day. The period is whole UTC days."""
    named = canonical(book, kind)
    bill, terms = aligned(raw, named, midnight_ms=midnight_ms)
    estimated: dict[str, Booked] = {}
    rows = _ours(ledger, kind, since_ms, until_ms, where, estimated)
    found = compare(bill, in_terms(rows, terms, named, variant_of(kind)), gateway_keys=gateway_keys)
    return Compared(found=found, ref=bill.ref, estimated=estimated)


def canonical(book: PriceBook, kind: Kind) -> Callable[[str], str]:
    """A model's name in the price book, so that a dated name and its alias are one model."""
    owners = (kind,) if kind != "csv" else ("openai", "anthropic", *sorted({one.provider for one in book.models()}))

    def name(model: str) -> str:
        for owner in owners:
            resolved = book.resolve(owner, model)
            if resolved is not None:
                return resolved.model
        return model

    return name


def _ours(
    ledger: Ledger, kind: Kind, since_ms: int, until_ms: int, where: Where, estimated: dict[str, Booked]
) -> Iterator[Booked]:
    """The charges that a bill is about; those with estimated quantities are kept in ``estimated``."""
    ours = any(name == "provider" for name, _ in where) or kind == "csv"
    for one in booked(ledger, since_ms=since_ms, until_ms=until_ms, where=where):
        if ours or one.entry.price_as == kind:
            if one.entry.usage.source != "reported" or one.entry.fidelity == "unknown":
                estimated[one.entry.id] = one
            yield one
