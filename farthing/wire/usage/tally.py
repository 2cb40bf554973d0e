"""Turning reported totals and their overlapping parts into disjoint lines.

Providers state a total and "of which" figures that may overlap or contradict it. Here the total always stands: a
part is at most what is left of its whole, the rest keeps the base unit, and every figure that had to give way is
noted. So the sum of the lines equals the provider's total, whatever else it said.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Final

import msgspec

from farthing.core.money import PUSD_PER_USD
from farthing.core.types import Usage, UsagePart, UsageSource
from farthing.core.units import INPUT, INPUT_CACHE_READ, INPUT_CACHE_WRITE, OUTPUT, OUTPUT_REASONING
from farthing.wire.usage.reading import Notes

Lines = dict[str, int]
"""Unit → quantity, in the order in which they are shown; zeros are dropped by :func:`part_of`."""

ANOMALIES_MAX: Final = 32

REJECTED_PREDICTION: Final = "output_prediction_rejected"

_NO_TOTAL: Final = re.compile(
    r"(?:negative|absurd|not_a_number):(?:billed_units\.)?(?:prompt_tokens|completion_tokens|input_?[tT]okens|output_?[tT]okens"
    r"|(?:prompt|candidates|response|thoughts)TokenCount|(?:input|output)TokenCount"
    r"|cache_(?:read|creation)_input_tokens|cache(?:Read|Write)InputTokens(?:Count)?)="
)
_SPILL_ORDER: Final = ("image", "audio", "video", "document")
"""Which kind gives way when cached text exceeds all text: the kinds whose cached price is nearest to text first."""


def within(part: int, whole: int, slug: str, notes: Notes) -> int:
    """``part``, or ``whole`` when the provider says that a part is larger than what contains it."""
    if part <= whole:
        return part
    notes.append(f"{slug}:{part}>{whole}")
    return whole


def input_lines(
    total: int,
    notes: Notes,
    *,
    read: int = 0,
    writes: Sequence[tuple[str, int]] = (),
    kinds: Mapping[str, int] | None = None,
    kinds_read: Mapping[str, int] | None = None,
) -> Lines:
    """An input total that includes everything, split into disjoint lines.

    ``read`` and ``writes`` (unit, tokens) are its cached parts, ``kinds`` its tokens by kind other than text (image,
    audio, video, document), ``kinds_read`` the cached part of those kinds where the provider says it. Cached tokens
    of unstated kind are text as far as there is text.
    """
    read = within(read, total, "cached_gt_input", notes)
    if not writes and not kinds:
        return {INPUT: total - read, INPUT_CACHE_READ: read}
    written, left = _writes(total - read, writes, notes)
    if not kinds:
        return {INPUT: left, INPUT_CACHE_READ: read, **written}
    others: Lines = {}
    text = total
    for kind, quantity in kinds.items():
        others[kind] = within(quantity, text, f"{kind}_gt_input", notes)
        text -= others[kind]
    text_read, others_read = _cached_by_kind(read, text, others, kinds_read, notes)
    to_write = total - read - left
    text_written = min(to_write, text - text_read)
    to_write -= text_written
    lines: Lines = {INPUT: text - text_read - text_written, INPUT_CACHE_READ: text_read, **written}
    for kind in _spill(others):
        rest = others[kind] - others_read[kind]
        kind_written = min(to_write, rest)
        to_write -= kind_written
        lines[f"input_{kind}"] = rest - kind_written
        lines[f"input_{kind}_cache_read"] = others_read[kind]
    return lines


def _writes(room: int, writes: Sequence[tuple[str, int]], notes: Notes) -> tuple[Lines, int]:
    written: Lines = {}
    for unit, quantity in writes:
        fits = within(quantity, room, "cache_write_gt_uncached_input", notes)
        room -= fits
        written[unit] = written.get(unit, 0) + fits
    return written, room


def _spill(kinds: Iterable[str]) -> list[str]:
    known = [kind for kind in _SPILL_ORDER if kind in kinds]
    return known + [kind for kind in kinds if kind not in _SPILL_ORDER]


def _cached_by_kind(
    read: int, text: int, others: Lines, stated: Mapping[str, int] | None, notes: Notes
) -> tuple[int, Lines]:
    """The cached tokens that are text and those of each other kind; they sum to ``read``."""
    cached: Lines = dict.fromkeys(others, 0)
    left = read
    for kind, quantity in (stated or {}).items():
        fits = within(quantity, others.get(kind, 0), f"cached_{kind}_gt_{kind}", notes)
        fits = within(fits, left, f"cached_{kind}_gt_cached", notes)
        if fits:
            cached[kind] = fits
            left -= fits
    text_read = min(left, text)
    left -= text_read
    if left and stated is not None:
        notes.append(f"cached_text_gt_text:{text_read + left}>{text}")
    for kind in _spill(others):
        more = min(left, others[kind] - cached[kind])
        cached[kind] += more
        left -= more
    return text_read, cached


def output_lines(
    total: int, notes: Notes, *, reasoning: int = 0, rejected: int = 0, kinds: Mapping[str, int] | None = None
) -> Lines:
    """An output total that includes everything, split into disjoint lines."""
    reasoning = within(reasoning, total, "reasoning_gt_output", notes)
    left = total - reasoning
    if not rejected and not kinds:
        return {OUTPUT: left, OUTPUT_REASONING: reasoning}
    others: Lines = {}
    if rejected:
        others[REJECTED_PREDICTION] = within(rejected, left, "rejected_prediction_gt_output", notes)
        left -= others[REJECTED_PREDICTION]
    for kind, quantity in (kinds or {}).items():
        unit = f"output_{kind}"
        others[unit] = within(quantity, left, f"{kind}_gt_output", notes)
        left -= others[unit]
    return {OUTPUT: left, OUTPUT_REASONING: reasoning, **others}


def cache_writes(total: int | None, by_ttl: Sequence[tuple[str, int]], notes: Notes) -> Lines:
    """Cache writes by lifetime; what the split leaves unsaid keeps the base write unit, and the total stands."""
    known = sum(quantity for _, quantity in by_ttl)
    left = known if total is None else total
    lines: Lines = {}
    for unit, quantity in by_ttl:
        fits = within(quantity, left, "cache_write_split_gt_total", notes)
        left -= fits
        lines[unit] = fits
    lines[INPUT_CACHE_WRITE] = left
    return lines


def check_total(stated: int | None, summed: int, notes: Notes) -> None:
    """Notes a reported grand total that its own parts do not add up to."""
    if stated is not None and stated != summed:
        notes.append(f"total_mismatch:{summed}!={stated}")


def pusd(dollars: Decimal | None, where: str, notes: Notes, *, scale: int = PUSD_PER_USD) -> int | None:
    """A stated cost as pico-USD (``scale`` of them per stated unit), rounded half-even where it is finer."""
    if dollars is None:
        return None
    if not dollars.is_finite() or dollars < 0 or dollars > 1_000_000_000_000:
        notes.append(f"not_a_cost:{where}={dollars:.6g}")
        return None
    return int((dollars * scale).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


def part_of(lines: Lines, *, tier_basis: int, model: str = "") -> UsagePart:
    """The part that these lines make; zeros left out."""
    return UsagePart(lines=tuple([line for line in lines.items() if line[1]]), tier_basis=tier_basis, model=model)


class Facts(msgspec.Struct, kw_only=True):
    """What an answer says besides quantities; filled while it is read."""

    model: str | None = None
    service_tier: str | None = None
    finish_reason: str | None = None
    upstream_id: str | None = None
    facets: dict[str, str] | None = None
    stated_pusd: int | None = None

    def facet(self, name: str, value: str | None) -> None:
        """Adds a billing fact, unless the provider did not state it."""
        if value:
            self.facets = self.facets or {}
            self.facets[name] = value


def assemble(
    parts: Iterable[UsagePart], *, source: UsageSource, facts: Facts, notes: Notes, raw: bytes = b""
) -> Usage:
    """The usage record of one attempt; parts without lines are left out."""
    return Usage(
        parts=tuple([part for part in parts if part.lines]),
        source=source,
        model=facts.model or "",
        service_tier=facts.service_tier or "",
        facets=tuple(sorted(facts.facets.items())) if facts.facets else (),
        stated_pusd=facts.stated_pusd,
        finish_reason=facts.finish_reason or "",
        upstream_id=facts.upstream_id or "",
        anomalies=tuple(dict.fromkeys(notes))[:ANOMALIES_MAX] if notes else (),
        raw=raw,
    )


def lacks_a_total(notes: Iterable[str]) -> bool:
    """One of the figures that make up the bill was said, but not so that it can be read."""
    return any(_NO_TOTAL.match(note) for note in notes)


def missing(facts: Facts, notes: Notes, *, complete: bool = True, raw: bytes = b"") -> Usage:
    """An answer that said nothing of its usage: ``missing`` when it was complete, ``partial`` when it was cut."""
    return assemble((), source="missing" if complete else "partial", facts=facts, notes=notes, raw=raw)


def milliseconds(seconds: Decimal | None, where: str, notes: Notes) -> int:
    """A length in whole milliseconds, rounded up; 0 when it was not said or makes no sense."""
    if seconds is None:
        return 0
    if not seconds.is_finite() or seconds < 0 or seconds > 1_000_000_000:
        notes.append(f"not_a_length:{where}={seconds:.6g}")
        return 0
    return int((seconds * 1000).to_integral_value(rounding=ROUND_CEILING))
