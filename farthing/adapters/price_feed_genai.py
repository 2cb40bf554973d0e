"""The base price list: the ``genai-prices`` package, converted to the book's rows.

Imported lazily by ``price_feeds`` because the package takes a quarter of a second to import. Nothing is fetched: the
list is the one that the pinned package carries.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final, NamedTuple

from genai_prices import data, types

from farthing.core.money import Pusd, price_per_million
from farthing.core.pricing_rows import BASE_LAYER, Match, ModelEntry, PriceRow, ProviderEntry, Schedule

UNITS: Final[dict[str, tuple[str, int]]] = {
    "input_mtok": ("input", 1),
    "output_mtok": ("output", 1),
    "cache_read_mtok": ("input_cache_read", 1),
    "cache_write_mtok": ("input_cache_write", 1),
    "cache_write_1h_mtok": ("input_cache_write_1h", 1),
    "input_audio_mtok": ("input_audio", 1),
    "cache_audio_read_mtok": ("input_audio_cache_read", 1),
    "output_audio_mtok": ("output_audio", 1),
    "input_image_mtok": ("input_image", 1),
    "cache_image_read_mtok": ("input_image_cache_read", 1),
    "output_image_mtok": ("output_image", 1),
    "input_video_mtok": ("input_video", 1),
    "output_video_mtok": ("output_video", 1),
    "output_reasoning_mtok": ("output_reasoning", 1),
    "output_citation_mtok": ("output_citation", 1),
    "input_mchars": ("character", 1),
    "web_searches_kcount": ("web_search", 1_000),
    "storage_searches_kcount": ("file_search", 1_000),
    "rerank_searches_kcount": ("search_unit", 1_000),
    "requests_kcount": ("request", 1_000),
    "input_document_kpages": ("page", 1_000),
    "audio_hours": ("input_audio_ms", 0),
    "input_audio_hours": ("input_audio_ms", 0),
}
"""Price key of the list → (our unit, its price per million ÷ the listed price; 0: listed per hour, ours per ms)."""

_HOUR_MS: Final = 3_600_000


class Feed(NamedTuple):
    """A converted list."""

    rows: tuple[PriceRow, ...]
    models: tuple[ModelEntry, ...]
    providers: tuple[ProviderEntry, ...]
    schedules: tuple[Schedule, ...]
    dust: tuple[str, ...]
    """Prices with digits finer than a pico-USD per unit, rounded: "where: listed → used"."""
    skipped: tuple[str, ...]
    """Price keys for which there is no unit, "provider/model: key"."""


class _Period(NamedTuple):
    start_ms: int | None
    end_ms: int | None
    prices: types.ModelPrice
    schedule: str = ""


class Converter:
    """One conversion of the whole list; keeps what had to be rounded or left out."""

    def __init__(self, verified: Mapping[str, frozenset[date]], dropped: frozenset[tuple[str, str]]) -> None:
        """``verified``: per provider the dates on which the list's authors *checked* tier prices.

        The list carries them as start dates, but the tiers are older; such rows are carried back to the beginning.
        ``dropped``: (provider, model) whose rows a correction replaces altogether.
        """
        self.verified = verified
        self.dropped = dropped
        self.rows: list[PriceRow] = []
        self.models: list[ModelEntry] = []
        self.schedules: dict[str, Schedule] = {}
        self.dust: list[str] = []
        self.skipped: list[str] = []
        self._priced: dict[tuple[Decimal, int], tuple[Pusd, bool]] = {}

    def convert(self, providers: Iterable[types.Provider]) -> Feed:
        """Everything the list says that the book can say."""
        entries: list[ProviderEntry] = []
        for provider in providers:
            entries.append(ProviderEntry(id=provider.id, inherits=tuple(provider.fallback_model_providers or ())))
            url = (provider.pricing_urls or [""])[0]
            for model in provider.models:
                self._model(provider.id, model, url)
        return Feed(
            tuple(self.rows),
            tuple(self.models),
            tuple(entries),
            tuple(self.schedules.values()),
            tuple(self.dust),
            tuple(self.skipped),
        )

    def _model(self, provider: str, model: types.ModelInfo, url: str) -> None:
        self.models.append(
            ModelEntry(provider=provider, id=model.id, match=_match(model.match), context_window=model.context_window)
        )
        if (provider, model.id) in self.dropped:
            return
        periods = list(self._periods(model))
        free = model.id.endswith(":free") and not any(_stated(period.prices) for period in periods)
        for period in periods:
            prices: dict[str, Decimal | types.TieredPrices] = _stated(period.prices)
            if free:
                prices = {"input_mtok": Decimal(0), "output_mtok": Decimal(0)}
            self._rows(provider, model.id, prices, period, (), url)
        for when, variants in _by_context(model).items():
            for period, prices in self._variant_periods(provider, variants, periods):
                self._rows(provider, model.id, prices, period, when, url)

    def _periods(self, model: types.ModelInfo) -> Iterator[_Period]:
        """Standard prices as intervals. In the list, the last active price wins, as a whole."""
        if isinstance(model.prices, types.ModelPrice):
            yield _Period(None, None, model.prices)
            return
        edges = sorted({_start_ms(price.constraint) for price in model.prices} - {None}, key=lambda edge: edge or 0)
        starts: list[int | None] = [None, *edges]
        for start, end in zip(starts, [*edges, None], strict=True):
            hours: list[types.ConditionalPrice] = []
            for price in reversed(model.prices):
                if isinstance(price.constraint, types.TimeOfDateConstraint):
                    hours.append(price)
                    continue
                since = _start_ms(price.constraint)
                if since is None or (start is not None and since <= start):
                    yield _Period(start, end, price.prices)
                    break
            for price in hours:
                yield _Period(start, end, price.prices, self._schedule(price.constraint))

    def _schedule(self, constraint: object) -> str:
        assert isinstance(constraint, types.TimeOfDateConstraint)
        begin, end = constraint.start_time, constraint.end_time
        windows = ((begin.hour * 60 + begin.minute, end.hour * 60 + end.minute),)
        name = f"daily-{begin:%H%M}-{end:%H%M}"
        self.schedules.setdefault(name, Schedule(name=name, windows=windows))
        return name

    def _variant_periods(
        self, provider: str, variants: list[types.PriceVariant], standard: list[_Period]
    ) -> Iterator[tuple[_Period, dict[str, Decimal | types.TieredPrices]]]:
        """Tier prices as intervals. In the list, the first active variant that states a price wins, per price."""
        dated = sorted(((self._since(provider, variant), variant) for variant in variants), key=_by_start)
        edges = sorted({since for since, _ in dated if since is not None})
        starts: list[int | None] = [None, *edges]
        for start, end in zip(starts, [*edges, None], strict=True):
            prices: dict[str, Decimal | types.TieredPrices] = {}
            for variant in variants:
                since = self._since(provider, variant)
                if since is None or (start is not None and since <= start):
                    for key, value in _stated(variant.prices).items():
                        prices.setdefault(key, value)
            if prices:
                yield from self._carried_back(_Period(start, end, types.ModelPrice()), prices, standard)

    def _since(self, provider: str, variant: types.PriceVariant) -> int | None:
        constraint = variant.constraint
        if isinstance(constraint, types.StartDateConstraint) and constraint.start_date in self.verified.get(
            provider, frozenset()
        ):
            return None
        return _start_ms(constraint)

    def _carried_back(
        self,
        period: _Period,
        prices: dict[str, Decimal | types.TieredPrices],
        standard: list[_Period],
    ) -> Iterator[tuple[_Period, dict[str, Decimal | types.TieredPrices]]]:
        """A tier price holds while the standard price it was set against does; before that, in proportion."""
        spans = [span for span in standard if not span.schedule and _overlaps(span, period)]
        latest = _stated(spans[-1].prices) if spans else {}
        for span in spans:
            then = _stated(span.prices)
            scaled = {
                key: value
                for key, listed in prices.items()
                if (value := _in_proportion(listed, latest.get(key), then.get(key))) is not None
            }
            start = _later(period.start_ms, span.start_ms)
            yield _Period(start, _earlier(period.end_ms, span.end_ms), period.prices), scaled
        if not spans:
            yield period, prices

    def _rows(
        self,
        provider: str,
        model: str,
        prices: Mapping[str, Decimal | types.TieredPrices],
        period: _Period,
        when: tuple[tuple[str, str], ...],
        url: str,
    ) -> None:
        tail = "".join(f";{facet}={value}" for facet, value in when)
        tail += f";{period.schedule}" if period.schedule else ""
        tail += f";from={datetime.fromtimestamp(period.start_ms / 1000, UTC):%Y-%m-%d}" if period.start_ms else ""
        seen: set[str] = set()
        for key, value in sorted(prices.items(), reverse=True):
            unit, scale = UNITS.get(key, ("", 0))
            if not unit:
                self.skipped.append(f"{provider}/{model}: {key}")
                continue
            for name in (unit, "grounding") if (provider, unit) == ("google", "web_search") else (unit,):
                if name in seen:
                    continue
                seen.add(name)
                row_id = f"{provider}/{model}/{name}{tail}"
                self.rows.append(
                    PriceRow(
                        id=row_id,
                        layer=BASE_LAYER,
                        provider=provider,
                        model=model,
                        unit=name,
                        steps=self._steps(value, scale, row_id),
                        when=when,
                        schedule=period.schedule,
                        valid_from_ms=period.start_ms,
                        valid_to_ms=period.end_ms,
                        source_url=url,
                        note="genai-prices",
                    )
                )

    def _steps(self, value: Decimal | types.TieredPrices, scale: int, where: str) -> tuple[tuple[int, Pusd], ...]:
        if isinstance(value, Decimal):
            return ((0, self._price(value, scale, where)),)
        # The list's tiers begin above their threshold; ours at the first token that has the price.
        tiers = [(tier.start + 1, self._price(tier.price, scale, where)) for tier in value.tiers]
        return ((0, self._price(value.base, scale, where)), *tiers)

    def _price(self, listed: Decimal, scale: int, where: str) -> Pusd:
        key = (listed, scale)
        held = self._priced.get(key)
        if held is None:
            per_million = listed * scale if scale else listed * 1_000_000 / _HOUR_MS
            try:
                held = (price_per_million(per_million), False)
            except ValueError:
                held = (price_per_million(per_million, quantize=True), True)
            self._priced[key] = held
        price, rounded = held
        if rounded:
            self.dust.append(f"{where}: {listed} → {price} pUSD per unit")
        return price


def load(verified: Mapping[str, frozenset[date]], dropped: frozenset[tuple[str, str]]) -> Feed:
    """The pinned package's list as book records."""
    return Converter(verified, dropped).convert(data.providers)


def _stated(prices: types.ModelPrice) -> dict[str, Decimal | types.TieredPrices]:
    return {key: value for key, value in prices.__dict__.items() if value is not None}


def _by_context(model: types.ModelInfo) -> dict[tuple[tuple[str, str], ...], list[types.PriceVariant]]:
    grouped: dict[tuple[tuple[str, str], ...], list[types.PriceVariant]] = {}
    for variant in model.price_variants or ():
        when = tuple(sorted(variant.when.items()))
        if when == (("service_tier", "default"),) or when == (("service_tier", "fast"),):
            continue  # "default" is the absence of a tier; "fast" is echoed, and priced, as "priority"
        grouped.setdefault(when, []).append(variant)
    return grouped


def _match(logic: types.MatchLogic) -> Match:
    match logic:
        case types.ClauseOr():
            return Match(kind="or", clauses=tuple(_match(part) for part in logic.or_))
        case types.ClauseAnd():
            return Match(kind="and", clauses=tuple(_match(part) for part in logic.and_))
        case types.ClauseEquals():
            return Match(kind="equals", text=logic.equals)
        case types.ClauseStartsWith():
            return Match(kind="starts_with", text=logic.starts_with)
        case types.ClauseEndsWith():
            return Match(kind="ends_with", text=logic.ends_with)
        case types.ClauseContains():
            return Match(kind="contains", text=logic.contains)
        case _:
            return Match(kind="regex", text=logic.regex)


def _start_ms(constraint: object) -> int | None:
    if not isinstance(constraint, types.StartDateConstraint):
        return None
    day = constraint.start_date
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


def _by_start(dated: tuple[int | None, types.PriceVariant]) -> int:
    return dated[0] or 0


def _overlaps(span: _Period, period: _Period) -> bool:
    starts_before = span.start_ms is None or period.end_ms is None or span.start_ms < period.end_ms
    return starts_before and (span.end_ms is None or period.start_ms is None or period.start_ms < span.end_ms)


def _later(first: int | None, second: int | None) -> int | None:
    return max((edge for edge in (first, second) if edge is not None), default=None)


def _earlier(first: int | None, second: int | None) -> int | None:
    return min((edge for edge in (first, second) if edge is not None), default=None)


def _in_proportion(
    listed: Decimal | types.TieredPrices,
    latest: Decimal | types.TieredPrices | None,
    then: Decimal | types.TieredPrices | None,
) -> Decimal | types.TieredPrices | None:
    """The tier's price against another standard price; None where the standard price does not tell."""
    if latest == then or latest is None or then is None:
        return listed
    now = _base(latest)
    if not now:
        return listed
    if isinstance(listed, Decimal) and (isinstance(latest, types.TieredPrices) or isinstance(then, Decimal)):
        return _base(then) * listed / now
    if isinstance(then, Decimal):
        return then * _base(listed) / now
    share = _base(listed)
    return types.TieredPrices(
        base=then.base * share / now,
        tiers=[types.Tier(start=tier.start, price=tier.price * share / now) for tier in then.tiers],
    )


def _base(price: Decimal | types.TieredPrices) -> Decimal:
    return price if isinstance(price, Decimal) else price.base
