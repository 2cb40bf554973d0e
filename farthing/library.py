"""Farthing as a library: what a call cost, from the provider's own usage object, without a gateway.

::

    import farthing

    charge = farthing.cost(response.usage, "gpt-4o-mini")
    print(farthing.receipt_lines(charge))

Nothing is imported but the standard library until a cost is asked for, and nothing ever touches the network: prices
come with the installation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from farthing.core.price_book import PriceBook
    from farthing.core.types import Charge, Target, Usage

FIRST_PARTIES: Final = (
    "openai", "anthropic", "google", "mistral", "deepseek", "x-ai", "cohere", "perplexity", "moonshotai", "zai",
    "minimax", "meta", "groq", "aws", "azure", "together", "fireworks", "cerebras", "openrouter",
)  # fmt: skip
"""Where a bare model name is looked up, in this order; say ``provider=`` or ``provider/model`` to be certain."""


class Dumps(Protocol):
    """An SDK's usage object (pydantic)."""

    def model_dump(self) -> dict[str, Any]:
        """The object as plain data."""
        ...


def cost(
    usage: Usage | Mapping[str, Any] | Dumps,
    model: str,
    *,
    provider: str | None = None,
    at: datetime | int | str | None = None,
    **context: str,
) -> Charge:
    """What a call cost, line by line.

    ``usage`` is the provider's usage object as it came (``response.usage``, or its JSON), or a ``Usage`` record.
    Whose usage object it is, its names say; ``api_flavor`` (``chat``, ``responses``, ``realtime``…) says it where
    they do not. ``at`` is when the call was made: a datetime, UTC milliseconds or ISO text; now if left out.
    ``context`` is what the usage does not say itself: ``service_tier``, ``processing="batch"``, ``region``,
    ``speed``.

    An unknown model or unit, or a total that cannot be read (negative, no number), gives a charge whose ``state`` is
    ``unpriced`` and whose ``total`` is None; it is never zero and never another model's price. Raises ``TypeError``
    for a usage that is no mapping and for context that is none, ``KeyError`` for an unknown ``api_flavor``,
    ``ValueError`` for a wrong time.
    """
    return rated(usage, model, provider=provider, at=at, **context)[2]


def rated(
    usage: Usage | Mapping[str, Any] | Dumps,
    model: str,
    *,
    provider: str | None = None,
    at: datetime | int | str | None = None,
    **context: str,
) -> tuple[Usage, Target, Charge]:
    """As :func:`cost`, with the usage as it was understood and who bills it."""
    import msgspec

    from farthing.core.pricing import charge
    from farthing.wire.usage.context import CONTEXT
    from farthing.wire.usage.tally import lacks_a_total

    unknown = sorted(context.keys() - CONTEXT - {"api_flavor"})
    if unknown:
        raise TypeError(f"unknown context {', '.join(unknown)}; known: api_flavor, {', '.join(sorted(CONTEXT))}")
    book = price_book()
    owner, name = _owner(book, model, provider)
    record = _record(usage, owner, {**context, "model": ""})
    target = _target(owner, name, context)
    priced = charge(book, record, target, at_ms=_instant(at))
    if record.source == "partial" and record.stated_pusd is None and lacks_a_total(record.anomalies):
        priced = msgspec.structs.replace(priced, total=None, state="unpriced", reason="usage_unreadable")
    return record, target, priced


def receipt_lines(charge: Charge) -> tuple[str, ...]:
    """A charge for people: one line per unit, then the total."""
    return tuple(_receipt(charge))


@lru_cache(maxsize=1)
def price_book() -> PriceBook:
    """The installed price book with the price files of ``FARTHING_HOME``; built once per process."""
    from farthing import bootstrap

    return bootstrap.price_book(bootstrap.load_settings()).book


class Verified(NamedTuple):
    """One worked usage and what this book makes of it."""

    id: str
    expected: int
    """Nano-USD."""
    got: int | None
    """Nano-USD; None: unpriced."""
    reason: str
    row: str
    """The price row of the first line."""

    @property
    def ok(self) -> bool:
        """Whether the two are equal to the nano-dollar."""
        return self.got == self.expected


def verify(book: PriceBook, vectors: Sequence[Mapping[str, Any]]) -> tuple[Verified, ...]:
    """Price worked usages (``provider``, ``model``, ``usage``, ``timestamp``, ``expected_usd``…) with a book.

    Raises ``ValueError`` with the number of the first vector that lacks something.
    """
    return tuple(_verified(book, number, vector) for number, vector in enumerate(vectors, 1))


def _verified(book: PriceBook, number: int, vector: Mapping[str, Any]) -> Verified:
    from farthing.core.money import parse_usd
    from farthing.core.pricing import charge

    try:
        provider, model = str(vector["provider"]), str(vector["model"])
        usage, stamp = vector["usage"], str(vector["timestamp"])
        expected = int(parse_usd(Decimal(str(vector["expected_usd"]))))
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"vector {number}: {error!r}; it needs provider, model, usage, timestamp, expected_usd"
        ) from error
    said = vector.get("context") or {}
    context = {str(key): str(value) for key, value in said.items()}
    context.setdefault("api_flavor", str(vector.get("api_flavor") or "default"))
    record = _record(usage, provider, {**context, "model": ""})
    got = charge(book, record, _target(provider, model, context), at_ms=_instant(stamp))
    row = next((line.row for line in got.lines if line.row), "")
    return Verified(str(vector.get("id", number)), expected, got.total, got.reason, row)


def _owner(book: PriceBook, model: str, provider: str | None) -> tuple[str, str]:
    """The provider that bills and the model's name there."""
    if provider:
        return provider, model
    head, slash, tail = model.partition("/")
    if slash and book.models(head):
        return head, tail
    found = next((name for name in FIRST_PARTIES if book.resolve(name, model)), "")
    return found or (head if slash else "unknown"), model


def _record(usage: Usage | Mapping[str, Any] | Dumps, provider: str, context: Mapping[str, str]) -> Usage:
    from farthing.core.types import Usage as UsageRecord
    from farthing.wire.usage import reader_for
    from farthing.wire.usage.shapes import reader_of

    if isinstance(usage, UsageRecord):
        return usage
    if not isinstance(usage, Mapping):
        dump = getattr(usage, "model_dump", None)
        usage = dump() if callable(dump) else usage
        if not isinstance(usage, Mapping):
            raise TypeError(f"usage is the provider's usage object or a mapping, not {type(usage).__name__}")
    facts = {key: str(value) for key, value in context.items() if value}
    flavour = facts.pop("api_flavor", "default")
    chosen = reader_of(provider, usage) if flavour == "default" else reader_for(provider, flavour)
    return chosen.from_usage(usage, context=facts)


def _target(provider: str, model: str, context: Mapping[str, str]) -> Target:
    from farthing.core.types import Target as TargetRecord

    return TargetRecord(provider=provider, price_as=provider, model=model, region=context.get("region", ""))


def _instant(at: datetime | int | str | None) -> int:
    """UTC milliseconds. A time without a zone is UTC."""
    if at is None:
        return time.time_ns() // 1_000_000
    if isinstance(at, int):
        return at
    moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)


def _receipt(charge: Charge) -> Iterator[str]:
    from farthing.core.money import format_usd
    from farthing.core.pricing_text import factor_text, price_text, priced_per

    for line in charge.lines:
        amount = "unpriced" if line.amount is None else f"${format_usd(line.amount)}"
        factors = "".join(f" × {factor_text(points)} ({why})" for why, points in line.multipliers)
        rate = (
            ""
            if line.price is None
            else f" × ${price_text(line.unit, line.price)} per {priced_per(line.unit)}{factors}"
        )
        model = f" [{line.model}]" if line.model else ""
        yield f"{line.quantity:>12,} {line.unit}{model}{rate} = {amount}"
    if charge.total is None:
        yield f"unpriced: {charge.reason}"
    elif charge.computed is not None and charge.computed != charge.total:
        yield f"total ${format_usd(charge.total)} as the provider stated; ${format_usd(charge.computed)} by the book"
    else:
        yield f"total ${format_usd(charge.total)}" + (" (free)" if charge.state == "free" else "")
