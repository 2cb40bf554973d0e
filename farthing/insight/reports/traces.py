"""Traces and agents: what one run of an agent cost, call by call, and what each agent costs."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from farthing.core.dimensions import SHORT_NAMES, scope_value
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery, Totals
from farthing.core.units import is_input, is_output
from farthing.insight.honesty import cost, cost_notes, per_request
from farthing.insight.moments import shown
from farthing.insight.series import add
from farthing.insight.table import Column, Row, Table, per

TRACE, AGENT, STEP, SPAN = (SHORT_NAMES[name] for name in ("trace", "agent", "step", "span"))
HOW: Final = "x-farthing-tags: agent=planner,step=search (traceparent names the trace)"

TRACE_COLUMNS: Final = (
    Column(name="trace", title="trace"),
    Column(name="last", title="last hour (UTC)"),
    Column(name="agents", title="agents", unknown=""),
    Column(name="session", title="session", unknown=""),
    Column(name="requests", title="requests", kind="int"),
    Column(name="entries", title="tries", kind="int"),
    Column(name="cost", title="cost", kind="usd", unknown="unpriced"),
    Column(name="per_request", title="per request", kind="usd"),
    Column(name="input_tokens", title="input tokens", kind="int"),
    Column(name="output_tokens", title="output tokens", kind="int"),
    Column(name="errors", title="errors", kind="int"),
)
AGENT_COLUMNS: Final = (
    Column(name="agent", title="agent"),
    Column(name="traces", title="traces", kind="int"),
    Column(name="requests", title="requests", kind="int"),
    Column(name="cost", title="cost", kind="usd", unknown="unpriced"),
    Column(name="per_request", title="per request", kind="usd"),
    Column(name="per_trace", title="per trace", kind="usd", unknown="no trace"),
    Column(name="errors", title="errors", kind="int"),
)
SPAN_COLUMNS: Final = (
    Column(name="after_ms", title="began after ms", kind="int"),
    Column(name="request", title="request"),
    Column(name="agent", title="agent", unknown=""),
    Column(name="step", title="step", unknown=""),
    Column(name="span", title="caller's span", unknown=""),
    Column(name="model", title="model"),
    Column(name="attempt", title="try", kind="int"),
    Column(name="cost", title="cost", kind="usd", unknown="unpriced"),
    Column(name="input_tokens", title="in", kind="int"),
    Column(name="output_tokens", title="out", kind="int"),
    Column(name="status", title="status", kind="int"),
    Column(name="error", title="error", unknown=""),
    Column(name="latency_ms", title="ms", kind="int"),
)


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """One trace of a period."""

    id: str
    first: str
    """The UTC hour of its first call, ``2026-11-21T14``."""
    last: str
    agents: tuple[str, ...]
    sessions: tuple[str, ...]
    totals: Totals


def query(*, since_ms: int, until_ms: int, where: tuple[tuple[str, str], ...] = ()) -> LedgerQuery:
    """One question for traces and agents."""
    return LedgerQuery(group_by=("hour", TRACE, AGENT, "session"), since_ms=since_ms, until_ms=until_ms, where=where)


def read(rows: Iterable[Totals]) -> tuple[Trace, ...]:
    """The traces, dearest first; calls of none are left out."""
    by_id: dict[str, list[Totals]] = {}
    for row in rows:
        if row.group[1]:
            by_id.setdefault(row.group[1], []).append(row)
    found = [
        Trace(
            id=name,
            first=min(row.group[0] for row in own),
            last=max(row.group[0] for row in own),
            agents=tuple(sorted({row.group[2] for row in own if row.group[2]})),
            sessions=tuple(sorted({row.group[3] for row in own if row.group[3]})),
            totals=add(own, (name,)),
        )
        for name, own in by_id.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.totals.amount, one.id)))


def build(found: Sequence[Trace], *, without: int = 0, limit: int = 100) -> Table:
    """``without``: entries that name no trace."""
    rows = tuple(
        (
            one.id,
            one.last,
            _some(one.agents),
            one.sessions[0] if len(one.sessions) == 1 else f"{len(one.sessions)} sessions" if one.sessions else None,
            one.totals.requests,
            one.totals.entries,
            cost(one.totals),
            per_request(one.totals),
            one.totals.input_tokens,
            one.totals.output_tokens,
            one.totals.errors,
        )
        for one in found[:limit]
    )
    notes = [*cost_notes(tuple(one.totals for one in found))]
    if len(found) > limit:
        notes.insert(0, f"The dearest {limit} of {len(found):,} traces.")
    if without and found:
        notes.append(f"{without:,} entries name no trace: send traceparent, or the tag trace.")
    return Table(title="Traces", columns=TRACE_COLUMNS, rows=rows, notes=tuple(notes))


def _some(names: Sequence[str], most: int = 3) -> str | None:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more or None


def agents(rows: Iterable[Totals], *, limit: int = 50) -> Table:
    """What each agent costs, dearest first; calls that name none are a row of their own."""
    by_name: dict[str, list[Totals]] = {}
    for row in rows:
        by_name.setdefault(row.group[2], []).append(row)
    if set(by_name) <= {""}:
        by_name = {}
    sums = {name: add(own, (name,)) for name, own in by_name.items()}
    ordered = sorted(sums, key=lambda name: (-sums[name].amount, name))
    lines: list[Row] = []
    for name in ordered[:limit]:
        whole = sums[name]
        traces = len({row.group[1] for row in by_name[name] if row.group[1]})
        traced = [row for row in by_name[name] if row.group[1]]
        in_traces = add(traced, ()) if traced else None
        lines.append((
            name or "(none)", traces, whole.requests, cost(whole), per_request(whole),
            None if in_traces is None else per(cost(in_traces), traces), whole.errors,
        ))  # fmt: skip
    return Table(title="Agents", columns=AGENT_COLUMNS, rows=tuple(lines), notes=cost_notes(tuple(sums.values())))


def spans(entries: Sequence[LedgerEntry], unbooked: Sequence[Exchange] = (), *, title: str) -> Table:
    """The calls of one trace in the order in which they came, refused ones included."""
    starts = span_of(entries, unbooked)[0]
    booked = [(one.received_at_ms, one.attempt, _booked(one, starts)) for one in entries]
    refused = [(one.received_at_ms, 0, _refused(one, starts)) for one in unbooked]
    ordered = sorted((*booked, *refused), key=lambda line: line[:2])
    rows = tuple(row for _, _, row in ordered)
    known = [entry.charge.total for entry in entries]
    whole = sum(amount or 0 for amount in known)
    total = (None, "together", "", "", "", "", None, whole, *[None] * 5) if rows else None
    missing = sum(amount is None for amount in known)
    notes = [f"Began {shown(starts)} UTC."] if rows else []
    notes += [f"{missing} tries have no price: the cost is at least this."] if missing else []
    return Table(title=title, columns=SPAN_COLUMNS, rows=rows, total=total, notes=tuple(notes))


def span_of(entries: Sequence[LedgerEntry], unbooked: Sequence[Exchange]) -> tuple[int, int]:
    """(first instant, milliseconds to the last answer) of some calls; zeros without any."""
    times = [(one.received_at_ms, one.received_at_ms + one.latency_ms) for one in entries]
    times += [(one.received_at_ms, one.received_at_ms + one.latency_ms) for one in unbooked]
    starts = min((first for first, _ in times), default=0)
    return starts, max((last for _, last in times), default=0) - starts


def _booked(one: LedgerEntry, starts: int) -> Row:
    lines = [line for part in one.usage.parts for line in part.lines]
    return (
        one.received_at_ms - starts,
        one.request_id,
        scope_value(one.scope, AGENT) or None,
        scope_value(one.scope, STEP) or None,
        scope_value(one.scope, SPAN) or None,
        one.model,
        one.attempt,
        one.charge.total,
        sum(quantity for unit, quantity in lines if is_input(unit)),
        sum(quantity for unit, quantity in lines if is_output(unit)),
        one.status,
        one.error or None,
        one.latency_ms,
    )


def _refused(one: Exchange, starts: int) -> Row:
    return (
        one.received_at_ms - starts,
        one.request_id,
        scope_value(one.scope, AGENT) or None,
        scope_value(one.scope, STEP) or None,
        scope_value(one.scope, SPAN) or None,
        one.view.model,
        None,
        0,
        None,
        None,
        one.status,
        one.error or one.outcome,
        one.latency_ms,
    )
