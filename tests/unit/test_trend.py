"""Spend over time: the chart of many groups is made from few questions."""

import random

import pytest

from farthing.core.types import Totals
from farthing.insight.reports import trend
from farthing.insight.series import fold


@pytest.mark.parametrize("groups", [3, 8, 9, 40])
def test_a_chart_of_the_largest_groups_and_the_rest_is_that_of_all_groups(groups):
    chance = random.Random(groups)
    cells = {
        (f"2026-11-{day:02}", f"user-{number}" if number else ""): chance.randrange(10**6)
        for day in range(1, 8)
        for number in range(groups)
        if chance.random() < 0.8
    }
    rows = tuple(Totals(group=group, entries=1, amount=amount) for group, amount in sorted(cells.items()))
    by_time = tuple(
        Totals(group=(day,), amount=sum(amount for group, amount in cells.items() if group[0] == day))
        for day in sorted({day for day, _ in cells})
    )
    whole = fold(rows)
    top = trend.largest(whole)
    some = tuple(row for row in rows if row.group[1:] in top)
    found = trend.build(some, "day", ("user",), others=(by_time, len(whole)) if groups > 8 else None)
    assert found == trend.build(rows, "day", ("user",))
