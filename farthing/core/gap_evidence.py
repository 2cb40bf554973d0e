"""Evidence for the causes of a gap: in words, and for one cause that only shows over all models, a discount."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import msgspec

from farthing.core.bill import TOKEN_CLASSES, Booked, BookedDay, Finding
from farthing.core.money import round_half_even

DISCOUNT_SPREAD_BP: Final = 10
"""Ratios of bill to ledger that differ by no more than this over all models are one discount."""


def as_discount(findings: Sequence[Finding], booked: Booked) -> list[Finding]:
    """One ratio of bill to ledger below 1 over all that has a price is a discount, not a drift of every price."""
    drifts = [one for one in findings if one.cause == "price"]
    places = {(one.place.model, one.place.variant, one.token_class) for one in drifts}
    priced = {
        (place.model, place.variant, name)
        for place, day in booked.items()
        for name, held in day.exact.items()
        if held.amount
    }
    if len(places) < 2 or places != priced:
        return list(findings)
    ratios = []
    for one in drifts:
        base = booked[one.place].exact[one.token_class].amount
        ratios.append(Fraction((base + one.amount) * 10_000, base) if base else Fraction(0))
    if max(ratios) - min(ratios) > DISCOUNT_SPREAD_BP or max(ratios) >= 10_000:
        return list(findings)
    off = 10_000 - round(sum(ratios) / len(ratios))
    why = f"the bill is {off // 100}.{off % 100:02d} % below the price book on every model: a discount"
    return [
        msgspec.structs.replace(one, cause="credit", evidence=why) if one.cause == "price" else one
        for one in findings
    ]


def streams(day: BookedDay) -> str:
    """Why a day's estimated calls may differ."""
    count = len(day.estimates)
    return f"{count} call{'s' if count != 1 else ''} booked on an estimate (a stream that ended early, a lost answer)"


def dollars(nano: Fraction, token_class: str) -> str:
    """Nano-USD a unit as dollars per million tokens, or each."""
    factor, places, suffix = (1_000_000, 4, " / 1M") if token_class in TOKEN_CLASSES else (1, 6, " each")
    whole = nano * factor
    units = round_half_even(whole.numerator * 10**places, whole.denominator * 1_000_000_000)
    return f"${units // 10**places}.{units % 10**places:0{places}d}{suffix}"
