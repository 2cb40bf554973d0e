"""Statements as files: FOCUS rows with their allocation, and a page that prints well, every value escaped."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from html import escape
from typing import Final

from farthing.core.money import NUSD_PER_USD
from farthing.insight.moments import iso
from farthing.insight.ownership import Charged
from farthing.insight.render import cell
from farthing.insight.reports.focus import CUSTOM, Cell, columns
from farthing.insight.table import Column, Row, Table

EXTRA: Final = ("x_AllocationKind", "x_AllocationRules", "x_Unpriced")
FOCUS_COLUMNS: Final = (*(name for name in columns("1.2") if name not in CUSTOM), *EXTRA)

_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}"
    "th,td{padding:.3rem .6rem;border-bottom:1px solid #ccc;text-align:left}"
    ".n{text-align:right;font-variant-numeric:tabular-nums}tfoot{font-weight:600}"
)


def focus_rows(
    found: Mapping[str, Sequence[Charged]], *, since_ms: int, until_ms: int, rules: str
) -> Iterable[dict[str, Cell]]:
    """One FOCUS 1.2 row a line: the owner as sub-account, the four costs alike, the allocation beside them.

    A statement knows what an owner bears, not at which unit prices: those columns are null. Its quantity is the
    tokens, and one share where a line has none of its own.
    """
    for owner, statement in found.items():
        for line in statement:
            amount = Decimal(line.amount) / NUSD_PER_USD
            row: dict[str, Cell] = dict.fromkeys(FOCUS_COLUMNS)
            row |= {name: amount for name in ("BilledCost", "EffectiveCost", "ContractedCost", "ListCost")}
            row |= {
                # FOCUS wants to know who bills: here Farthing itself does, within the house.
                "BillingAccountId": "farthing",
                "BillingAccountName": "Farthing",
                "BillingAccountType": "Account",
                "BillingCurrency": "USD",
                "PricingCurrency": "USD",
                "BillingPeriodStart": iso(since_ms),
                "BillingPeriodEnd": iso(until_ms),
                "ChargePeriodStart": iso(since_ms),
                "ChargePeriodEnd": iso(until_ms),
                "ChargeCategory": "Usage",
                "PricingCategory": "Standard",
                "PricingQuantity": Decimal(line.tokens or 1),
                "PricingUnit": "Tokens" if line.tokens else "Shares",
                "ChargeFrequency": "Usage-Based",
                "ChargeDescription": f"{line.kind}{f' {line.what}' if line.what else ''}",
                "InvoiceIssuerName": "Farthing",
                "ProviderName": "Farthing",
                "PublisherName": "Farthing",
                "ServiceCategory": "AI and Machine Learning",
                "ServiceSubcategory": "Generative AI",
                "ServiceName": line.what or line.kind,
                "SubAccountId": owner or "unallocated",
                "SubAccountName": owner or "unallocated",
                "SubAccountType": "Cost owner",
                "Tags": "{}",
                "x_AllocationKind": line.kind,
                "x_AllocationRules": rules,
                "x_Unpriced": line.unpriced,
            }
            yield row


def page(table: Table) -> str:
    """One self-contained page without a script."""
    head = "".join(f"<th{_align(column)}>{escape(column.title)}</th>" for column in table.columns)
    body = "".join(_row(table.columns, row) for row in table.rows)
    foot = f"<tfoot>{_row(table.columns, table.total)}</tfoot>" if table.total is not None else ""
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(table.title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(table.title)}</h1>{notes}"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>{foot}</table></body></html>\n"
    )


def _row(names: tuple[Column, ...], row: Row) -> str:
    cells = (
        f"<td{_align(column)}>{escape(cell(column, value))}</td>" for column, value in zip(names, row, strict=True)
    )
    return f"<tr>{''.join(cells)}</tr>"


def _align(column: Column) -> str:
    return "" if column.kind == "text" else ' class="n"'
