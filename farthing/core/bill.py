"""A provider's bill and the ledger's side of it, in the same words: UTC day, model, variant, token class.

Classes are coarser than units because bills are: ``input`` (uncached), ``cache_read``, ``cache_write`` with its
lifetimes where the bill tells them apart, ``output`` (reasoning included). What is no token keeps its unit's name.
A *variant* is what changes the price of a model besides the class: tier, region, context window; empty: none.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from farthing.core.units import TOKEN_UNITS, is_cache_read, is_input, is_output

ALL: Final = "all"
"""Class, model or variant of a bill that does not tell them apart."""

TOKEN_CLASSES: Final = frozenset(
    {
        "input",
        "cache_read",
        "cache_write",
        "cache_write_5m",
        "cache_write_30m",
        "cache_write_1h",
        "cache_write_12h",
        "output",
        ALL,
    }
)

_PLAIN_TIERS: Final = frozenset({"", "default", "standard", "standard_only", "auto", "on_demand"})

Cause = Literal["timing", "bypass", "estimated", "unpriced", "price", "credit", "rounding", "unknown"]
"""Why bill and ledger differ; documented in ``docs/concepts/reconciliation.md``."""

CAUSES: Final[tuple[Cause, ...]] = (
    "timing", "bypass", "estimated", "unpriced", "price", "credit", "rounding", "unknown",
)  # fmt: skip


class Place(NamedTuple):
    """Where usage belongs: one day of one model in one variant."""

    day: str
    """``2026-11-21``, UTC."""
    model: str
    variant: str


class BilledUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a usage report."""

    place: Place
    counts: tuple[tuple[str, int], ...]
    """(class, quantity)."""
    requests: int | None = None
    """None: the report does not say."""
    key: str = ""
    """The provider's id of the API key; empty: not said."""


class BilledCost(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a cost report."""

    place: Place
    token_class: str
    amount: int
    """Nano-USD; negative: money back."""
    key: str = ""
    label: str = ""
    """The provider's own name of the line."""


class Bill(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a provider says about a period."""

    provider: str
    days: tuple[str, ...]
    """The UTC days covered, in order."""
    usage: tuple[BilledUsage, ...] = ()
    costs: tuple[BilledCost, ...] = ()
    ref: str = ""
    """Content hash, for the evidence of corrections."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The API keys that the usage report tells apart."""
        return tuple(sorted({row.key for row in self.usage if row.key}))


class Priced(msgspec.Struct, kw_only=True):
    """Sums of one class of exactly metered calls. Mutable: it is added to call by call."""

    quantity: int = 0
    unpriced: int = 0
    """The part of ``quantity`` that has no known price."""
    amount: int = 0
    rows: dict[tuple[str, int], int] = {}
    """(price row, pico-USD per unit) → quantity."""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """One call whose quantities are not the provider's final report."""

    id: str
    counts: tuple[tuple[str, int], ...]
    amounts: tuple[tuple[str, int], ...]
    """(class, nano-USD), corrections included."""
    total: int | None
    """Nano-USD, corrections included; None: unpriced."""
    ceiling: int | None
    """The most it can have cost, nano-USD."""


class BookedDay(msgspec.Struct, kw_only=True):
    """The ledger's side of one place. Mutable: it is added to call by call."""

    calls: int = 0
    exact: dict[str, Priced] = {}
    estimates: list[Estimate] = []
    early: dict[str, int] = {}
    """Quantities of calls received shortly after the day began."""
    late: dict[str, int] = {}
    """Quantities of calls received shortly before the day ended."""

    def quantity(self, token_class: str) -> int:
        """Everything booked of one class, estimates included."""
        held = self.exact.get(token_class)
        return (held.quantity if held else 0) + self.estimated(token_class)

    def estimated(self, token_class: str) -> int:
        """Estimated quantity of one class."""
        return sum(dict(one.counts).get(token_class, 0) for one in self.estimates)

    def amount(self, token_class: str) -> int:
        """Nano-USD booked for one class, estimates included."""
        held = self.exact.get(token_class)
        return (held.amount if held else 0) + self.estimated_amount(token_class)

    def estimated_amount(self, token_class: str) -> int:
        """Nano-USD booked for one class on estimates."""
        return sum(dict(one.amounts).get(token_class, 0) for one in self.estimates)

    def classes(self) -> set[str]:
        """Every class that occurs."""
        return {*self.exact, *(name for one in self.estimates for name, _ in (*one.counts, *one.amounts))}


Booked = dict[Place, BookedDay]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the gap and its cause. Positive: the bill has more than the ledger."""

    cause: Cause
    place: Place
    token_class: str
    tokens: int = 0
    amount: int = 0
    """Nano-USD."""
    evidence: str = ""


class Correctable(msgspec.Struct, frozen=True, kw_only=True):
    """Estimated calls of one place whose share of the bill is unambiguous."""

    place: Place
    billed: tuple[tuple[str, int], ...]
    """(class, nano-USD) that the provider billed for these calls together."""
    calls: tuple[Estimate, ...]

    def shares(self) -> list[dict[str, int]]:
        """What each call is billed by class: in proportion to what was booked for it. Sums are exact."""
        found: list[dict[str, int]] = [{} for _ in self.calls]
        for name, billed in self.billed:
            weights = [dict(one.amounts).get(name, 0) for one in self.calls]
            if not any(weights):
                weights = [dict(one.counts).get(name, 0) for one in self.calls]
            for share, amount in zip(found, allocate(billed, weights), strict=True):
                share[name] = amount
        return found


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One place and class, bill beside ledger."""

    place: Place
    token_class: str
    billed: int
    booked: int
    billed_amount: int
    booked_amount: int


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """Bill against ledger: every line, and every part of the gap with its cause."""

    lines: tuple[Line, ...]
    findings: tuple[Finding, ...]
    correctable: tuple[Correctable, ...]
    has_money: bool
    """The bill states amounts."""
    has_usage: bool
    """The bill states quantities."""
    notes: tuple[str, ...] = ()


def unit_of(name: str) -> str:
    """A ledger unit of a class, for lines that state money by class."""
    if name in TOKEN_CLASSES and name.startswith("cache_"):
        return f"input_{name}"
    return "input" if name == ALL else name


def plain_tier(name: str) -> str:
    """A service tier as a variant; empty for the ordinary one."""
    said = name.strip().lower()
    return "" if said in _PLAIN_TIERS else said


def token_class(unit: str) -> str:
    """The class of a ledger unit; units that are no tokens are their own."""
    if unit not in TOKEN_UNITS:
        return unit
    if is_cache_read(unit):
        return "cache_read"
    if unit.startswith("input_cache_write"):
        return unit.removeprefix("input_")
    return "input" if is_input(unit) else "output" if is_output(unit) else unit


def allocate(total: int, weights: Sequence[int]) -> list[int]:
    """``total`` split by weights into integers that sum to it exactly (largest remainder, first on ties).

    Weights are taken without their sign; all zero: equal parts. Empty weights: empty answer.
    """
    shares = [abs(weight) for weight in weights]
    whole = sum(shares)
    if not whole:
        shares, whole = [1] * len(shares), len(shares)
    sign = -1 if total < 0 else 1
    parts = [abs(total) * share // whole for share in shares]
    order = sorted(range(len(shares)), key=lambda index: (-(abs(total) * shares[index] % whole), index))
    for index in order[: abs(total) - sum(parts)]:
        parts[index] += 1
    return [sign * part for part in parts]


def folded(name: str, known: Iterable[str]) -> str:
    """A ledger class under the name that the bill uses for it: cache writes with or without their lifetime."""
    said = set(known)
    if ALL in said and name in TOKEN_CLASSES:
        return ALL
    if name in said or not name.startswith("cache_write"):
        return name
    if "cache_write" in said:
        return "cache_write"
    if name == "cache_write" and "cache_write_5m" in said:
        return "cache_write_5m"
    return name
