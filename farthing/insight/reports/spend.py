"""Spend by any dimensions: who and what, how much, at what cost a request."""

from typing import Final

from farthing.core.dimensions import TIME_DIMENSIONS
from farthing.core.types import LedgerQuery, Totals
from farthing.insight.honesty import cost, cost_notes
from farthing.insight.table import Column, Row, Table, Value, per, share

TITLE: Final = "Spend"

_MEASURES: Final = (
    Column(name="requests", title="requests", kind="int"),
    Column(name="entries", title="entries", kind="int"),
    Column(name="input_tokens", title="input", kind="int"),
    Column(name="cached_tokens", title="cached", kind="int"),
    Column(name="output_tokens", title="output", kind="int"),
    Column(name="cost", title="cost", kind="usd", unknown="unpriced"),
    Column(name="share", title="share", kind="percent"),
    Column(name="cost_per_request", title="per request", kind="usd"),
    Column(name="estimated", title="of it estimated", kind="usd"),
    Column(name="unpriced", title="unpriced", kind="int"),
)


def query(
    by: tuple[str, ...],
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    where: tuple[tuple[str, str], ...] = (),
) -> LedgerQuery:
    """The question to the ledger."""
    return LedgerQuery(group_by=by, since_ms=since_ms, until_ms=until_ms, where=where)


def build(
    rows: tuple[Totals, ...], whole: tuple[Totals, ...], by: tuple[str, ...], *, title: str = TITLE, limit: int = 0
) -> Table:
    """The table: largest cost first, or in order of time when grouped by it first.

    ``whole`` is the answer to the same query without groups: only there is a request that has entries in two groups
    counted once. ``limit`` > 0 keeps that many rows and sums the others in one.
    """
    ordered = sorted(rows, key=lambda row: (-row.amount, -row.entries, row.group))
    if by and by[0] in TIME_DIMENSIONS:
        ordered = sorted(rows, key=lambda row: (row.group[0], -row.amount, row.group))
    amount = sum(row.amount for row in rows)
    shown = ordered if limit <= 0 else ordered[:limit]
    lines = [_line(tuple(value or "(none)" for value in row.group), row, amount) for row in shown]
    rest = ordered[len(shown) :]
    if rest:
        label = (f"(other: {len(rest)})", *([""] * (len(by) - 1))) if by else ()
        lines.append(_line(label, _sum(rest, requests=None), amount))
    everything = _sum(ordered, requests=sum(total.requests for total in whole))
    total_label = ("total", *([""] * (len(by) - 1))) if by else ()
    return Table(
        title=title,
        columns=(*(Column(name=name, title=name) for name in by), *_MEASURES),
        rows=tuple(lines),
        total=_line(total_label, everything, amount) if by and rows else None,
        notes=cost_notes(rows),
    )


def _line(labels: tuple[Value, ...], row: Totals, whole: int) -> Row:
    known = cost(row)
    return (
        *labels,
        row.requests if row.requests >= 0 else None,
        row.entries,
        row.input_tokens,
        row.cache_read_tokens,
        row.output_tokens,
        known,
        share(row.amount, whole) if known is not None else None,
        per(known, row.requests),
        row.estimated_amount,
        row.unpriced,
    )


def _sum(rows: list[Totals], *, requests: int | None) -> Totals:
    """The rows together; ``requests`` None: not known, because groups may share requests."""
    return Totals(
        requests=-1 if requests is None else requests,
        entries=sum(row.entries for row in rows),
        amount=sum(row.amount for row in rows),
        unpriced=sum(row.unpriced for row in rows),
        estimated=sum(row.estimated for row in rows),
        estimated_amount=sum(row.estimated_amount for row in rows),
        input_tokens=sum(row.input_tokens for row in rows),
        cache_read_tokens=sum(row.cache_read_tokens for row in rows),
        output_tokens=sum(row.output_tokens for row in rows),
    )
