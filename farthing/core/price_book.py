"""The price book: an immutable snapshot of prices that resolves names to models and instants to sheets.

A *sheet* is everything that rates one model under one set of facets within one steady interval: per unit its price
steps and multipliers. Sheets are memoised, so that rating a call costs dictionary look-ups and integer arithmetic.
"""

import hashlib
from collections import defaultdict
from typing import Final, NamedTuple

import msgspec

from farthing.core.money import BASIS
from farthing.core.pricing_names import NameIndex, is_snapshot_of, spellings
from farthing.core.pricing_rows import (
    ANY_MODEL,
    DISTANT_FUTURE,
    DISTANT_PAST,
    BookData,
    ModelEntry,
    Multiplier,
    PriceRow,
    ProviderEntry,
    conditions_hold,
)
from farthing.core.units import TOKEN_UNITS, UNITS

MEMO_ENTRIES_MAX: Final = 8192
"""Names and facets come from outside; the memo is emptied when it grows beyond this."""

FALLS_TO: Final[dict[str, str]] = {
    "output_reasoning": "output",
    "output_prediction_rejected": "output",
    "input_tool": "input",
    "input_cache_read": "input",
    "input_cache_write": "input",
    "input_cache_write_5m": "input_cache_write",
    "input_cache_write_30m": "input_cache_write",
    "input_image": "input",
    "input_video": "input",
    "input_document": "input",
    "input_audio_cache_read": "input_audio",
}
"""Whose price a unit has when its model states none. Audio is never text; a long cache write is never a short one."""

_CACHED_MEDIA: Final = ("input_image", "input_video", "input_document")

_FACET_WEIGHT: Final = {"processing": 64, "speed": 32, "traffic": 16, "service_tier": 8, "region": 4}
"""Which condition decides when two rows name as many facets, and no more than one would do."""


class Resolved(NamedTuple):
    """A model in the book."""

    provider: str
    """Who bills."""
    owner: str
    """Whose list the rows are in: the same, or a provider it inherits from."""
    model: str
    region: str
    """The region the name implies (Bedrock profiles); empty: none."""
    context_window: int | None


class Rate(NamedTuple):
    """How one unit is rated."""

    steps: tuple[tuple[int, int, str], ...]
    """(tier_from, pico-USD per unit, row label), ascending."""
    multipliers: tuple[tuple[str, int], ...]
    numerator: int
    """Product of the multipliers' basis points."""
    denominator: int
    marginal: bool


class Sheet(NamedTuple):
    """All rates of one model under given facets; valid for instants in [from_ms, to_ms)."""

    from_ms: int
    to_ms: int
    model: str
    rates: dict[str, Rate]
    reason: str
    """Why nothing can be rated; empty: it can."""
    context_window: int | None = None


class PriceBook:
    """An immutable price book. Safe to share; the only thing that changes inside are memo tables."""

    __slots__ = (
        "_models", "_multipliers", "_names", "_providers", "_resolved", "_rows", "_schedules", "data", "memo", "ref",
    )  # fmt: skip

    def __init__(self, data: BookData) -> None:
        """``data`` is taken as checked (``pricing_check.problems``)."""
        self.data = data
        self.ref = content_ref(data)
        """Content hash: equal for equal contents, in every process."""
        self.memo: dict[object, object] = {}
        """For the pricing functions; see :meth:`remember`."""
        self._resolved: dict[tuple[str, str], Resolved | None] = {}
        self._providers = {entry.id: entry for entry in data.providers}
        self._schedules = {schedule.name: schedule for schedule in data.schedules}
        self._models: dict[tuple[str, str], ModelEntry] = {}
        listed: dict[str, list[ModelEntry]] = defaultdict(list)
        for entry in data.models:
            held = self._models.get((entry.provider, entry.id))
            self._models[entry.provider, entry.id] = entry if held is None else _joined(held, entry)
            listed[entry.provider].append(entry)
        self._names = {provider: NameIndex(models) for provider, models in listed.items()}
        rows: dict[tuple[str, str], list[PriceRow]] = defaultdict(list)
        for row in data.rows:
            rows[row.provider, row.model].append(row)
        self._rows = dict(rows)
        self._multipliers = tuple(sorted(data.multipliers, key=lambda item: item.id))

    def remember(self, key: object, value: object) -> None:
        """Keep a derived value; everything is forgotten when there is too much of it."""
        if len(self.memo) >= MEMO_ENTRIES_MAX:
            self.memo.clear()
        self.memo[key] = value

    def provider(self, provider: str) -> ProviderEntry:
        """The provider's entry; an empty one when the book has none."""
        return self._providers.get(provider) or ProviderEntry(id=provider)

    def models(self, provider: str = "") -> tuple[ModelEntry, ...]:
        """All models, or one provider's, in the order of the book."""
        return tuple(entry for entry in self._models.values() if provider in ("", entry.provider))

    def rows(self, provider: str, model: str) -> tuple[PriceRow, ...]:
        """A model's own rows, in the order of the book."""
        return tuple(self._rows.get((provider, model), ()))

    def resolve(self, provider: str, name: str) -> Resolved | None:
        """The model behind a name, or None: no clause of the provider, or of those it inherits from, claims it."""
        key = (provider, name)
        try:
            return self._resolved[key]
        except KeyError:
            pass
        found = self._resolve(provider, name)
        if len(self._resolved) >= MEMO_ENTRIES_MAX:
            self._resolved.clear()
        self._resolved[key] = found
        return found

    def _resolve(self, provider: str, name: str) -> Resolved | None:
        entry = self.provider(provider)
        for owner in (provider, *entry.inherits):
            index = self._names.get(owner)
            if index is None:
                continue
            for spelling, region in spellings(name, entry):
                model = index.find(spelling)
                if model is not None:
                    window = self._models[owner, model].context_window
                    return Resolved(provider, owner, model, region, window)
        return None

    def resolve_served(self, provider: str, sent: str, served: str, *, pinned: bool) -> Resolved | None:
        """The model to bill: the pinned one, else the served one, else the sent one if served is a snapshot of it."""
        if pinned or not served or served == sent:
            return self.resolve(provider, sent)
        found = self.resolve(provider, served)
        if found is None and is_snapshot_of(served, sent):
            return self.resolve(provider, sent)
        return found

    def sheet(
        self, resolved: Resolved, facets: dict[str, str], at_ms: int, *, assume: bool = False, region: str = ""
    ) -> Sheet:
        """The rates of a model under facets at an instant. Not memoised: see ``pricing.quote``.

        ``assume`` counts multipliers the provider may choose itself although ``facets`` do not say so.
        """
        if region and not facets.get("region"):
            facets = {**facets, "region": region}
        if resolved.region and not facets.get("region"):
            facets = {**facets, "region": resolved.region}
        rows = self._candidates(resolved)
        multipliers = [item for item in self._multipliers if _concerns(item, resolved)]
        from_ms, to_ms = self._steady(rows, multipliers, at_ms)
        chosen = self._chosen(rows, facets, at_ms)
        if not chosen:
            return Sheet(from_ms, to_ms, resolved.model, {}, "no_price_at", resolved.context_window)
        active = [item for item in multipliers if _applies(item, facets, at_ms, assume)]
        falls_to = self._falls_to(resolved, chosen)
        rates: dict[str, Rate] = {}
        for unit in UNITS:
            row = _priced_by(unit, chosen, falls_to)
            if row is not None:
                rates[unit] = _rate(row, unit, active)
        return Sheet(from_ms, to_ms, resolved.model, rates, "", resolved.context_window)

    def values_of(self, resolved: Resolved, facet: str) -> frozenset[str]:
        """The values of a facet for which the model has rows or multipliers of its own."""
        items: list[PriceRow | Multiplier] = [
            *self._candidates(resolved),
            *(item for item in self._multipliers if _concerns(item, resolved)),
        ]
        return frozenset(
            value
            for item in items
            for name, wanted in item.when
            if name == facet and wanted[:1] not in "!*"
            for value in wanted.split("|")
        )

    def _candidates(self, resolved: Resolved) -> list[PriceRow]:
        rows = [
            *self._rows.get((resolved.owner, resolved.model), ()),
            *self._rows.get((resolved.provider, ANY_MODEL), ()),
        ]
        if resolved.owner == resolved.provider:
            return rows
        # A list inherited from another provider holds for tokens, synchronous or batched. Premium tiers, speeds
        # and hosted tools are that provider's own business.
        return [row for row in rows if row.provider == resolved.provider or _is_inherited(row)]

    def _steady(self, rows: list[PriceRow], multipliers: list[Multiplier], at_ms: int) -> tuple[int, int]:
        low, high = DISTANT_PAST, DISTANT_FUTURE
        dated: list[PriceRow | Multiplier] = [*rows, *multipliers]
        for item in dated:
            for edge in (item.valid_from_ms, item.valid_to_ms):
                if edge is not None:
                    low, high = (max(low, edge), high) if edge <= at_ms else (low, min(high, edge))
        for name in {row.schedule for row in rows if row.schedule}:
            start, end = self._schedules[name].steady(at_ms)
            low, high = max(low, start), min(high, end)
        return low, high

    def _chosen(self, rows: list[PriceRow], facets: dict[str, str], at_ms: int) -> dict[str, PriceRow]:
        best: dict[str, tuple[tuple[object, ...], PriceRow]] = {}
        for row in rows:
            if not _within(row, at_ms) or not conditions_hold(row.when, facets):
                continue
            if row.schedule and not self._schedules[row.schedule].active(at_ms):
                continue
            rank = _rank(row)
            held = best.get(row.unit)
            if held is None or rank > held[0]:
                best[row.unit] = (rank, row)
        return {unit: row for unit, (_, row) in best.items()}

    def _falls_to(self, resolved: Resolved, chosen: dict[str, PriceRow]) -> dict[str, str]:
        falls_to = dict(FALLS_TO)
        for unit in _CACHED_MEDIA:
            falls_to[f"{unit}_cache_read"] = unit if unit in chosen else "input_cache_read"
        falls_to.update(self._models[resolved.owner, resolved.model].falls_to)
        return falls_to


def content_ref(data: BookData) -> str:
    """A short hash of the book's contents, independent of order and process."""
    digest = hashlib.sha256()
    for part in (data.rows, data.multipliers, data.models, data.schedules, data.providers):
        for line in sorted(msgspec.json.encode(item, order="sorted") for item in part):
            digest.update(line)
    return digest.hexdigest()[:16]


def _joined(first: ModelEntry, second: ModelEntry) -> ModelEntry:
    """One model described in two layers: the later one adds names and replaces what it states."""
    return msgspec.structs.replace(
        first,
        layer=second.layer,
        names=first.names + second.names,
        match=second.match or first.match,
        context_window=second.context_window or first.context_window,
        snapshots=first.snapshots + second.snapshots,
        falls_to=first.falls_to + second.falls_to,
    )


def _concerns(item: Multiplier, resolved: Resolved) -> bool:
    return item.provider in (ANY_MODEL, resolved.provider) and item.covers_model(resolved.model)


def _applies(item: Multiplier, facets: dict[str, str], at_ms: int, assume: bool) -> bool:
    if not _within(item, at_ms):
        return False
    if assume and item.assumed and not any(facets.get(facet) for facet, _ in item.when):
        return True
    return conditions_hold(item.when, facets)


def _within(item: PriceRow | Multiplier, at_ms: int) -> bool:
    start, end = item.valid_from_ms, item.valid_to_ms
    return (start is None or start <= at_ms) and (end is None or at_ms < end)


def _is_inherited(row: PriceRow) -> bool:
    return row.unit in TOKEN_UNITS and all(facet == "processing" for facet, _ in row.when)


def _rank(row: PriceRow) -> tuple[object, ...]:
    """Which of several rows that hold is meant: the one that says more, then the higher layer, then the newer."""
    return (
        row.model != ANY_MODEL,
        len(row.when) + bool(row.schedule),
        sum(_FACET_WEIGHT.get(facet, 1) for facet, _ in row.when),
        row.layer,
        DISTANT_PAST if row.valid_from_ms is None else row.valid_from_ms,
        row.id,
    )


def _priced_by(unit: str, chosen: dict[str, PriceRow], falls_to: dict[str, str]) -> PriceRow | None:
    for _ in range(len(falls_to) + 1):
        row = chosen.get(unit)
        if row is not None:
            return row
        parent = falls_to.get(unit)
        if parent is None:
            return None
        unit = parent
    return None


def _rate(row: PriceRow, unit: str, multipliers: list[Multiplier]) -> Rate:
    applied = tuple(
        (item.name, item.basis_points)
        for item in multipliers
        if (unit in item.units or ANY_MODEL in item.units if item.units else unit in TOKEN_UNITS)
    )
    numerator, denominator = 1, 1
    for _, basis_points in applied:
        numerator *= basis_points
        denominator *= BASIS
    steps = tuple(
        (tier_from, int(price), f"{row.id}@{tier_from}" if tier_from else row.id) for tier_from, price in row.steps
    )
    return Rate(steps, applied, numerator, denominator, row.marginal)
