"""Why spend changed: the last seven days beside the seven before, in causes that sum to the difference."""

from farthing.core.decomposition import CAUSES, Slice
from farthing.core.types import LedgerQuery, Totals
from farthing.insight import slices
from farthing.insight.reports import why
from farthing.insight.series import DAY_MS, day_name, fold
from farthing.insight.table import Column, Row, Table
from farthing.server.pages import figures
from farthing.server.pages.ask import Ask
from farthing.server.pages.blocks import Block, Note, TableBlock

WEEK = 7
LIMIT = 8


def why_block(ask: Ask, by: tuple[str, ...] = ("feature",)) -> Block:
    """The change by cause, as a waterfall, and by slice, as a table."""
    today = ask.now_ms - ask.now_ms % DAY_MS
    edges = tuple(today - back * DAY_MS for back in (2 * WEEK - 1, WEEK - 1, -1))
    start, middle, end = (day_name(edge) for edge in edges)
    groups = (*by, *(name for name in slices.INNER if name not in by))
    rows = ask.ledger.totals(LedgerQuery(group_by=("day", *groups), since_ms=edges[0]))
    parts = ask.ledger.totals(LedgerQuery(group_by=("day", *groups, "kind", "reason"), since_ms=edges[0]))
    before, after = fold(rows, since=start, until=middle), fold(rows, since=middle, until=end)
    if not before:
        return Note(
            title="Why spend changed",
            text="There is no earlier week to compare with yet; what changed in the last seven days shows here then.",
        )

    def sliced(found: tuple[Totals, ...], since: str, until: str, at_ms: int) -> dict[slices.Key, Slice]:
        kinds = fold(parts, since=since, until=until)
        return slices.slices(found, kinds, groups, ask.sources.list_price, at_ms=at_ms)

    table = why.build(
        sliced(before, start, middle, (edges[0] + edges[1]) // 2),
        sliced(after, middle, end, (edges[1] + edges[2]) // 2),
        by,
        title="Why the last 7 days differ from the 7 before",
        limit=LIMIT,
    )
    return TableBlock(
        id="why",
        table=table,
        figure=figures.steps(causes(table.total or (), len(by)), "cause", "change"),
        describes="The change of spend, cause by cause.",
        folded=True,
    )


def causes(total: Row, width: int) -> Table:
    """The total row turned over: a row a cause."""
    rows = tuple((cause, value) for cause, value in zip(CAUSES, total[width:], strict=False))
    columns = (Column(name="cause", title="cause"), Column(name="change", title="change", kind="usd"))
    return Table(title="", columns=columns, rows=rows)
