"""What the demo prints after the day: the reports any installation has, and the referee's verdict in plain words."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from farthing.core.money import format_usd
from farthing.core.types import Exchange, LedgerQuery
from farthing.demo.audit import Audit
from farthing.demo.referee import GROUPS, Verdict
from farthing.insight.render import render
from farthing.insight.reports import spend
from farthing.insight.table import Column, Table
from farthing.ports.books import Ledger

MISMATCHES_SHOWN: Final = 40
_SPEND: Final = (
    ("Spend by team and model", ("team", "model"), 0),
    ("Spend by feature", ("feature",), 0),
    ("Where the quantities come from", ("source",), 0),
    ("Top users", ("user", "team"), 10),
)


def sections(ledger: Ledger, audit: Audit, *, since_ms: int) -> Iterator[str]:
    """Every report as text."""
    for title, by, limit in _SPEND:
        rows = ledger.totals(LedgerQuery(group_by=by, since_ms=since_ms))
        whole = ledger.totals(LedgerQuery(since_ms=since_ms))
        table = spend.build(rows, whole, by, title=title, limit=limit)
        if by != ("source",):
            table = msgspec.structs.replace(table, notes=())  # the same sentences under every table tell nothing new
        yield render(table, "table")
    exchanges = list(ledger.exchanges(since_ms=since_ms))
    yield render(refusals(exchanges), "table")
    gone = sum(entry.client_gone for entry in ledger.entries(since_ms=since_ms))
    yield render(troubles(exchanges, gone), "table")
    yield render(audit.table, "table")


def refusals(exchanges: Iterable[Exchange]) -> Table:
    """Calls that were refused before any money was spent: by whom, why, and how often."""
    counted = Counter(
        (exchange.scope.team, exchange.scope.feature, *_reason(exchange.error))
        for exchange in exchanges
        if exchange.outcome == "refused"
    )
    rows = tuple((*group, number) for group, number in sorted(counted.items(), key=lambda one: (-one[1], one[0])))
    titles = ("team", "feature", "why", "budget")
    columns = (*(Column(name=name, title=name) for name in titles), Column(name="calls", title="calls", kind="int"))
    total = ("total", "", "", "", sum(counted.values())) if rows else None
    return Table(title="Refused before any money was spent", columns=columns, rows=rows, total=total)


def _reason(error: str) -> tuple[str, str]:
    code, _, budget = error.partition(":")
    return code, budget


def troubles(exchanges: Iterable[Exchange], gone: int) -> Table:
    """What went wrong on the way and what became of it; ``gone``: callers who hung up."""
    counted: Counter[tuple[str, str]] = Counter()
    for exchange in exchanges:
        for attempt in exchange.attempts:
            if attempt.error:
                booked = "booked" if attempt.entry_id else "not billed, not booked"
                counted[f"attempt: {attempt.error}", booked] += 1
        if exchange.outcome == "answered" and len(exchange.attempts) > 1:
            models = {attempt.model for attempt in exchange.attempts}
            counted["answered after a retry" if len(models) == 1 else "answered by a fallback model", ""] += 1
        if exchange.outcome in ("failed", "aborted"):
            counted[f"request: {exchange.outcome} ({exchange.error})", ""] += 1
    if gone:
        counted["caller hung up", "read to the end and booked"] = gone
    rows = tuple((*what, number) for what, number in sorted(counted.items(), key=lambda one: (one[0][0], -one[1])))
    columns = (
        Column(name="what", title="what"),
        Column(name="money", title="money"),
        Column(name="times", title="times", kind="int"),
    )
    return Table(title="Trouble on the way", columns=columns, rows=rows)


def verdict_lines(verdict: Verdict, audit: Audit) -> list[str]:
    """The verdict; the last line says it all."""
    lines = [
        "The provider's invoice against the ledger",
        "",
        f"exact: {verdict.exact:,} calls whose usage the provider reported; every token class agrees"
        if verdict.passed
        else f"exact: {verdict.exact:,} calls claim the usage that the provider reported",
        f"    ledger {_usd(verdict.exact_ledger_nusd)}, invoice {_usd(verdict.exact_invoice_nusd)}",
    ]
    names = dict(GROUPS)
    for apart in verdict.apart:
        if not apart.entries:
            continue
        unbilled = f", {apart.unbilled:,} of them not on the invoice" if apart.unbilled else ""
        lines += [
            f"apart: {apart.entries:,} {names[apart.group]}{unbilled}",
            f"    ledger {_usd(apart.ledger_nusd)}, invoice {_usd(apart.invoice_nusd)}, "
            f"difference {_usd(apart.difference_nusd)}",
        ]
    lines.append(f"budgets: {audit.hard:,} hard limits in use; open holds: {audit.open_holds:,}")
    for mismatch in verdict.mismatches[:MISMATCHES_SHOWN]:
        lines.append(f"MISMATCH {mismatch}")
    if len(verdict.mismatches) > MISMATCHES_SHOWN:
        lines.append(f"… and {len(verdict.mismatches) - MISMATCHES_SHOWN:,} more mismatches")
    return [*lines, "", verdict_line(verdict)]


def verdict_line(verdict: Verdict) -> str:
    """One sentence with the totals, PASS or FAIL."""
    ours, theirs = verdict.exact_ledger_nusd, verdict.exact_invoice_nusd
    sign = "=" if ours == theirs else "≠"
    entries = sum(apart.entries for apart in verdict.apart)
    difference = sum(apart.difference_nusd for apart in verdict.apart)
    end = "PASS" if verdict.passed else f"FAIL, {len(verdict.mismatches):,} mismatches"
    return (
        f"referee: {verdict.invoiced:,} invoiced calls, {verdict.entries:,} entries; {verdict.exact:,} exact: "
        f"ledger {_usd(ours)} {sign} invoice {_usd(theirs)}; {entries:,} apart, difference {_usd(difference)}; {end}"
    )


def _usd(nusd: int) -> str:
    return f"${format_usd(nusd)}" if nusd >= 0 else f"-${format_usd(-nusd)}"
