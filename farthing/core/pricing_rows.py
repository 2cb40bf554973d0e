"""The price book's records: dated rows, multipliers, schedules, models and providers. Immutable data, no arithmetic.

A *row* is the price of one unit of one model under stated conditions and within stated instants. Rows are never
edited: a new price is a new row with a later ``valid_from_ms``. Rows come in layers (0: the imported base list,
1: Farthing's corrections, 2: the installation's own contracts); on equal conditions the higher layer wins.
"""

from typing import Final, Literal

import msgspec

from farthing.core.money import Pusd

PriceSource = Literal["list", "contract", "manual", "self_hosted"]

BASE_LAYER: Final = 0
OVERLAY_LAYER: Final = 1
USER_LAYER: Final = 2

ANY_MODEL: Final = "*"
"""A row or multiplier for every model of its provider. Rows of this kind may only price pieces, never tokens."""

MINUTE_MS: Final = 60_000
DAY_MS: Final = 86_400_000
DISTANT_PAST: Final = -(2**62)
DISTANT_FUTURE: Final = 2**62

Conditions = tuple[tuple[str, str], ...]
"""(facet, wanted) pairs that must all hold. ``a|b``: one of; ``*``: said at all; ``!a|b``: said, and none of."""


def condition_holds(wanted: str, said: str) -> bool:
    """Whether what was said (empty: nothing) meets one condition."""
    if not said:
        return False
    if wanted == "*":
        return True
    if wanted[:1] == "!":
        return said not in wanted[1:].split("|")
    return said == wanted or said in wanted.split("|")


def conditions_hold(when: Conditions, facets: dict[str, str]) -> bool:
    """Whether all conditions are met by the facets of a call."""
    return all(condition_holds(wanted, facets.get(facet, "")) for facet, wanted in when)


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """Hours in which a row applies: UTC windows on some weekdays, holidays left out."""

    name: str
    windows: tuple[tuple[int, int], ...]
    """(from, to) in minutes of the UTC day, end exclusive; a window does not cross midnight."""
    weekdays: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    """0 is Monday; judged on the local date."""
    holidays: frozenset[int] = frozenset()
    """Local dates, in days since 1970-01-01, on which the schedule never applies."""
    calendar: str = ""
    """The name of the holiday calendar."""
    utc_offset_minutes: int = 0
    """Local time minus UTC, for weekdays and holidays only."""

    def active(self, at_ms: int) -> bool:
        """Whether the schedule applies at that instant."""
        local_day = (at_ms + self.utc_offset_minutes * MINUTE_MS) // DAY_MS
        if (local_day + 3) % 7 not in self.weekdays or local_day in self.holidays:
            return False
        minute = at_ms % DAY_MS // MINUTE_MS
        return any(start <= minute < end for start, end in self.windows)

    def steady(self, at_ms: int) -> tuple[int, int]:
        """An interval [from, to) around the instant within which :meth:`active` does not change."""
        day = at_ms - at_ms % DAY_MS
        local_midnight = day - self.utc_offset_minutes * MINUTE_MS % DAY_MS
        edges = {day, day + DAY_MS, local_midnight, local_midnight + DAY_MS}
        for start, end in self.windows:
            edges |= {day + start * MINUTE_MS, day + end * MINUTE_MS}
        return max(edge for edge in edges if edge <= at_ms), min(edge for edge in edges if edge > at_ms)


class PriceRow(msgspec.Struct, frozen=True, kw_only=True):
    """The price of one unit of one model, under conditions, within [valid_from_ms, valid_to_ms)."""

    id: str
    layer: int
    provider: str
    model: str
    unit: str
    steps: tuple[tuple[int, Pusd], ...]
    """(tier_from, pico-USD per unit): the price from that many prompt tokens on; the first step is (0, …).

    The highest step at or below the prompt's size rates the whole request, unless the row is ``marginal``.
    """
    marginal: bool = False
    """Each step rates only the quantity of this unit beyond its threshold."""
    when: Conditions = ()
    schedule: str = ""
    valid_from_ms: int | None = None
    valid_to_ms: int | None = None
    source: PriceSource = "list"
    source_url: str = ""
    checked_on: str = ""
    """ISO date on which somebody last compared the row with its source."""
    note: str = ""


class Multiplier(msgspec.Struct, frozen=True, kw_only=True):
    """A factor on top of row prices: residency, markups, provisioned capacity. All that apply are multiplied."""

    id: str
    layer: int
    name: str
    provider: str
    """Provider id, or ``*``."""
    models: tuple[str, ...] = (ANY_MODEL,)
    """Model ids; a trailing ``*`` matches any ending."""
    units: tuple[str, ...] = ()
    """Empty: every token unit. ``*``: every unit."""
    basis_points: int
    when: Conditions = ()
    assumed: bool = False
    """A ceiling counts it when its facets are not said, because the provider may choose them itself."""
    valid_from_ms: int | None = None
    valid_to_ms: int | None = None
    source: PriceSource = "list"
    source_url: str = ""
    checked_on: str = ""
    note: str = ""

    def covers_model(self, model: str) -> bool:
        """Whether this model is among the multiplier's models."""
        return any(name == model or (name[-1:] == "*" and model.startswith(name[:-1])) for name in self.models)


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """How a model recognises its names, as data."""

    kind: Literal["equals", "starts_with", "ends_with", "contains", "regex", "or", "and"]
    text: str = ""
    clauses: tuple["Match", ...] = ()


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A model of a provider: its names and its limits."""

    provider: str
    id: str
    layer: int = BASE_LAYER
    names: tuple[str, ...] = ()
    """Exact names and aliases."""
    match: Match | None = None
    context_window: int | None = None
    snapshots: tuple[str, ...] = ()
    """The dates (``20250514``) of all its snapshots, where they are known: a name with another date is nobody's."""
    falls_to: tuple[tuple[str, str], ...] = ()
    """(unit, unit whose price it has when it has none of its own), beyond the book's defaults."""


class ProviderEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A provider: where else it finds prices, and how it names service tiers."""

    id: str
    inherits: tuple[str, ...] = ()
    """Providers whose list prices for tokens hold here too when this one lists no such model (Azure → OpenAI)."""
    tiers: tuple[tuple[str, str], ...] = ()
    """(name as the provider says it, canonical tier); ``default`` has no conditions."""
    name_prefixes: tuple[tuple[str, str], ...] = ()
    """(prefix of a model name, region it stands for), stripped when the full name is unknown (Bedrock profiles)."""


class BookData(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a price book is made of; what its content hash covers."""

    rows: tuple[PriceRow, ...] = ()
    multipliers: tuple[Multiplier, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    models: tuple[ModelEntry, ...] = ()
    providers: tuple[ProviderEntry, ...] = ()
