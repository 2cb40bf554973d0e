"""Spend by any dimensions: who and what, how much, at what cost a request."""

import heapq
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Final

from farthing.core.dimensions import TIME_DIMENSIONS
from farthing.core.types import LedgerQuery, Totals
from farthing.insight.honesty import cost, cost_notes, per_request
from farthing.insight.table import Column, Row, Table, Value, share

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


def first(
    amounts: Mapping[tuple[str, ...], tuple[int, int]], by: tuple[str, ...], limit: int
) -> tuple[tuple[str, ...], ...]:
    """The groups with a row of their own, in the order of the table; ``amounts``: (amount, entries) of all."""
    timed = bool(by) and by[0] in TIME_DIMENSIONS
    return tuple(heapq.nsmallest(limit, amounts, key=lambda group: _place(timed, group, *amounts[group])))


def build(
    rows: tuple[Totals, ...],
    whole: tuple[Totals, ...],
    by: tuple[str, ...],
    *,
    title: str = TITLE,
    limit: int = 0,
    groups: int = 0,
) -> Table:
    """The table: largest cost first, or in order of time when grouped by it first.

    ``whole`` is the answer to the same query without groups: only there is a request that has entries in two groups
    counted once. ``limit`` > 0 keeps that many rows and sums the others in one. ``groups`` > 0: so many there are,
    and ``rows`` are the :func:`first` of them only; all others are what these leave of ``whole``.
    """
    timed = bool(by) and by[0] in TIME_DIMENSIONS
    ordered = sorted(rows, key=lambda row: _place(timed, row.group, row.amount, row.entries))
    shown = ordered if limit <= 0 else ordered[:limit]
    everything = _sum(ordered, requests=sum(total.requests for total in whole))
    others, rest = len(ordered) - len(shown), _sum(ordered[len(shown) :], requests=None)
    if groups:
        everything = _sum(whole, requests=everything.requests)
        others, rest = groups - len(shown), _left(everything, _sum(shown, requests=None))
    lines = [_line(tuple(value or "(none)" for value in row.group), row, everything.amount) for row in shown]
    if others:
        label = (f"(other: {others})", *([""] * (len(by) - 1))) if by else ()
        lines.append(_line(label, rest, everything.amount))
    total_label = ("total", *([""] * (len(by) - 1))) if by else ()
    return Table(
        title=title,
        columns=(*(Column(name=name, title=name) for name in by), *_MEASURES),
        rows=tuple(lines),
        total=_line(total_label, everything, everything.amount) if by and rows else None,
        notes=cost_notes((everything,)),
    )


def _place(timed: bool, group: tuple[str, ...], amount: int, entries: int) -> tuple[str, int, int, tuple[str, ...]]:
    """Where a row stands."""
    return (group[0], -amount, 0, group) if timed else ("", -amount, -entries, group)


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
        per_request(row),
        row.estimated_amount,
        row.unpriced,
    )


_SUMMED: Final = (
    "entries", "amount", "unpriced", "estimated", "estimated_amount", "input_tokens", "cache_read_tokens",
    "output_tokens",
)  # fmt: skip
_summed = attrgetter(*_SUMMED)


def _sum(rows: Iterable[Totals], *, requests: int | None) -> Totals:
    """The rows together; ``requests`` None: not known, because groups may share requests."""
    columns = zip(*map(_summed, rows), strict=True)
    sums = {name: sum(column) for name, column in zip(_SUMMED, columns, strict=False)}  # no rows: no columns
    return Totals(requests=-1 if requests is None else requests, **sums)


def _left(whole: Totals, part: Totals) -> Totals:
    return Totals(requests=-1, **{name: getattr(whole, name) - getattr(part, name) for name in _SUMMED})
