"""Tables of a price book: all models, and one model with every row, its dates and sources. Pure."""

from farthing.core.price_book import PriceBook, Rate, Resolved, Sheet
from farthing.core.pricing_rows import DISTANT_FUTURE, DISTANT_PAST, Multiplier, PriceRow
from farthing.core.pricing_text import factor_text, price_text, priced_per
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
