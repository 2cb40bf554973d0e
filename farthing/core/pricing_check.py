"""What can be wrong with a price book: contradictions, gaps and references to nothing. All problems at once."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

from farthing.core.pricing_rows import DISTANT_FUTURE, DISTANT_PAST, BookData, PriceRow
from farthing.core.units import UNITS


def problems(data: BookData) -> tuple[str, ...]:
    """Everything that makes this book unusable, in words."""
    found: list[str] = []
    schedules = {schedule.name for schedule in data.schedules}
    if len(schedules) != len(data.schedules):
        found.append("two schedules have the same name")
    models = {(entry.provider, entry.id) for entry in data.models}
    seen: set[str] = set()
    for row in data.rows:
        if row.id in seen:
            found.append(f"{row.id}: two rows have this id")
        seen.add(row.id)
        found += _row_problems(row, schedules)
        if row.model != "*" and (row.provider, row.model) not in models:
            found.append(f"{row.id}: there is no model {row.provider}/{row.model}")
    for entry in data.models:
        found += [
            f"{entry.provider}/{entry.id}: falls_to names {unit!r}, which is not a unit"
            for pair in entry.falls_to
            for unit in pair
            if unit not in UNITS
        ]
    return (*found, *contradictions(data.rows))


def contradictions(rows: Iterable[PriceRow]) -> tuple[str, ...]:
    """Rows of one layer that state different prices for the same thing at the same instant.

    An open-ended row ends where the next one of its kind begins: that is how prices change. What is refused is two
    prices from the same instant, and a stated end that reaches into the next row.
    """
    alike: dict[tuple[object, ...], list[PriceRow]] = defaultdict(list)
    for row in rows:
        alike[row.layer, row.provider, row.model, row.unit, row.when, row.schedule].append(row)
    found: list[str] = []
    for group in alike.values():
        if len(group) < 2:
            continue
        group.sort(key=lambda row: DISTANT_PAST if row.valid_from_ms is None else row.valid_from_ms)
        for first, second in pairwise(group):
            if first.steps == second.steps:
                continue
            if first.valid_from_ms == second.valid_from_ms:
                found.append(f"{first.id} and {second.id}: two prices from the same instant")
            elif first.valid_to_ms is not None and first.valid_to_ms > (second.valid_from_ms or 0):
                found.append(f"{first.id} reaches into {second.id}: end it where the next begins")
    return tuple(found)


def _row_problems(row: PriceRow, schedules: set[str]) -> Iterable[str]:
    if row.unit not in UNITS:
        yield f"{row.id}: {row.unit!r} is not a unit"
    if row.schedule and row.schedule not in schedules:
        yield f"{row.id}: there is no schedule {row.schedule!r}"
    edges = [edge for edge, _ in row.steps]
    if not edges or edges[0] != 0 or edges != sorted(set(edges)):
        yield f"{row.id}: steps begin at 0 and rise"
    if any(price < 0 for _, price in row.steps):
        yield f"{row.id}: a price is negative"
    start = DISTANT_PAST if row.valid_from_ms is None else row.valid_from_ms
    end = DISTANT_FUTURE if row.valid_to_ms is None else row.valid_to_ms
    if not start < end:
        yield f"{row.id}: ends before it begins"
