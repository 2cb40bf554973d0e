"""Rating usage: what a call costs, line by line, and the most it can cost.

Pure integer arithmetic over a :class:`~farthing.core.price_book.PriceBook`: no clock, no floats, no decimals. Each
line is rounded once, half-even, to nano-USD; a total is a sum of lines. An unknown price makes a charge *unpriced*
with a reason; it is never zero and never another model's price.
"""

from math import gcd
from typing import Final

from farthing.core.money import PUSD_PER_NUSD, Nusd, Pusd, round_half_even
from farthing.core.price_book import PriceBook, Rate, Sheet
from farthing.core.pricing_rows import DISTANT_FUTURE, DISTANT_PAST
from farthing.core.types import Charge, ChargeLine, Target, Usage, UsagePart

IMPLIED_FREE: Final = frozenset({"request"})
"""Units that cost nothing where the book states no price: a model without a request fee has none."""

UNKNOWN_MODEL: Final = "unknown_model"
USAGE_MISSING: Final = "usage_missing"

DEFAULT_TIERS: Final = frozenset({"", "default", "standard", "standard_only", "on_demand", "auto", "unspecified"})
"""Names of the ordinary tier among providers, besides a provider's own list."""

DEAR: Final = {"service_tier": "priority", "speed": "fast", "latency": "optimized"}
"""Facets that cost more than the list: where the book has no price for them, there is none. Cheaper or unknown tiers
without a price of their own are rated at the list price, which is never too low for them."""

_FACET_NAMES: Final = {"inference_geo": "region", "vertex_location": "region", "location": "region"}


def canonical_facets(
    book: PriceBook, provider: str, service_tier: str, facets: tuple[tuple[str, str], ...]
) -> dict[str, str]:
    """Billing facets under canonical names; the tier ``batch`` becomes ``processing=batch``."""
    said: dict[str, str] = {}
    tier = service_tier
    for name, value in facets:
        value = value.lower()
        if name == "service_tier":
            tier = tier or value
        elif name == "batch":
            said["processing"] = "batch" if value == "true" else ""
        else:
            said.setdefault(_FACET_NAMES.get(name, name), value)
    tier = tier.lower()
    named = dict(book.provider(provider).tiers)
    traffic = said.get("traffic", "")
    if not tier and traffic in named:
        tier = traffic
    tier = named.get(tier, tier)
    if tier == "batch":
        said["processing"] = "batch"
    elif tier not in DEFAULT_TIERS:
        said["service_tier"] = tier
    return said


def quote(book: PriceBook, target: Target, usage: Usage, part_model: str, at_ms: int) -> Sheet:
    """The sheet that rates one part of a usage, memoised for as long as it is valid."""
    key = (
        target.price_as,
        target.model,
        target.price_model,
        target.region,
        usage.model,
        part_model,
        usage.service_tier,
        usage.facets,
    )
    held = book.memo.get(key)
    if isinstance(held, Sheet) and held.from_ms <= at_ms < held.to_ms:
        return held
    sheet = _quote(book, target, usage, part_model, at_ms)
    book.remember(key, sheet)
    return sheet


def _quote(book: PriceBook, target: Target, usage: Usage, part_model: str, at_ms: int) -> Sheet:
    if part_model:
        resolved = book.resolve(target.price_as, part_model)
    else:
        sent = target.price_model or target.model
        resolved = book.resolve_served(target.price_as, sent, usage.model, pinned=bool(target.price_model))
    if resolved is None:
        return Sheet(DISTANT_PAST, DISTANT_FUTURE, part_model or usage.model or target.model, {}, UNKNOWN_MODEL)
    facets = canonical_facets(book, target.price_as, usage.service_tier, usage.facets)
    for facet, dear in DEAR.items():
        if facets.get(facet) == dear and dear not in book.values_of(resolved, facet):
            return Sheet(DISTANT_PAST, DISTANT_FUTURE, resolved.model, {}, f"unknown_{facet}:{dear}")
    return book.sheet(resolved, facets, at_ms, region=target.region.lower())


def charge(book: PriceBook, usage: Usage, target: Target, *, at_ms: int) -> Charge:
    """What this usage costs at that instant. Never raises for unknown prices: they are a state with a reason."""
    lines: list[ChargeLine] = []
    reason = ""
    paid = False
    for part in usage.parts:
        sheet = quote(book, target, usage, part.model, at_ms)
        problem = _rate_part(part, sheet, lines)
        reason = reason or problem
        if not problem and not part.model:
            _add_request_fee(part, sheet, lines)
    if usage.source == "missing" and not lines:
        reason = USAGE_MISSING
    total = 0
    for line in lines:
        if line.amount is not None:
            total += line.amount
            paid = paid or bool(line.quantity and line.price)
    if usage.stated_pusd is not None:
        stated = Nusd(round_half_even(usage.stated_pusd, PUSD_PER_NUSD))
        return Charge(
            lines=tuple(lines),
            total=stated,
            state="priced" if usage.stated_pusd else "free",
            price_ref=book.ref,
            computed=None if reason else Nusd(total),
        )
    if reason:
        return Charge(lines=tuple(lines), reason=reason, price_ref=book.ref)
    return Charge(lines=tuple(lines), total=Nusd(total), state="priced" if paid else "free", price_ref=book.ref)


def flat(sheet: Sheet) -> tuple[dict[str, tuple[int, int]], int]:
    """(nano-USD of one unit as a reduced fraction, by unit; the tier basis below which that is so).

    A line of such a unit is charged that times its quantity, rounded half-even; of other units :func:`charge` knows.
    """
    found: dict[str, tuple[int, int]] = {}
    below = 2**62
    if "request" in sheet.rates:  # a fee for each answer
        return found, below
    for unit, rate in sheet.rates.items():
        if not rate.marginal:
            over, under = rate.steps[0][1] * rate.numerator, PUSD_PER_NUSD * rate.denominator
            common = gcd(over, under)
            found[unit] = (over // common, under // common)
            below = min(below, *[step[0] for step in rate.steps[1:]], below)
    return found, below


def _rate_part(part: UsagePart, sheet: Sheet, lines: list[ChargeLine]) -> str:
    """Append the part's lines; the first reason why one has no price, or ""."""
    reason = ""
    rates = sheet.rates
    basis = part.tier_basis
    for unit, quantity in part.lines:
        rate = rates.get(unit)
        if rate is None:
            if unit in IMPLIED_FREE and not sheet.reason:
                lines.append(_bare(unit, quantity, Pusd(0), Nusd(0), part.model))
                continue
            lines.append(_bare(unit, quantity, None, None if quantity else Nusd(0), part.model))
            if quantity and not reason:
                reason = sheet.reason or f"unknown_unit:{unit}"
        elif rate.marginal:
            _rate_marginal(unit, quantity, rate, part.model, lines)
        else:
            step = rate.steps[0] if len(rate.steps) == 1 else _step(rate, basis)
            lines.append(_line(unit, quantity, rate, step, part.model))
    return reason


def _bare(unit: str, quantity: int, price: Pusd | None, amount: Nusd | None, model: str) -> ChargeLine:
    return ChargeLine(unit=unit, quantity=quantity, price=price, amount=amount, model=model)


def _step(rate: Rate, basis: int) -> tuple[int, int, str]:
    steps = rate.steps
    if len(steps) > 1:
        for step in reversed(steps):
            if step[0] <= basis:
                return step
    return steps[0]


def _line(unit: str, quantity: int, rate: Rate, step: tuple[int, int, str], model: str) -> ChargeLine:
    _, price, label = step
    amount = round_half_even(quantity * price * rate.numerator, PUSD_PER_NUSD * rate.denominator)
    return ChargeLine(
        unit=unit,
        quantity=quantity,
        price=Pusd(price),
        amount=Nusd(amount),
        multipliers=rate.multipliers,
        row=label,
        model=model,
    )


def _rate_marginal(unit: str, quantity: int, rate: Rate, model: str, lines: list[ChargeLine]) -> None:
    """One line per step that the quantity reaches; each step rates what lies between it and the next."""
    ends = [step[0] for step in rate.steps[1:]]
    for step, end in zip(rate.steps, [*ends, quantity], strict=True):
        within = min(quantity, end) - step[0]
        if within > 0 or step[0] == 0:
            lines.append(_line(unit, max(within, 0), rate, step, model))


def _add_request_fee(part: UsagePart, sheet: Sheet, lines: list[ChargeLine]) -> None:
    """A fee per request is due once for any billed answer, whether or not the usage counts requests."""
    rate = sheet.rates.get("request")
    if rate is None or not part.lines or any(line.unit == "request" for line in lines):
        return
    lines.append(_line("request", 1, rate, rate.steps[0], part.model))
