"""The newest calls: booked tries, and calls that nothing was booked of, one row each."""

from collections.abc import Iterable
from typing import Final

from farthing.core.types import Exchange, LedgerEntry
from farthing.insight.moments import shown
from farthing.insight.table import Column, Row, Table

COLUMNS: Final = (
    Column(name="received", title="received (UTC)"),
    Column(name="request", title="request"),
    Column(name="cost", title="cost", kind="usd", unknown="unpriced"),
    Column(name="kind", title="kind"),
    Column(name="error", title="error or reason", unknown=""),
    Column(name="model", title="model"),
    Column(name="team", title="team", unknown=""),
    Column(name="feature", title="feature", unknown=""),
    Column(name="user", title="user", unknown=""),
    Column(name="session", title="session", unknown=""),
    Column(name="attempt", title="try", kind="int"),
    Column(name="input_tokens", title="in", kind="int"),
    Column(name="output_tokens", title="out", kind="int"),
    Column(name="usage", title="usage"),
    Column(name="status", title="status", kind="int"),
    Column(name="latency_ms", title="ms", kind="int"),
    Column(name="entry", title="entry"),
)


def build(
    entries: Iterable[tuple[LedgerEntry, int, int]], unbooked: Iterable[Exchange] = (), *, title: str = "Requests"
) -> Table:
    """Newest first. Each entry with its input and output tokens; ``unbooked``: refused, failed, broken off."""
    rows = [(one.received_at_ms, _booked(one, taken, given)) for one, taken, given in entries]
    rows += [(one.received_at_ms, _unbooked(one)) for one in unbooked]
    rows.sort(key=lambda pair: -pair[0])
    return Table(title=title, columns=COLUMNS, rows=tuple(row for _, row in rows))


def _booked(one: LedgerEntry, tokens_in: int, tokens_out: int) -> Row:
    return (
        shown(one.received_at_ms),
        one.request_id,
        one.charge.total,
        one.kind,
        one.error or None,
        one.model,
        one.scope.team or None,
        one.scope.feature or None,
        one.scope.user or None,
        one.scope.session or None,
        one.attempt,
        tokens_in,
        tokens_out,
        one.usage.source,
        one.status,
        one.latency_ms,
        one.id,
    )


def _unbooked(one: Exchange) -> Row:
    """Nothing was booked, so the cost is zero and known; the reason stands as the error."""
    return (
        shown(one.received_at_ms),
        one.request_id,
        0,
        one.outcome,
        one.error or None,
        one.view.model,
        one.scope.team or None,
        one.scope.feature or None,
        one.scope.user or None,
        one.scope.session or None,
        len(one.attempts) or None,
        None,
        None,
        "nothing booked",
        one.status,
        one.latency_ms,
        None,
    )
