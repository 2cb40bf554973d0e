"""What ``farthing price`` shows: tables and findings made from a price book. Pure, no I/O."""

from collections.abc import Iterable, Iterator
from datetime import date
from typing import NamedTuple

from farthing.core.money import format_usd
from farthing.core.price_book import PriceBook, Rate, Resolved, Sheet
from farthing.core.pricing_rows import BASE_LAYER, DISTANT_FUTURE, DISTANT_PAST, Multiplier, PriceRow
from farthing.core.pricing_text import factor_text, price_text, priced_per
from farthing.insight.moments import shown
from farthing.insight.table import Column, Row, Table
from farthing.library import Verified

STALE_DAYS = 14
LAYERS = ("list", "correction", "own")


class Finding(NamedTuple):
    """Something to look at in a price book."""

    kind: str
    where: str
    what: str


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


def diff_table(first: tuple[str, PriceBook, int], second: tuple[str, PriceBook, int]) -> Table:
    """Where the ordinary prices of two (name, book, instant) differ."""
    (name_a, book_a, at_a), (name_b, book_b, at_b) = first, second
    models = {(entry.provider, entry.id) for book in (book_a, book_b) for entry in book.models()}
    rows: list[Row] = []
    for provider, model in sorted(models):
        before, after = _rates(book_a, provider, model, at_a), _rates(book_b, provider, model, at_b)
        for unit in sorted(before.keys() | after.keys()):
            old, new = before.get(unit, ""), after.get(unit, "")
            if old != new:
                rows.append((provider, model, unit, old, new))
    names = ("provider", "model", "unit")
    return Table(
        title=f"{len(rows)} prices differ",
        columns=(
            *(Column(name=name, title=name) for name in names),
            Column(name="a", title=name_a),
            Column(name="b", title=name_b),
        ),
        rows=tuple(rows),
    )


def findings(book: PriceBook, dust: Iterable[str], today: date) -> Iterator[Finding]:
    """What deserves a look: stale checks, rounded prices, rows that no longer decide anything."""
    checked: dict[tuple[str, str], list[str]] = {}
    for row in book.data.rows:
        if row.checked_on and row.source == "list":
            checked.setdefault((row.provider, row.checked_on), []).append(row.id)
    for (provider, day), ids in sorted(checked.items()):
        age = (today - date.fromisoformat(day)).days
        if age > STALE_DAYS:
            yield Finding(
                "stale", provider, f"{len(ids)} rows last compared with their source {age} days ago ({day})"
            )
    for line in dust:
        yield Finding("dust", line.partition(":")[0], line)
    for low, high in _shadowed(book.data.rows):
        kind = "redundant" if low.steps == high.steps else "dominated"
        if low.layer > BASE_LAYER or kind == "redundant":
            yield Finding(kind, low.id, f"{high.id} says the same" if kind == "redundant" else f"{high.id} decides")


def verified_table(results: tuple[Verified, ...]) -> Table:
    """Worked usages: got, expected, equal or not; the last note sums up."""
    right = sum(result.ok for result in results)
    unpriced = sum(result.got is None for result in results)
    rows: list[Row] = [
        (
            result.id,
            "unpriced" if result.got is None else format_usd(result.got),
            format_usd(result.expected),
            "ok" if result.ok else "DIFFERS",
            result.reason or result.row,
        )
        for result in results
    ]
    titles = {"id": "vector", "got_usd": "got $", "expected_usd": "expected $", "ok": "", "row": "price row"}
    return Table(
        title=f"{right} of {len(results)} exact to the nano-dollar",
        columns=tuple(Column(name=name, title=title) for name, title in titles.items()),
        rows=tuple(rows),
        notes=(f"{right} of {len(results)} exact, {len(results) - right - unpriced} different, {unpriced} unpriced",),
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
    return "" if rate is None else _rate_text(unit, rate)


def _rate_text(unit: str, rate: Rate) -> str:
    return "; ".join(
        f"{edge:,}+: {price_text(unit, price)}" if edge else price_text(unit, price) for edge, price, _ in rate.steps
    )


def _rates(book: PriceBook, provider: str, model: str, at_ms: int) -> dict[str, str]:
    if not any(book.rows(provider, model)):
        return {}
    sheet = book.sheet(Resolved(provider, provider, model, "", None), {}, at_ms)
    own = {row.unit for row in book.rows(provider, model)}
    return {unit: _rate_text(unit, rate) for unit, rate in sheet.rates.items() if unit in own}


def _shadowed(rows: Iterable[PriceRow]) -> Iterator[tuple[PriceRow, PriceRow]]:
    """(row, the row of a higher layer that covers all its instants under the same conditions)."""
    higher: dict[tuple[object, ...], list[PriceRow]] = {}
    everything = tuple(rows)
    for row in everything:
        if row.layer > BASE_LAYER:
            higher.setdefault((row.provider, row.model, row.unit, row.when, row.schedule), []).append(row)
    for low in everything:
        for high in higher.get((low.provider, low.model, low.unit, low.when, low.schedule), ()):
            if high.layer > low.layer and _covers(high, low):
                yield low, high


def _covers(outer: PriceRow, inner: PriceRow) -> bool:
    starts = outer.valid_from_ms is None or (
        inner.valid_from_ms is not None and outer.valid_from_ms <= inner.valid_from_ms
    )
    ends = outer.valid_to_ms is None or (inner.valid_to_ms is not None and inner.valid_to_ms <= outer.valid_to_ms)
    return starts and ends
