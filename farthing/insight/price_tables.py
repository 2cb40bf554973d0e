"""Tables of a price book: all models, and one model with every row, its dates and sources. Pure."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Final

from farthing.core.price_book import PriceBook, Rate, Resolved, Sheet
from farthing.core.pricing_rows import DISTANT_FUTURE, DISTANT_PAST, Multiplier, PriceRow
from farthing.core.pricing_text import factor_text, price_text, priced_per
from farthing.core.types import Totals
from farthing.insight.honesty import cost, cost_notes
from farthing.insight.moments import shown
from farthing.insight.table import Column, Row, Table

LAYERS = ("list", "correction", "own")


def model_table(book: PriceBook, resolved: Resolved, at_ms: int) -> Table:
    """Every row of a model that holds at an instant, conditions and provenance beside the price."""
    rows = sorted(book.rows(resolved.owner, resolved.model), key=lambda row: (row.unit, row.when, row.schedule))
    lines: list[Row] = []
    for row in (row for row in rows if _holds(row, at_ms)):
        for edge, price in row.steps:
            lines.append((
                row.unit,
                price_text(row.unit, price),
                priced_per(row.unit),
                f"from {edge:,} tokens" if edge else "",
                _conditions(row.when, row.schedule),
                "" if row.valid_from_ms is None else shown(row.valid_from_ms),
                "" if row.valid_to_ms is None else shown(row.valid_to_ms),
                LAYERS[row.layer],
                row.source,
                row.checked_on,
                row.source_url,
            ))  # fmt: skip
    for item in book.data.multipliers:
        if item.provider in ("*", resolved.provider) and item.covers_model(resolved.model) and _holds(item, at_ms):
            lines.append((
                item.name, f"× {factor_text(item.basis_points)}", "", "", _conditions(item.when, ""), "", "",
                LAYERS[item.layer], item.source, item.checked_on, item.source_url,
            ))  # fmt: skip
    window = f"; context window {resolved.context_window:,} tokens" if resolved.context_window else ""
    owner = "" if resolved.owner == resolved.provider else f"; prices of {resolved.owner}"
    names = ("unit", "usd", "per", "prompt", "when", "from", "to", "layer", "source", "checked_on", "source_url")
    return Table(
        title=f"{resolved.provider}/{resolved.model} at {shown(at_ms)} UTC{owner}{window}",
        columns=tuple(Column(name=name, title=name.replace("_", " ")) for name in names),
        rows=tuple(lines),
        notes=(f"price book {book.ref}",),
    )


def models_table(book: PriceBook, provider: str, at_ms: int) -> Table:
    """All models with their ordinary prices."""
    shown_units = ("input", "input_cache_read", "input_cache_write", "output")
    rows: list[Row] = []
    for entry in book.models(provider):
        resolved = Resolved(entry.provider, entry.provider, entry.id, "", entry.context_window)
        sheet = book.sheet(resolved, {}, at_ms)
        prices = [_first(sheet, unit) for unit in shown_units]
        window = str(entry.context_window) if entry.context_window else ""
        rows.append((entry.provider, entry.id, *prices, window, sheet.reason))
    return Table(
        title=f"{len(rows)} models at {shown(at_ms)} UTC, USD per million tokens",
        columns=(
            Column(name="provider", title="provider"),
            Column(name="model", title="model"),
            *(Column(name=unit, title=unit.removeprefix("input_").replace("_", " ")) for unit in shown_units),
            Column(name="context_window", title="context"),
            Column(name="reason", title=""),
        ),
        rows=tuple(rows),
        notes=(f"price book {book.ref}",),
    )


STALE_DAYS: Final = 14
"""As ``farthing price check`` counts."""


def used_table(
    book: PriceBook, rows: Sequence[Totals], billed: Mapping[str, str], at_ms: int, *, title: str
) -> Table:
    """What is called, by (provider, model), beside its price: known or not, since when it was looked at, own or list.

    ``billed``: the provider id of the book by the configured provider's name.
    """
    today = datetime.fromtimestamp(at_ms / 1000, UTC).date()
    lines: list[Row] = []
    for row in sorted(rows, key=lambda row: (-row.amount, row.group)):
        provider, model = row.group
        resolved = book.resolve(billed.get(provider, provider), model)
        known = [] if resolved is None else [
            one for one in book.rows(resolved.owner, resolved.model) if _holds(one, at_ms)
        ]  # fmt: skip
        checked = min((one.checked_on for one in known if one.checked_on), default="")
        age = (today - date.fromisoformat(checked)).days if checked else None
        own = any(LAYERS[one.layer] == "own" for one in known)
        state = "own" if own else "fresh"
        if not known:
            state = "no price"
        elif age is None and not own:
            state = "not dated"
        elif age is not None and age > STALE_DAYS:
            state = "stale"
        lines.append((provider, model, cost(row), row.unpriced, state, checked or None, age))
    columns = (
        Column(name="provider", title="provider"),
        Column(name="model", title="model"),
        Column(name="cost", title="cost", kind="usd", unknown="unpriced"),
        Column(name="unpriced", title="entries without a price", kind="int"),
        Column(name="state", title="price"),
        Column(name="checked", title="last compared", unknown="never"),
        Column(name="age", title="days ago", kind="int"),
    )
    note = (
        f"Stale: last compared with its source more than {STALE_DAYS} days ago (farthing price verify, price update)."
    )
    return Table(title=title, columns=columns, rows=tuple(lines), notes=(note, *cost_notes(tuple(rows))))


def _holds(row: PriceRow | Multiplier, at_ms: int) -> bool:
    start = DISTANT_PAST if row.valid_from_ms is None else row.valid_from_ms
    end = DISTANT_FUTURE if row.valid_to_ms is None else row.valid_to_ms
    return start <= at_ms < end


def _conditions(when: tuple[tuple[str, str], ...], schedule: str) -> str:
    said = [f"{facet}={wanted}" for facet, wanted in when]
    return ", ".join([*said, schedule] if schedule else said)


def _first(sheet: Sheet, unit: str) -> str:
    rate = sheet.rates.get(unit)
    return "" if rate is None else rate_text(unit, rate)


def rate_text(unit: str, rate: Rate) -> str:
    """A rate in USD, with its steps."""
    return "; ".join(
        f"{edge:,}+: {price_text(unit, price)}" if edge else price_text(unit, price) for edge, price, _ in rate.steps
    )
