"""The baseline: traffic by prompt, exported from the ledger and committed, to price pull requests offline."""

from collections.abc import Iterable
from itertools import islice
from typing import Final

import msgspec

from farthing.core.dimensions import scope_value
from farthing.core.types import LedgerEntry
from farthing.core.units import is_cache_read, is_cache_write, is_input, is_output

VERSION: Final = 1
ENTRIES_MAX: Final = 1_000_000
MONTH_MS: Final = 2_629_800_000
"""A twelfth of a year."""
STEPS: Final = 20
TAG: Final = "tag:prompt"


class Traffic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one prompt's calls looked like. Tokens are means per call."""

    prompt: str
    """The tag ``prompt`` of its calls; where they carry none, their feature."""
    model: str
    """The model asked for."""
    provider: str
    calls_month: int
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int
    outputs: tuple[int, ...]
    """Output tokens at 0, 5, … 100 % of calls."""
    cost_month_nusd: int
    unpriced: int = 0


class Baseline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One export."""

    version: int = VERSION
    since_ms: int
    until_ms: int
    traffic: tuple[Traffic, ...] = ()


def export(entries: Iterable[LedgerEntry], *, since_ms: int, until_ms: int) -> Baseline:
    """The traffic of a period by prompt and model, scaled to a month. Raises ``ValueError`` for too much of it."""
    groups: dict[tuple[str, str, str], list[LedgerEntry]] = {}
    for read, entry in enumerate(islice(entries, ENTRIES_MAX + 1)):
        if read == ENTRIES_MAX:
            raise ValueError(f"more than {ENTRIES_MAX:,} entries; choose a shorter period")
        if (
            since_ms <= entry.received_at_ms < until_ms
            and entry.kind == "charge"
            and entry.charge.reason != "cache_hit"
        ):
            prompt = scope_value(entry.scope, TAG) or entry.scope.feature
            groups.setdefault((prompt, entry.model_requested, entry.provider), []).append(entry)
    span = until_ms - since_ms
    rows = (_traffic(key, found, span) for key, found in groups.items())
    ordered = sorted(rows, key=lambda row: (row.prompt, row.model, row.provider))
    return Baseline(since_ms=since_ms, until_ms=until_ms, traffic=tuple(ordered))


def _traffic(key: tuple[str, str, str], found: list[LedgerEntry], span: int) -> Traffic:
    sums, outputs = [0, 0, 0, 0], []
    for entry in found:
        output = 0
        for part in entry.usage.parts:
            for unit, count in part.lines:
                if is_output(unit):
                    output += count
                elif is_input(unit):
                    sums[0] += count
                    sums[1] += count if is_cache_read(unit) else 0
                    sums[2] += count if is_cache_write(unit) else 0
        sums[3] += output
        outputs.append(output)
    outputs.sort()
    size = len(found)
    return Traffic(
        prompt=key[0],
        model=key[1],
        provider=key[2],
        calls_month=max(1, round(size * MONTH_MS / span)),
        input_tokens=round(sums[0] / size),
        cache_read_tokens=round(sums[1] / size),
        cache_write_tokens=round(sums[2] / size),
        output_tokens=round(sums[3] / size),
        outputs=tuple(outputs[min(size - 1, step * (size - 1) // STEPS)] for step in range(STEPS + 1)),
        cost_month_nusd=round(sum(entry.charge.total or 0 for entry in found) * MONTH_MS / span),
        unpriced=sum(entry.charge.total is None for entry in found),
    )
