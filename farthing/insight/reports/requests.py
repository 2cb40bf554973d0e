"""The newest booked tries, one row each."""

from collections.abc import Iterable
from typing import Final

from farthing.core.types import LedgerEntry
from farthing.insight.moments import shown
from farthing.insight.table import Column, Table

COLUMNS: Final = (
    Column(name="received", title="received (UTC)"),
    Column(name="request", title="request"),
    Column(name="cost", title="cost", kind="usd", unknown="unpriced"),
    Column(name="model", title="model"),
    Column(name="team", title="team", unknown=""),
    Column(name="feature", title="feature", unknown=""),
    Column(name="user", title="user", unknown=""),
    Column(name="session", title="session", unknown=""),
    Column(name="kind", title="kind"),
    Column(name="attempt", title="try", kind="int"),
    Column(name="input_tokens", title="in", kind="int"),
    Column(name="output_tokens", title="out", kind="int"),
    Column(name="usage", title="usage"),
    Column(name="status", title="status", kind="int"),
    Column(name="error", title="error", unknown=""),
    Column(name="latency_ms", title="ms", kind="int"),
    Column(name="entry", title="entry"),
)


def build(entries: Iterable[tuple[LedgerEntry, int, int]], *, title: str = "Requests") -> Table:
    """Newest first, as they come. Each entry with its input and output tokens."""
    return Table(
        title=title,
        columns=COLUMNS,
        rows=tuple(
            (
                shown(one.received_at_ms),
                one.request_id,
                one.charge.total,
                one.model,
                one.scope.team or None,
                one.scope.feature or None,
                one.scope.user or None,
                one.scope.session or None,
                one.kind,
                one.attempt,
                tokens_in,
                tokens_out,
                one.usage.source,
                one.status,
                one.error or None,
                one.latency_ms,
                one.id,
            )
            for one, tokens_in, tokens_out in entries
        ),
    )
