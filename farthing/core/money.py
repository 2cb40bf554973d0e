"""Money as integers: pico-USD prices, nano-USD amounts, one rounding per line.

A price is an ``int`` of pico-USD per unit (10⁻¹² USD), an amount is an ``int`` of nano-USD (10⁻⁹ USD).
Every real list price is exact in pico-USD; amounts are rounded half-even once per charge line, so totals are
sums of integers and the order of addition never matters. No float enters this module.
"""

from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation, localcontext
from typing import NewType

Pusd = NewType("Pusd", int)
"""Pico-USD per unit: $3.00 per million tokens is ``Pusd(3_000_000)`` per token."""

Nusd = NewType("Nusd", int)
"""Nano-USD, an amount: one dollar is ``Nusd(1_000_000_000)``; int64 holds ±$9.2 billion."""

NUSD_PER_USD = 1_000_000_000
PUSD_PER_USD = 1_000_000_000_000
PUSD_PER_NUSD = 1_000
BASIS = 10_000
"""Multipliers are integer basis points: 10_000 is ×1, 11_000 is ×1.1."""


def round_half_even(numerator: int, denominator: int) -> int:
    """The integer nearest to ``numerator / denominator``, ties to even; ``denominator`` is positive."""
    quotient, remainder = divmod(numerator, denominator)
    double = remainder * 2
    if double > denominator or (double == denominator and quotient & 1):
        return quotient + 1
    return quotient


def amount_nusd(quantity: int, price: Pusd, multipliers_bp: tuple[int, ...] = ()) -> Nusd:
    """``quantity × price × Π multipliers`` in nano-USD, exact until the one half-even rounding at the end."""
    if not multipliers_bp:
        return Nusd(round_half_even(quantity * price, PUSD_PER_NUSD))
    numerator = quantity * price
    denominator = PUSD_PER_NUSD
    for multiplier in multipliers_bp:
        numerator *= multiplier
        denominator *= BASIS
    return Nusd(round_half_even(numerator, denominator))


def ceil_nusd(quantity: int, price: Pusd, multipliers_bp: tuple[int, ...] = ()) -> Nusd:
    """Like :func:`amount_nusd`, rounded up: what a reservation holds, never less than what can be booked."""
    numerator = quantity * price
    denominator = PUSD_PER_NUSD
    for multiplier in multipliers_bp:
        numerator *= multiplier
        denominator *= BASIS
    return Nusd(-(-numerator // denominator))


def exact_decimal(text: str | int | Decimal) -> Decimal:
    """A finite decimal from exact text; floats are refused because they carry dust. Raises ``ValueError``."""
    if isinstance(text, float):
        raise ValueError("money is never a float; pass a string such as '0.15'")
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"not a decimal number: {text!r}") from error
    if not value.is_finite():
        raise ValueError(f"not a finite number: {text!r}")
    return value


def scaled_int(value: Decimal, scale: int) -> int:
    """``value × scale`` as an exact integer. Raises ``ValueError`` when digits finer than the scale remain."""
    with localcontext() as context:
        context.prec = 60
        scaled = value * scale
        if scaled != scaled.to_integral_value():
            raise ValueError(f"{value} is finer than 1/{scale}")
        return int(scaled)


def parse_usd(text: str | int | Decimal) -> Nusd:
    """Dollars as text to nano-USD, exactly: ``"12.5"`` is 12_500_000_000. Raises ``ValueError`` if finer."""
    return Nusd(scaled_int(exact_decimal(text), NUSD_PER_USD))


def price_per_million(text: str | int | Decimal, *, quantize: bool = False) -> Pusd:
    """Dollars per million units to pico-USD per unit: ``"2.50"`` is 2_500_000.

    Digits finer than 10⁻¹² USD per unit raise ``ValueError`` unless ``quantize`` rounds them half-even.
    """
    value = exact_decimal(text)
    if quantize:
        with localcontext() as context:
            context.prec = 60
            return Pusd(int((value * 1_000_000).quantize(Decimal(1), rounding=ROUND_HALF_EVEN)))
    return Pusd(scaled_int(value, 1_000_000))


def format_usd(amount: Nusd | int, places: int = 9) -> str:
    """Nano-USD as dollars with exactly ``places`` decimals (9 is exact; fewer round half-even for display)."""
    if places == 9 and amount >= 0:  # what every answer's header says
        text = str(amount)
        return f"{text[:-9]}.{text[-9:]}" if len(text) > 9 else "0." + text.zfill(9)
    if not 0 <= places <= 9:
        raise ValueError("places is 0 to 9")
    rounded = round_half_even(int(amount), 10 ** (9 - places))
    sign = "-" if rounded < 0 else ""
    whole, fraction = divmod(abs(rounded), 10**places)
    return f"{sign}{whole}.{fraction:0{places}d}" if places else f"{sign}{whole}"
