"""Why the bill changed between two equal periods: causes that sum to the change, to the nano-dollar."""

from collections.abc import Iterable, Mapping
from typing import Final

from farthing.core.decomposition import CAUSES, Cause, Change, Slice, explain
from farthing.core.types import Totals
from farthing.insight.table import Column, Table, share

MEANS: Final[Mapping[Cause, str]] = {
    "volume": "more or fewer requests",
    "mix": "other slices among them, new and gone ones included",
    "retries": "more or fewer tries per request",
    "tokens": "longer or shorter prompts and answers",
    "price": "another price per token; discounts and prompt caches included",
    "cache": "another part of the list price paid",
}


def change(before: Iterable[Totals], after: Iterable[Totals]) -> Change:
    """The change between two periods, sliced as the rows are grouped."""
    return explain(_slices(before), _slices(after))


def build(found: Change, *, title: str) -> Table:
    """One row a cause."""
    causes = found.by_cause
    whole = found.after_nusd - found.before_nusd
    return Table(
        title=title,
        columns=(
            Column(name="cause", title="cause"),
            Column(name="means", title="means"),
            Column(name="change", title="change", kind="usd"),
            Column(name="share", title="of the cost before", kind="percent", unknown="new"),
        ),
        rows=tuple(
            (cause, MEANS[cause], causes[cause], share(causes[cause], found.before_nusd))
            for cause in CAUSES
            if causes[cause] or cause != "cache"
        ),
        total=("together", "", whole, share(whole, found.before_nusd)),
        notes=("Log-mean split by model; the parts sum to the change exactly.",),
    )


def _slices(rows: Iterable[Totals]) -> dict[str, Slice]:
    return {
        " · ".join(value or "(none)" for value in row.group): Slice(
            requests=row.requests,
            attempts=row.entries,
            tokens=row.input_tokens + row.output_tokens,
            list_nusd=row.amount,
            cost_nusd=row.amount,
        )
        for row in rows
    }
