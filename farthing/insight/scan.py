"""One pass over the entries of a period: what sums by dimension cannot tell. Bounded in length."""

from collections.abc import Iterable
from itertools import islice
from typing import Final

import msgspec

from farthing.core.dimensions import entry_value
from farthing.core.types import LedgerEntry
from farthing.core.units import is_cache_read, is_input, is_output

Key = tuple[str, ...]
ENTRIES_MAX: Final = 500_000


class Detail(msgspec.Struct, kw_only=True):
    """What one slice's entries say. Amounts in nano-USD over priced entries."""

    input_nusd: int = 0
    output_nusd: int = 0
    other_nusd: int = 0
    """Searches, images and whatever else is not tokens."""
    retried_nusd: int = 0
    """Attempts that a later attempt of the same request followed."""
    failed_nusd: int = 0
    """Billed although the attempt failed, retries left out."""
    aborted_nusd: int = 0
    """Billed although nobody was there any more to read the answer."""
    input_tokens: int = 0
    """Of entries with a price, as in all that follows that costs are divided by."""
    output_tokens: int = 0
    requests: set[str] = msgspec.field(default_factory=set)
    good: set[str] = msgspec.field(default_factory=set)
    """Requests with a price and an answer that was complete and read."""
    cached: set[str] = msgspec.field(default_factory=set)
    """Requests with any token from a provider's prompt cache."""
    answered: set[str] = msgspec.field(default_factory=set)
    """Requests that one of Farthing's own caches answered."""
    sessions: set[str] = msgspec.field(default_factory=set)
    traces: set[str] = msgspec.field(default_factory=set)
    agents: set[str] = msgspec.field(default_factory=set)
    latencies: list[int] = msgspec.field(default_factory=list)
    first_tokens: list[int] = msgspec.field(default_factory=list)

    @property
    def amount(self) -> int:
        """All of it."""
        return self.input_nusd + self.output_nusd + self.other_nusd


def scan(
    entries: Iterable[LedgerEntry], by: Key, *, since_ms: int, until_ms: int, where: tuple[tuple[str, str], ...] = ()
) -> dict[Key, Detail] | None:
    """By slice; None when there are more entries than one pass should read."""
    last: dict[str, int] = {}
    wanted: list[LedgerEntry] = []
    for read, entry in enumerate(islice(entries, ENTRIES_MAX + 1)):
        if read == ENTRIES_MAX:
            return None
        if since_ms <= entry.received_at_ms < until_ms and all(entry_value(entry, n) == v for n, v in where):
            wanted.append(entry)
            if entry.kind == "charge":
                last[entry.request_id] = max(last.get(entry.request_id, 0), entry.attempt)
    found: dict[Key, Detail] = {}
    for entry in wanted:
        detail = found.setdefault(tuple(entry_value(entry, name) for name in by), Detail())
        _add(detail, entry, retried=entry.kind == "charge" and entry.attempt < last[entry.request_id])
    return found


def _add(detail: Detail, entry: LedgerEntry, *, retried: bool) -> None:
    _costs(detail, entry)
    if entry.kind != "charge":
        return
    detail.requests.add(entry.request_id)
    if entry.charge.total is not None:
        _units(detail, entry)
    if entry.charge.reason == "cache_hit":
        detail.answered.add(entry.request_id)
    if any(is_cache_read(unit) for part in entry.usage.parts for unit, _ in part.lines):
        detail.cached.add(entry.request_id)
    amount = entry.charge.total or 0
    if retried:
        detail.retried_nusd += amount
    elif entry.client_gone:
        detail.aborted_nusd += amount
    elif entry.error or entry.status >= 400:
        detail.failed_nusd += amount
    else:
        if entry.charge.total is not None:
            detail.good.add(entry.request_id)
        detail.latencies.append(entry.latency_ms)
        if entry.ttft_ms is not None:
            detail.first_tokens.append(entry.ttft_ms)


def _units(detail: Detail, entry: LedgerEntry) -> None:
    """What the costs of a priced entry are divided by."""
    for part in entry.usage.parts:
        detail.input_tokens += sum(count for unit, count in part.lines if is_input(unit))
        detail.output_tokens += sum(count for unit, count in part.lines if is_output(unit))
    if entry.scope.session:
        detail.sessions.add(entry.scope.session)
    for name, value in entry.scope.tags:
        if name == "trace":
            detail.traces.add(value)
        elif name == "agent":
            detail.agents.add(value)


def _costs(detail: Detail, entry: LedgerEntry) -> None:
    """Lines by direction; what they do not say (a stated or corrected total) is put to the other side."""
    if entry.charge.total is None:
        return
    sums = [0, 0]
    for line in entry.charge.lines:
        if line.amount is not None and (is_input(line.unit) or is_output(line.unit)):
            sums[is_output(line.unit)] += line.amount
    detail.input_nusd += sums[0]
    detail.output_nusd += sums[1]
    detail.other_nusd += entry.charge.total - sums[0] - sums[1]


def quantile(values: list[int], share: float) -> int | None:
    """The nearest-rank quantile; None of nothing."""
    if not values:
        return None
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -(-int(share * 1000) * len(ranked) // 1000) - 1))]
