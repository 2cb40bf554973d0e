"""Sessions: conversations and agents' runs, by what they cost."""

from typing import Final

from farthing.core.types import LedgerQuery, Totals
from farthing.insight.honesty import cost, cost_notes, per_request
from farthing.insight.table import Column, Table

COLUMNS: Final = (
    Column(name="session", title="session"),
    Column(name="team", title="team", unknown=""),
    Column(name="feature", title="feature", unknown=""),
    Column(name="requests", title="requests", kind="int"),
    Column(name="entries", title="tries", kind="int"),
    Column(name="cost", title="cost", kind="usd", unknown="unpriced"),
    Column(name="cost_per_request", title="per request", kind="usd"),
    Column(name="input_tokens", title="input tokens", kind="int"),
    Column(name="output_tokens", title="output tokens", kind="int"),
    Column(name="errors", title="errors", kind="int"),
)


def query(*, since_ms: int, until_ms: int, where: tuple[tuple[str, str], ...] = ()) -> LedgerQuery:
    """The question to the ledger."""
    return LedgerQuery(group_by=("session", "team", "feature"), since_ms=since_ms, until_ms=until_ms, where=where)


def build(rows: tuple[Totals, ...], *, limit: int = 100) -> Table:
    """Dearest first; calls that name no session are left out and counted."""
    named = [row for row in rows if row.group[0]]
    named.sort(key=lambda row: (-row.amount, row.group))
    without = sum(row.entries for row in rows if not row.group[0])
    notes = [*cost_notes(tuple(named))]
    if len(named) > limit:
        notes.insert(0, f"The dearest {limit} of {len(named):,} sessions.")
    if without:
        what = "entry names" if without == 1 else "entries name"
        notes.append(f"{without:,} {what} no session: send x-farthing-session with calls.")
    return Table(
        title="Sessions",
        columns=COLUMNS,
        rows=tuple(
            (
                row.group[0],
                row.group[1] or None,
                row.group[2] or None,
                row.requests,
                row.entries,
                cost(row),
                per_request(row),
                row.input_tokens,
                row.output_tokens,
                row.errors,
            )
            for row in named[:limit]
        ),
        notes=tuple(notes),
    )
