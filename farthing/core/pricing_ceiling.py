"""The most that an attempt can cost: what a reservation holds before the call is made.

A ceiling assumes the worst of everything the caller or the provider may still decide: the dearest tier the asked
one may become, every context step the input may reach, cache writes, dearest modalities, reasoning throughout. Rates
are rounded up to whole nano-USD per unit, so no sum of separately rounded charge lines can pass it.
"""

from typing import Final, NamedTuple

from farthing.core.money import PUSD_PER_NUSD, Nusd, ceil_nusd, price_per_million
from farthing.core.policy import Unpriced
from farthing.core.price_book import PriceBook, Rate, Resolved, Sheet
from farthing.core.pricing import DEAR, DEFAULT_TIERS, canonical_facets
from farthing.core.types import Bounds, Target

USES_ASSUMED: Final = 10
"""Uses of a hosted tool when the caller set no maximum."""

TOOL_UNITS: Final[tuple[tuple[str, str], ...]] = (
    ("web_search", "web_search"),
    ("x_search", "web_search"),
    ("web_fetch", "web_fetch"),
    ("file_search", "file_search"),
    ("code_interpreter", "code_session"),
    ("code_execution", "code_session"),
    ("google_search", "grounding"),
    ("grounding", "grounding"),
    ("url_context", ""),
    ("google_maps", "maps_grounding"),
    ("maps_grounding", "maps_grounding"),
    ("tool_search", ""),
    ("mcp", ""),
    ("computer", ""),
    ("bash", ""),
    ("text_editor", ""),
    ("memory", ""),
    ("shell", ""),
    ("local_shell", ""),
    ("apply_patch", ""),
)
"""Beginning of a hosted tool's name → the unit it is billed in; "": no fee beyond its tokens."""

_TEXT: Final = ("input", "input_tool", "input_cache_read")
_WRITES: Final = ("input_cache_write", "input_cache_write_5m", "input_cache_write_30m")
_LONG_WRITES: Final = ("input_cache_write_1h", "input_cache_write_12h")
_MEDIA: Final = (
    "input_audio", "input_audio_cache_read", "input_image", "input_image_cache_read",
    "input_video", "input_video_cache_read", "input_document", "input_document_cache_read",
)  # fmt: skip
_OUTPUT: Final = (
    "output", "output_reasoning", "output_prediction_rejected", "output_audio", "output_image", "output_video",
    "output_citation",
)  # fmt: skip


class Worst(NamedTuple):
    """The dearest rates of a model within the admissible tiers, valid for instants in [from_ms, to_ms)."""

    from_ms: int
    to_ms: int
    steps: tuple[tuple[int, int | None, int | None], ...]
    """(tier_from, nano-USD per input token, per output token), ascending and never falling."""
    request_fee: int
    fees: tuple[tuple[str, int | None], ...]
    """(hosted tool, nano-USD per use); None: unknown."""
    context_window: int | None


def ceiling(book: PriceBook, bounds: Bounds, target: Target, *, at_ms: int) -> Nusd | None:
    """At least what any attempt within these bounds can be charged; None when a price it needs is unknown."""
    found = worst(book, bounds, target, at_ms=at_ms)
    return None if found is None else _total(found, bounds)


def worst(book: PriceBook, bounds: Bounds, target: Target, *, at_ms: int) -> Worst | None:
    """What a ceiling is computed with: the same for bounds that differ in numbers of tokens and choices only."""
    media = bounds.images > 0 or bounds.unbounded
    key = (
        "ceiling",
        target.price_as,
        target.model,
        target.price_model,
        target.region,
        bounds.service_tier,
        bounds.facets,
        bounds.cache_write,
        bounds.cache_ttl_long,
        media,
        tuple(tool for tool, _ in bounds.hosted_tools) if bounds.hosted_tools else (),
    )
    held = book.memo.get(key)
    if isinstance(held, Worst) and held.from_ms <= at_ms < held.to_ms:
        return held
    found = _worst(book, bounds, target, media, at_ms)
    if found is not None:
        book.remember(key, found)
    return found


def _total(worst: Worst, bounds: Bounds) -> Nusd | None:
    tokens = bounds.input_tokens
    if bounds.unbounded:
        if worst.context_window is None:
            return None
        tokens = max(tokens, worst.context_window)
    steps = worst.steps
    step = steps[0]
    if len(steps) > 1:
        for candidate in steps:
            if candidate[0] <= tokens:
                step = candidate
    _, input_rate, output_rate = step
    total = worst.request_fee
    output = bounds.output_tokens * (bounds.choices if bounds.choices > 1 else 1)
    if (tokens and input_rate is None) or (output and output_rate is None):
        return None
    total += tokens * (input_rate or 0) + output * (output_rate or 0)
    if bounds.hosted_tools:
        for (_, uses), (_, fee) in zip(bounds.hosted_tools, worst.fees, strict=True):
            if fee is None:
                return None
            total += (uses or USES_ASSUMED) * fee
    return Nusd(total)


def admissible_tiers(book: PriceBook, resolved: Resolved, asked: str) -> tuple[str, ...]:
    """The tiers that a call asking for ``asked`` may be billed at, each a canonical name ("": the default).

    A call that names no tier is "auto": providers resolve it by project settings, so any tier may come of it. One
    that names the default cannot become dearer; any premium or economy tier may be downgraded to the default.
    """
    own = tuple(sorted(book.values_of(resolved, "service_tier")))
    if asked in ("", "auto"):
        return ("", *own)
    if asked in DEFAULT_TIERS:
        return ("",)
    if asked == "batch":
        return (asked,)
    if asked in own:
        return (asked, "")
    return () if asked == DEAR["service_tier"] else ("", *own)


def _worst(book: PriceBook, bounds: Bounds, target: Target, media: bool, at_ms: int) -> Worst | None:
    resolved = book.resolve(target.price_as, target.price_model or target.model)
    if resolved is None:
        return None
    facets = canonical_facets(book, target.price_as, bounds.service_tier, bounds.facets)
    named = dict(book.provider(target.price_as).tiers)
    asked = facets.pop("service_tier", named.get(bounds.service_tier.lower(), bounds.service_tier.lower()))
    for facet in ("speed", "latency"):
        if facets.get(facet) == DEAR[facet] and DEAR[facet] not in book.values_of(resolved, facet):
            return None
    sheets: list[Sheet] = []
    for tier in admissible_tiers(book, resolved, asked):
        said = dict(facets)
        if tier == "batch":
            said["processing"] = "batch"
        elif tier:
            said["service_tier"] = tier
        sheet = book.sheet(resolved, said, at_ms, assume=True, region=target.region.lower())
        if not sheet.reason:
            sheets.append(sheet)
    if not sheets:
        return None
    units: tuple[str, ...] = _TEXT
    if bounds.cache_write:
        units += _WRITES
        if bounds.cache_ttl_long:
            units += _LONG_WRITES
    if media:
        units += _MEDIA
    return Worst(
        max(sheet.from_ms for sheet in sheets),
        min(sheet.to_ms for sheet in sheets),
        _steps(sheets, units),
        max(_dearest(sheet.rates.get("request")) or 0 for sheet in sheets),
        tuple((tool, _fee(sheets, tool)) for tool, _ in bounds.hosted_tools),
        resolved.context_window,
    )


def _steps(sheets: list[Sheet], units: tuple[str, ...]) -> tuple[tuple[int, int | None, int | None], ...]:
    """For every threshold, the dearest input and output rate that any step at or below it has."""
    inputs = [rate for sheet in sheets for unit in units if (rate := sheet.rates.get(unit))]
    outputs = [rate for sheet in sheets for unit in _OUTPUT if (rate := sheet.rates.get(unit))]
    if not any("input" in sheet.rates for sheet in sheets):
        inputs = []
    thresholds = sorted({0} | {step[0] for rate in (*inputs, *outputs) for step in rate.steps})
    return tuple((edge, _at(inputs, edge), _at(outputs, edge)) for edge in thresholds)


def _at(rates: list[Rate], edge: int) -> int | None:
    prices = [_ceil(rate, price) for rate in rates for tier_from, price, _ in rate.steps if tier_from <= edge]
    return max(prices, default=None)


def _dearest(rate: Rate | None) -> int | None:
    return None if rate is None else max(_ceil(rate, price) for _, price, _ in rate.steps)


def _ceil(rate: Rate, price: int) -> int:
    """Nano-USD per unit, multipliers included, rounded up."""
    return -(-price * rate.numerator // (PUSD_PER_NUSD * rate.denominator))


def _fee(sheets: list[Sheet], tool: str) -> int | None:
    """Nano-USD per use of a hosted tool at the dearest; None: no price, or no such tool known."""
    unit = next((unit for head, unit in TOOL_UNITS if tool.startswith(head)), None)
    if unit is None:
        return None
    if not unit:
        return 0
    fees = [_dearest(sheet.rates.get(unit)) for sheet in sheets]
    known = [fee for fee in fees if fee is not None]
    return max(known) if known else None


def at_ceiling_rates(rates: Unpriced, *, input_tokens: int, output_tokens: int) -> Nusd:
    """Tokens at the policy's ceiling rates for unknown prices; counts against budgets, never in the ledger."""
    return Nusd(
        ceil_nusd(input_tokens, price_per_million(rates.input_usd_per_million))
        + ceil_nusd(output_tokens, price_per_million(rates.output_usd_per_million))
    )
