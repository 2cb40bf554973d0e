"""Slices of the traffic as the decomposition wants them: requests, tries, tokens, list price and cost of one period.

The list price is that of the period's middle, of all tokens as plain input and output: what caches, tiers and
discounts take off it is a cause of its own.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from farthing.core.decomposition import Slice
from farthing.core.types import LedgerQuery, Totals

Key = tuple[str, ...]

INNER: Final = ("provider", "model")
"""Added to every grouping: a slice has one price per token."""
_KINDS: Final = ("kind", "reason")


class ListPrice(Protocol):
    """What tokens cost at list price, without cache or discount."""

    def __call__(self, provider: str, model: str, tokens: tuple[int, int], at_ms: int) -> int | None:
        """Nano-USD of (input, output) tokens; None: the price is unknown."""
        ...


def queries(
    by: tuple[str, ...], *, since_ms: int, until_ms: int, where: tuple[tuple[str, str], ...] = ()
) -> tuple[LedgerQuery, LedgerQuery]:
    """(the slices, the slices split by what kind of entries they hold)."""
    groups = (*by, *(name for name in INNER if name not in by))
    first = LedgerQuery(group_by=groups, since_ms=since_ms, until_ms=until_ms, where=where)
    return first, LedgerQuery(group_by=(*groups, *_KINDS), since_ms=since_ms, until_ms=until_ms, where=where)


def slices(
    rows: Iterable[Totals], parts: Iterable[Totals], groups: Key, price: ListPrice, *, at_ms: int
) -> dict[Key, Slice]:
    """By group. Tries are charges that a provider was paid for: no corrections, no answers of our own caches.

    A slice whose list price is unknown counts its own cost as that: nothing is then put down to caches.
    """
    tries: dict[Key, int] = {}
    for row in parts:
        group, (kind, reason) = row.group[:-2], row.group[-2:]
        if kind == "charge" and reason != "cache_hit":
            tries[group] = tries.get(group, 0) + row.entries
    place = {name: at for at, name in enumerate(groups)}
    found = {}
    for row in rows:
        provider, model = row.group[place["provider"]], row.group[place["model"]]
        listed = price(provider, model, (row.input_tokens, row.output_tokens), at_ms)
        found[row.group] = Slice(
            requests=row.requests,
            attempts=tries.get(row.group, 0),
            tokens=row.input_tokens + row.output_tokens,
            list_nusd=row.amount if listed is None else listed,
            cost_nusd=row.amount,
        )
    return found


def named(found: Mapping[Key, Slice], width: int) -> dict[str, Slice]:
    """The slices under names that still tell the first ``width`` dimensions apart (see :func:`outer`)."""
    return {_SEPARATOR.join((*key[:width], *key[width:])): one for key, one in found.items()}


def outer(name: str, width: int) -> Key:
    """The first ``width`` dimensions of a name of :func:`named`."""
    return tuple(name.split(_SEPARATOR)[:width])


_SEPARATOR: Final = "\x1f"
