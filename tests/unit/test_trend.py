"""Spend over time: the chart of many groups is made from few questions."""

import random

import pytest

from farthing.core.types import Totals
from farthing.insight.reports import trend
from farthing.insight.series import fold
from farthing.server.pages.figures import stacked


@pytest.mark.parametrize("groups", [3, 8, 9, 40])
def test_a_chart_of_the_largest_groups_and_the_rest_is_that_of_all_groups(groups):
    chance = random.Random(groups)
    cells = {
        (f"2026-11-{day:02}", f"user-{number}" if number else ""): chance.randrange(10**6)
        for day in range(1, 8)
        for number in range(groups)
        if chance.random() < 0.8
    }
    for day in (3, 5):
        cells = {
            group: 0 if group[0] == f"2026-11-{day:02}" and group[1] > "user-3" else amount
            for group, amount in cells.items()
        }
    rows = tuple(
        Totals(group=group, entries=2, amount=amount, unpriced=0 if amount else 2)
        for group, amount in sorted(cells.items())
    )
    by_time = tuple(
        Totals(
            group=(day,),
            amount=sum(amount for group, amount in cells.items() if group[0] == day),
            unpriced=sum(2 for group, amount in cells.items() if group[0] == day and not amount),
        )
        for day in sorted({day for day, _ in cells})
    )
    whole = fold(rows)
    top = trend.largest(whole)
    some = tuple(row for row in rows if row.group[1:] in top)
    found = trend.build(some, "day", ("user",), others=(by_time, len(whole)) if groups > 8 else None)
    assert found == trend.build(rows, "day", ("user",))


def test_what_has_no_known_price_at_all_is_unpriced_and_a_slot_without_calls_costs_nothing():
    rows = (
        Totals(group=("2026-11-01", "search"), entries=2, amount=5),
        Totals(group=("2026-11-01", "support"), entries=2, unpriced=2),
        Totals(group=("2026-11-02", "search"), entries=3, amount=4, unpriced=1),
    )
    table = trend.build(rows, "day", ("feature",), slots=("2026-11-01", "2026-11-02", "2026-11-03"))
    assert [column.name for column in table.columns] == ["day", "search", "support"]
    assert table.rows == (("2026-11-01", 5, None), ("2026-11-02", 4, 0), ("2026-11-03", 0, 0))
    assert table.total == ("total", 9, None)
    assert {column.unknown for column in table.columns[1:]} == {"unpriced"}
    drawn = [trace["y"] for trace in stacked(table)["data"]]
    assert drawn == [[5e-9, 4e-9, 0.0], [None, 0.0, 0.0]]
