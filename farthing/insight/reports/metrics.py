"""The practice's figures: unit costs, hit rates under their own names, waste in dollars, latency beside cost."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from farthing.core.types import LedgerQuery, Totals
from farthing.insight.honesty import cost, cost_notes, per_request
from farthing.insight.scan import Detail, Key, quantile
from farthing.insight.table import Column, Money, Row, Table, Value, per, share

TITLE: Final = "Metrics"
TARGET_HIT: Final = 5_000
"""Token hit rate above 50 %, in hundredths of a percent."""
TARGET_ROUTED: Final = 6_000
TARGET_GPU: Final = 7_000

_BASE: Final = (
    Column(name="requests", title="requests", kind="int"),
    Column(name="cost", title="cost", kind="usd", unknown="unpriced"),
    Column(name="per_request", title="per request", kind="usd"),
    Column(name="per_1k", title="per 1k tokens", kind="usd"),
    Column(name="token_hit_rate", title="token hit rate", kind="percent"),
)
_DEEP: Final = (
    Column(name="per_success", title="per successful request", kind="usd", unknown="none succeeded"),
    Column(name="per_session", title="per session", kind="usd", unknown="no session"),
    Column(name="per_trace", title="per trace", kind="usd", unknown="no trace"),
    Column(name="per_agent", title="per agent", kind="usd", unknown="no agent"),
    Column(name="per_1k_input", title="per 1k input", kind="usd"),
    Column(name="per_1k_output", title="per 1k output", kind="usd"),
    Column(name="request_hit_rate", title="request hit rate", kind="percent"),
    Column(name="answer_hit_rate", title="answer hit rate", kind="percent"),
    Column(name="retried", title="spent on retries", kind="usd"),
    Column(name="failed", title="on failures", kind="usd"),
    Column(name="aborted", title="on aborted streams", kind="usd"),
    Column(name="p50_ms", title="latency p50 ms", kind="int"),
    Column(name="p95_ms", title="p95 ms", kind="int"),
    Column(name="ttft_p95_ms", title="first token p95 ms", kind="int"),
)
_NAMES: Final = (
    "Token hit rate: input tokens from the provider's prompt cache ÷ input tokens. Request hit rate: requests with "
    "any such token ÷ requests. Answer hit rate: requests that Farthing's own caches answered ÷ requests.",
)


def query(by: Key, *, since_ms: int, until_ms: int, where: tuple[tuple[str, str], ...] = ()) -> LedgerQuery:
    """Sums by slice."""
    return LedgerQuery(group_by=by, since_ms=since_ms, until_ms=until_ms, where=where)


def build(
    rows: Sequence[Totals], by: Key, details: Mapping[Key, Detail] | None, *, title: str = TITLE, limit: int = 0
) -> Table:
    """Most cost first. ``details`` None: the period has too many entries to read one by one."""
    ordered = sorted(rows, key=lambda row: (-row.amount, row.group))
    shown = ordered if limit <= 0 else ordered[:limit]
    lines: list[Row] = []
    for row in shown:
        known = cost(row)
        tokens = row.input_tokens + row.output_tokens
        base = (
            row.requests,
            known,
            per_request(row),
            per(None if known is None else known * 1000, tokens),
            share(row.cache_read_tokens, row.input_tokens),
        )
        deep = () if details is None else _deep(details.get(row.group, Detail()), row)
        lines.append((*(value or "(none)" for value in row.group), *base, *deep))
    notes = [*_NAMES, *cost_notes(tuple(rows))]
    if details is None:
        notes.append("Too many entries to read one by one: choose a shorter period for waste and latency.")
    columns = (*(Column(name=name, title=name) for name in by), *_BASE, *(() if details is None else _DEEP))
    return Table(title=title, columns=columns, rows=tuple(lines), notes=tuple(notes))


class Six(msgspec.Struct, frozen=True, kw_only=True):
    """What the six metrics are made of."""

    now: Totals
    before: Totals
    cheap_requests: int
    """Requests served by models of the cheap tier."""
    cost_per_request_max: int | None = None
    """The target, in nano-USD; None: nobody set one."""
    gpu_seconds: int | None = None
    gpu_busy_seconds: int | None = None
    gpu_tokens: int = 0


def six(found: Six, *, cheap: str, title: str = "Six metrics and their targets") -> Table:
    """Each metric with the period before, its target and whether it is met; what is not measured says so."""
    now, before = found.now, found.before
    each, was = per_request(now), per_request(before)
    million, was_million = _per_million(now), _per_million(before)
    hit, was_hit = (
        share(now.cache_read_tokens, now.input_tokens),
        share(before.cache_read_tokens, before.input_tokens),
    )
    routed = share(found.cheap_requests, now.requests)
    limit = found.cost_per_request_max
    seconds = found.gpu_seconds
    busy = None if not seconds or found.gpu_busy_seconds is None else share(found.gpu_busy_seconds, seconds)
    rows: tuple[Row, ...] = (
        ("cost per request", _money(each), _money(was), "set with --target" if limit is None else _money(limit),
         None if limit is None or each is None else _met(each <= limit)),
        ("cost per 1M tokens", _money(million), _money(was_million), "falling",
         None if million is None or was_million is None else _met(million <= was_million)),
        ("token cache hit rate", _points(hit), _points(was_hit), "> 50 %",
         None if hit is None else _met(hit > TARGET_HIT)),
        ("routing ratio", _points(routed), None, "> 60 %", None if routed is None else _met(routed > TARGET_ROUTED)),
        ("GPU utilisation", _points(busy), None, "> 70 %", None if busy is None else _met(busy > TARGET_GPU)),
        ("tokens per GPU second", None if not seconds else found.gpu_tokens // seconds, None, "rising", None),
    )  # fmt: skip
    columns = (
        Column(name="metric", title="metric"),
        Column(name="now", title="now", kind="quantity", unknown="not measured"),
        Column(name="before", title="period before", kind="quantity", unknown=""),
        Column(name="target", title="target", kind="quantity"),
        Column(name="met", title="met", unknown="not judged"),
    )
    notes = (
        "Cheap calls are those served by models whose blended list price (500 in, 200 out) is at "
        f"most {cheap} per million tokens.",
        "GPU figures are yours to give (--gpu-seconds, --gpu-busy-seconds, --gpu-provider): the ledger knows none.",
    )
    return Table(title=title, columns=columns, rows=rows, notes=notes)


def _deep(detail: Detail, row: Totals) -> Row:
    requests = len(detail.requests)
    return (
        per(detail.amount, len(detail.good)),
        per(detail.amount, len(detail.sessions)),
        per(detail.amount, len(detail.traces)),
        per(detail.amount, len(detail.agents)),
        per(detail.input_nusd * 1000, detail.input_tokens),
        per(detail.output_nusd * 1000, detail.output_tokens),
        share(len(detail.cached), requests),
        share(len(detail.answered), requests),
        detail.retried_nusd,
        detail.failed_nusd,
        detail.aborted_nusd,
        quantile(detail.latencies, 0.5),
        quantile(detail.latencies, 0.95),
        quantile(detail.first_tokens, 0.95),
    )


def _per_million(row: Totals) -> int | None:
    known = cost(row)
    return per(None if known is None else known * 1_000_000, row.input_tokens + row.output_tokens)


def _money(amount: int | None) -> Money | None:
    return None if amount is None else Money(amount)


def _points(value: int | None) -> Value:
    return None if value is None else f"{value / 100:.2f} %"


def _met(good: bool) -> str:
    return "yes" if good else "no"
