"""What ``farthing price`` shows: tables and findings made from a price book. Pure, no I/O."""

from collections.abc import Iterable, Iterator
from datetime import date
from typing import NamedTuple

from farthing.core.money import format_usd
from farthing.core.price_book import PriceBook, Resolved
from farthing.core.pricing_rows import BASE_LAYER, USER_LAYER, PriceRow
from farthing.insight.price_tables import STALE_DAYS, model_table, models_table, rate_text
from farthing.insight.table import Column, Row, Table
from farthing.library import Verified

__all__ = ["diff_table", "far_off", "findings", "model_table", "models_table", "verified_table"]


class Finding(NamedTuple):
    """Something to look at in a price book."""

    kind: str
    where: str
    what: str


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
    """What deserves a look: stale checks, rounded or far-off prices, rows that no longer decide anything."""
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
    yield from far_off(book)
    for low, high in _shadowed(book.data.rows):
        kind = "redundant" if low.steps == high.steps else "dominated"
        if low.layer > BASE_LAYER or kind == "redundant":
            yield Finding(kind, low.id, f"{high.id} says the same" if kind == "redundant" else f"{high.id} decides")


def far_off(book: PriceBook) -> Iterator[Finding]:
    """Own prices that are ten times the book's for the same thing, or a tenth: most likely another unit was meant."""
    for row, times in _far_off(book.data.rows):
        yield Finding("far", row.id, f"{times} times the listed price for the same thing; is the unit right?")


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


def _rates(book: PriceBook, provider: str, model: str, at_ms: int) -> dict[str, str]:
    if not any(book.rows(provider, model)):
        return {}
    sheet = book.sheet(Resolved(provider, provider, model, "", None), {}, at_ms)
    own = {row.unit for row in book.rows(provider, model)}
    return {unit: rate_text(unit, rate) for unit, rate in sheet.rates.items() if unit in own}


def _far_off(rows: Iterable[PriceRow]) -> Iterator[tuple[PriceRow, str]]:
    """(own row, how many times it is the nearest listed price): where both differ by ten times or more."""
    everything = tuple(rows)
    own = [row for row in everything if row.layer == USER_LAYER and row.steps[0][1] > 0]
    wanted = {(row.provider, row.model, row.unit, row.when) for row in own}
    listed: dict[tuple[object, ...], list[int]] = {}
    for row in everything:
        kind = (row.provider, row.model, row.unit, row.when)
        if row.layer < USER_LAYER and kind in wanted and row.steps[0][1] > 0:
            listed.setdefault(kind, []).append(row.steps[0][1])
    for row in own:
        price = row.steps[0][1]
        known = listed.get((row.provider, row.model, row.unit, row.when), [price])
        if all(not one < 10 * price < 100 * one for one in known):
            nearest = min(known, key=lambda one: max(one, price) / min(one, price))
            yield row, f"{price / nearest:.3g}"


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
