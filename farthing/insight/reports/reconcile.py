"""Reconciliation: bill beside ledger, the gap by cause, what has a name and what has none."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Final

from farthing.core.bill import CAUSES, TOKEN_CLASSES, Cause, Finding, Reconciliation
from farthing.insight.table import Column, Row, Table, share

TITLE: Final = "Reconciliation"

MEANS: Final[dict[Cause, str]] = {
    "timing": "billed on the neighbouring day",
    "bypass": "past the gateway",
    "estimated": "booked on an estimate",
    "unpriced": "booked without a price",
    "price": "another price",
    "credit": "credits and discounts",
    "rounding": "rounding",
    "unknown": "unknown",
}

COLUMNS: Final = (
    Column(name="line", title=""),
    Column(name="tokens", title="tokens", kind="int"),
    Column(name="tokens_size", title="size", kind="int"),
    Column(name="amount", title="amount", kind="usd"),
    Column(name="amount_size", title="size", kind="usd"),
    Column(name="share", title="% of bill", kind="percent"),
    Column(name="evidence", title="evidence", unknown=""),
)

DETAIL_COLUMNS: Final = (
    Column(name="cause", title="cause"),
    Column(name="day", title="day (UTC)"),
    Column(name="model", title="model"),
    Column(name="variant", title="variant", unknown=""),
    Column(name="class", title="class"),
    Column(name="tokens", title="tokens", kind="int"),
    Column(name="amount", title="amount", kind="usd"),
    Column(name="evidence", title="evidence", unknown=""),
)

EVIDENCE_MAX: Final = 3


class Sums:
    """The figures of a reconciliation, added up."""

    def __init__(self, found: Reconciliation) -> None:
        tokens = [line for line in found.lines if line.token_class in TOKEN_CLASSES]
        self.found = found
        self.billed = sum(line.billed for line in tokens)
        self.booked = sum(line.booked for line in tokens)
        self.billed_amount = sum(line.billed_amount for line in found.lines)
        self.booked_amount = sum(line.booked_amount for line in found.lines)

    def of(self, cause: Cause) -> tuple[Finding, ...]:
        """The findings with one cause."""
        return tuple(one for one in self.found.findings if one.cause == cause)

    def unnamed(self) -> Fraction:
        """The larger of the unnamed shares of the bill, in tokens and in money; parts never cancel each other out."""
        unknown = self.of("unknown")
        tokens = sum(abs(one.tokens) for one in unknown)
        amount = sum(abs(one.amount) for one in unknown)
        parts = [Fraction(0)]
        if self.found.has_usage:
            parts.append(Fraction(tokens, max(self.billed, self.booked, 1)))
        if self.found.has_money:
            parts.append(Fraction(amount, max(self.billed_amount, self.booked_amount, 1)))
        return max(parts)


def size(values: Iterable[int]) -> int:
    """How large a cause is where it adds here and takes there: the larger of the two sums, without sign."""
    parts = list(values)
    return max(sum(value for value in parts if value > 0), -sum(value for value in parts if value < 0))


def build(found: Reconciliation, *, provider: str, title: str = TITLE, notes: Sequence[str] = ()) -> Table:
    """The gap by cause."""
    sums = Sums(found)
    rows: list[Row] = [
        (f"billed by {provider}", *_total(found, sums.billed, sums.billed_amount), 10_000, None),
        (
            "booked by Farthing",
            *_total(found, sums.booked, sums.booked_amount),
            share(sums.booked_amount, sums.billed_amount) if found.has_money else share(sums.booked, sums.billed),
            None,
        ),
        _line("gap", found.findings, sums, "bill minus ledger"),
    ]
    rows += [_line(f"  {MEANS[cause]}", sums.of(cause), sums, _evidence(sums.of(cause))) for cause in CAUSES[:-1]]
    named = tuple(one for one in found.findings if one.cause != "unknown")
    rows.append(_line("named", named, sums, None))
    rows.append(_line("unnamed", sums.of("unknown"), sums, _evidence(sums.of("unknown"))))
    return Table(title=title, columns=COLUMNS, rows=tuple(rows), notes=(*found.notes, *notes))


def detail(found: Reconciliation, *, title: str = TITLE, notes: Sequence[str] = ()) -> Table:
    """Every part of the gap by itself."""
    rows = tuple(
        (
            MEANS[one.cause],
            one.place.day,
            one.place.model or "(none)",
            one.place.variant or None,
            one.token_class,
            one.tokens,
            one.amount if found.has_money else None,
            one.evidence or None,
        )
        for one in found.findings
    )
    tokens, amount = sum(one.tokens for one in found.findings), sum(one.amount for one in found.findings)
    total = ("gap", "", "", None, "", tokens, amount if found.has_money else None, None) if rows else None
    return Table(title=title, columns=DETAIL_COLUMNS, rows=rows, total=total, notes=(*found.notes, *notes))


def _total(found: Reconciliation, tokens: int, amount: int) -> tuple[int | None, None, int | None, None]:
    return tokens if found.has_usage else None, None, amount if found.has_money else None, None


def _line(label: str, findings: Sequence[Finding], sums: Sums, evidence: str | None) -> Row:
    tokens = [one.tokens for one in findings]
    amounts = [one.amount for one in findings]
    found = sums.found
    whole = share(size(amounts), sums.billed_amount) if found.has_money else share(size(tokens), sums.billed)
    return (
        label,
        sum(tokens) if found.has_usage else None,
        size(tokens) if found.has_usage else None,
        sum(amounts) if found.has_money else None,
        size(amounts) if found.has_money else None,
        whole,
        evidence,
    )


def _evidence(findings: Sequence[Finding]) -> str | None:
    """The evidence behind the largest parts, each text once, with the model it is about."""
    weight: dict[str, int] = {}
    for one in findings:
        about = f"{one.place.model}, {one.token_class}: " if one.cause in ("price", "unknown", "unpriced") else ""
        text = f"{about}{one.evidence or 'no cause found'}"
        weight[text] = weight.get(text, 0) + abs(one.amount) + abs(one.tokens)
    ordered = sorted(weight, key=lambda text: (-weight[text], text))
    more = len(ordered) - EVIDENCE_MAX
    return ("; ".join(ordered[:EVIDENCE_MAX]) + (f"; and {more} more" if more > 0 else "")) or None
