"""Worked usages, raw as providers send them, priced to the nano-dollar; and the corrections they rest on, frozen."""

import itertools
import json
from collections import defaultdict
from pathlib import Path

import msgspec
import pytest

from farthing.adapters.price_feeds import load_book
from farthing.core.price_book import PriceBook
from farthing.core.pricing_rows import OVERLAY_LAYER, PriceRow
from farthing.library import verify

GOLDEN = Path(__file__).parent.parent / "golden"
VECTORS = json.loads((GOLDEN / "pricing_vectors.json").read_text("utf-8"))
MORE = json.loads((GOLDEN / "pricing_vectors_more.json").read_text("utf-8"))
FROZEN = json.loads((GOLDEN / "pricing_corrections.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return load_book().book


@pytest.mark.parametrize("vector", [*VECTORS, *MORE], ids=lambda vector: vector["id"])
def test_a_worked_usage_costs_what_its_provider_says_to_the_nano_dollar(book, vector):
    [result] = verify(book, [vector])
    assert (result.got, result.reason) == (result.expected, "")


def test_every_further_vector_names_its_source_and_there_are_many_over_providers_and_dates():
    assert len(VECTORS) == 65
    assert len(MORE) >= 60
    assert all(vector["source"].startswith("https://") for vector in MORE)
    assert len({vector["provider"] for vector in (*VECTORS, *MORE)}) >= 13
    assert len({vector["timestamp"][:10] for vector in MORE}) >= 20


def stated(rows: list[PriceRow]) -> dict[str, list[list[int]]]:
    return {row.id: [[edge, price] for edge, price in row.steps] for row in rows}


def corrections(book: PriceBook) -> list[PriceRow]:
    return [row for row in book.data.rows if row.layer == OVERLAY_LAYER]


def overwritten(rows: list[PriceRow]) -> list[str]:
    """Frozen rows that are gone or say something else. New rows are welcome."""
    now = stated(rows)
    return [row_id for row_id, steps in FROZEN.items() if now.get(row_id) != steps]


def test_released_corrections_are_never_overwritten(book):
    assert overwritten(corrections(book)) == []


def test_every_correction_is_frozen(book):
    missing = stated(corrections(book)).keys() - FROZEN.keys()
    assert not missing, "add new rows to tests/golden/pricing_corrections.json"


def test_swapping_any_two_price_columns_of_the_corrections_is_noticed(book):
    rows = corrections(book)
    alike = defaultdict(list)
    for number, row in enumerate(rows):
        alike[row.provider, row.model, row.when, row.schedule, row.valid_from_ms].append(number)
    swaps = 0
    for group in alike.values():
        for first, second in itertools.combinations(group, 2):
            if rows[first].steps == rows[second].steps:
                continue
            mutant = list(rows)
            mutant[first] = msgspec.structs.replace(rows[first], steps=rows[second].steps)
            mutant[second] = msgspec.structs.replace(rows[second], steps=rows[first].steps)
            assert overwritten(mutant)
            swaps += 1
    assert swaps > 60


@pytest.mark.parametrize(
    ("model", "unit", "other"),
    [
        ("deepseek-v4-pro", "input", "output"),
        ("deepseek-v4-flash", "input", "input_cache_read"),
        ("deepseek-chat", "input_cache_read", "output"),
        ("grok-4-0709", "input", "output"),
        ("claude-opus-4-6", "input", "output"),
        ("gpt-4o-2024-11-20", "input", "input_cache_read"),
        ("ft:gpt-4.1", "input_cache_read", "output"),
        ("gpt-4o-audio-preview", "input_audio", "output_audio"),
    ],
)
def test_a_swap_in_the_book_breaks_a_worked_usage(book, model, unit, other):
    def swapped(row: PriceRow) -> PriceRow:
        if row.layer != OVERLAY_LAYER or row.model != model or row.unit not in (unit, other):
            return row
        return msgspec.structs.replace(row, unit=other if row.unit == unit else unit)

    data = msgspec.structs.replace(book.data, rows=tuple(swapped(row) for row in book.data.rows))
    assert not all(result.ok for result in verify(PriceBook(data), [*VECTORS, *MORE]))


def test_a_vector_that_lacks_something_is_named():
    with pytest.raises(ValueError, match=r"vector 1.*timestamp"):
        verify(
            PriceBook(msgspec.json.decode(b"{}", type=type(load_book(base=False).book.data))),
            [{"provider": "x", "model": "y", "usage": {}}],
        )
