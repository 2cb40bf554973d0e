"""What a ``LedgerQuery`` means, entry by entry: the reference for stores that compile it to their own language."""

import datetime
from collections.abc import Iterable, Sequence
from typing import Final

from farthing.core.dimensions import ENTRY_DIMENSIONS, TIME_DIMENSIONS, entry_value, exchange_value, is_dimension
from farthing.core.errors import BadRequest
from farthing.core.types import Exchange, LedgerEntry, LedgerQuery, Totals
from farthing.core.units import (
    INPUT,
    INPUT_UNITS,
    OUTPUT,
    OUTPUT_REASONING,
    OUTPUT_UNITS,
    is_cache_read,
    is_cache_write,
)

MEASURES: Final = (
    "entries",
    "amount",
    "baseline",
    "unpriced",
    "estimated",
    "estimated_amount",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "errors",
    "latency_ms",
)
"""The summed fields of ``Totals``; ``requests`` is a count of distinct ids."""


def check_query(query: LedgerQuery) -> None:
    """Raises ``BadRequest`` naming the first dimension that does not exist."""
    for name in (*query.group_by, *(name for name, _ in query.where)):
        if not is_dimension(name):
            known = ", ".join((*ENTRY_DIMENSIONS, *TIME_DIMENSIONS))
            raise BadRequest(
                f"Unknown dimension {name!r}.",
                hint=f"Use a scope dimension (team, user, …), tag:<name>, or one of {known}.",
                param="group_by",
            )


def entry_totals(entries: Iterable[LedgerEntry], query: LedgerQuery) -> tuple[Totals, ...]:
    """The answer to ``query`` over these entries, rows sorted by group; without ``group_by`` always one."""
    check_query(query)
    sums: dict[tuple[str, ...], list[int]] = {} if query.group_by else {(): [0] * len(MEASURES)}
    requests: dict[tuple[str, ...], set[str]] = {}
    for entry in entries:
        if not _wanted(entry, query):
            continue
        group = tuple(query_value(entry, name) for name in query.group_by)
        row = sums.setdefault(group, [0] * len(MEASURES))
        requests.setdefault(group, set()).add(entry.request_id)
        for index, amount in enumerate(entry_measures(entry)):
            row[index] += amount
    return tuple(totals_of(group, len(requests.get(group, ())), sums[group]) for group in sorted(sums))


def totals_of(group: tuple[str, ...], requests: int, sums: Sequence[int]) -> Totals:
    """A row of an answer; ``sums`` in the order of ``MEASURES``. Answers may have hundreds of thousands of rows."""
    (
        entries, amount, baseline, unpriced, estimated, estimated_amount, input_tokens, cache_read_tokens,
        cache_write_tokens, output_tokens, reasoning_tokens, errors, latency_ms,
    ) = sums  # fmt: skip
    return Totals(
        group=group,
        requests=requests,
        entries=entries,
        amount=amount,
        baseline=baseline,
        unpriced=unpriced,
        estimated=estimated,
        estimated_amount=estimated_amount,
        input_tokens=input_tokens,
        cache_read_tokens=cache_read_tokens,
        cache_write_tokens=cache_write_tokens,
        output_tokens=output_tokens,
        reasoning_tokens=reasoning_tokens,
        errors=errors,
        latency_ms=latency_ms,
    )


def query_value(entry: LedgerEntry, dimension: str) -> str:
    """The entry's value of any dimension, those of time (in UTC, by ``received_at_ms``) included."""
    return _slot(entry.received_at_ms, dimension) if dimension in TIME_DIMENSIONS else entry_value(entry, dimension)


def entry_edge(before: str) -> int | None:
    """The number that the cursor of a page of entries names; None: it is the first page. Raises ``BadRequest``."""
    if before and not (before.isascii() and before.isdigit() and len(before) < 19):
        raise _no_cursor()
    return int(before) if before else None


def log_edge(query: LedgerQuery, before: str) -> tuple[int, int]:
    """(instant, number) before which a page of the traffic log begins. Raises ``BadRequest``."""
    moment, _, number = before.partition(".")
    if before and not (moment.isdigit() and number.isdigit() and len(before) < 38 and before.isascii()):
        raise _no_cursor()
    return (int(moment), int(number)) if before else (query.until_ms or 2**62, 0)


def _no_cursor() -> BadRequest:
    return BadRequest("The cursor of this page is not one of ours.", hint="Start again from the first page.")


def is_unbooked(one: Exchange, query: LedgerQuery) -> bool:
    """Nothing was booked of this call, and it matches the period and the filters of the query."""
    if one.usage is not None or any(fact.entry_id for fact in one.attempts):
        return False
    if one.received_at_ms < (query.since_ms or 0) or one.received_at_ms >= (query.until_ms or 2**63):
        return False
    return all(
        (_slot(one.received_at_ms, name) if name in TIME_DIMENSIONS else exchange_value(one, name)) == value
        for name, value in query.where
    )


def _slot(at_ms: int, dimension: str) -> str:
    at = datetime.datetime.fromtimestamp(at_ms // 1000, datetime.UTC)
    match dimension:
        case "hour":
            return at.strftime("%Y-%m-%dT%H")
        case "day":
            return at.strftime("%Y-%m-%d")
        case "week":
            year, week, _ = at.isocalendar()
            return f"{year}-W{week:02}"
        case _:
            return at.strftime("%Y-%m")


def entry_measures(entry: LedgerEntry) -> tuple[int, ...]:
    """The entry's contribution to each of ``MEASURES``."""
    amount = entry.charge.total
    guessed = entry.usage.source != "reported"
    return (
        1,
        amount or 0,
        (entry.baseline or 0) if amount is not None else 0,
        int(amount is None) - int(entry.charge.reason == "was_unpriced"),
        int(guessed),
        (amount or 0) if guessed else 0,
        *token_sums(entry),
        int(entry.error != ""),
        entry.latency_ms,
    )


def token_sums(entry: LedgerEntry) -> tuple[int, int, int, int, int]:
    """(input, cache read, cache write, output, reasoning) tokens over all parts of the usage."""
    plain_input = plain_output = 0
    sums: list[int] | None = None
    for part in entry.usage.parts:
        for unit, quantity in part.lines:
            if unit == INPUT:
                plain_input += quantity
            elif unit == OUTPUT:
                plain_output += quantity
            else:
                if sums is None:
                    sums = [0, 0, 0, 0, 0]
                for place in _PLACES.get(unit, ()):
                    sums[place] += quantity
    if sums is None:  # most calls
        return plain_input, 0, 0, plain_output, 0
    return sums[0] + plain_input, sums[1], sums[2], sums[3] + plain_output, sums[4]


def _places(unit: str) -> tuple[int, ...]:
    """Which of the ``token_sums`` a unit counts in."""
    if unit in OUTPUT_UNITS:
        return (3, 4) if unit == OUTPUT_REASONING else (3,)
    if is_cache_read(unit):
        return (0, 1)
    return (0, 2) if is_cache_write(unit) else (0,)


_PLACES: Final = {unit: _places(unit) for unit in (*INPUT_UNITS, *OUTPUT_UNITS)}


def _wanted(entry: LedgerEntry, query: LedgerQuery) -> bool:
    at = entry.received_at_ms
    if query.since_ms is not None and at < query.since_ms:
        return False
    if query.until_ms is not None and at >= query.until_ms:
        return False
    return all(query_value(entry, name) == value for name, value in query.where)
