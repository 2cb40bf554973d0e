"""The prompts that cost most: requests whose prompts begin alike, by the hash of that beginning, without any text."""

from collections.abc import Iterable
from typing import Final

from farthing.core.types import Exchange
from farthing.insight.table import Column, Row, Table, per, share

TITLE: Final = "Prompts by cost"
COLUMNS: Final = (
    Column(name="prompt", title="prompt", unknown="(no fixed part)"),
    Column(name="feature", title="feature"),
    Column(name="model", title="model"),
    Column(name="bytes", title="fixed bytes", kind="int"),
    Column(name="requests", title="requests", kind="int"),
    Column(name="cost", title="cost", kind="usd"),
    Column(name="share", title="share", kind="percent"),
    Column(name="per_request", title="per request", kind="usd"),
)
_FIXED: Final = ("tools", "tool", "system", "developer", "instructions")


def build(exchanges: Iterable[Exchange], *, since_ms: int, until_ms: int, limit: int = 10) -> Table:
    """One row for each (fixed beginning, feature, model); the beginning is tools and system messages."""
    sums: dict[tuple[str, str, str, int], list[int]] = {}
    for one in exchanges:
        if not since_ms <= one.received_at_ms < until_ms or one.amount is None:
            continue
        digest, size = _beginning(one)
        cells = sums.setdefault((digest, one.scope.feature, one.view.model, size), [0, 0])
        cells[0] += 1
        cells[1] += one.amount
    whole = sum(cells[1] for cells in sums.values())
    ordered = sorted(sums, key=lambda key: (-sums[key][1], key))
    rows: list[Row] = [
        (key[0] or None, key[1] or "(none)", key[2], key[3], sums[key][0], sums[key][1], share(sums[key][1], whole),
         per(sums[key][1], sums[key][0]))
        for key in (ordered if limit <= 0 else ordered[:limit])
    ]  # fmt: skip
    notes = ("From the traffic log, as far as it is kept; told apart by salted hashes of tools and system messages.",)
    return Table(title=TITLE, columns=COLUMNS, rows=tuple(rows), notes=notes)


def _beginning(one: Exchange) -> tuple[str, int]:
    digests, size = [], 0
    for section in one.sections:
        if section.role not in _FIXED:
            break
        digests.append(section.digest)
        size += section.size
    return "+".join(digest[:8] for digest in digests), size
