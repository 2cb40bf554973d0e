"""Which calls of a log may be replayed apart from which, and whether parts that were add up to one replay.

Calls share what budgets count, what caches keep and what routes remember. Some budgets of a policy count across all
parts, whatever the log is split by. As long as none of them comes near a limit or a threshold, it decides nothing:
parts note how far they brought each counter, and where the sum of all parts' highest levels stays below where
anything happens, no order of the calls could have made anything happen. Otherwise the parts do not count, and the log
is replayed in one piece.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from farthing.core.policy import Budget, Policy, Threshold
from farthing.core.types import Exchange
from farthing.lab.replay_books import Levels
from farthing.lab.replay_parts import PARTS, SINGLES, part_of, splits_of

SAMPLE: Final = 2_000
"""Exchanges from which it is told how even parts would be."""
_EVEN: Final = 1.25
"""How much larger than the mean the largest part may be."""


class Split(NamedTuple):
    """One way of splitting a log."""

    dimension: str
    shared: tuple[str, ...]
    """Budgets that count across parts: they must come near nothing."""


def splits(policy: Policy) -> tuple[Split, ...]:
    """The ways in which a policy's log can be split, with the fewest shared budgets first."""
    able = list(PARTS)
    for route in policy.cache:
        able = [name for name in able if name in route.partition] if route.use else able
    if policy.routes:
        able = [name for name in able if name not in ("session", "feature")]
    if not policy.cache and not policy.routes:
        able.append("request")
    found = []
    for dimension in able:
        shared = [one for one in policy.budgets if _counts_across(one, dimension)]
        if any(one.per == "rolling" for one in shared):
            continue  # those count other windows too, so that a level says little
        found.append(Split(dimension, tuple([one.name for one in shared])))
    return tuple(sorted(found, key=lambda one: len(one.shared)))


def best(found: Sequence[Split], sample: Sequence[Exchange], parts: int) -> Split | None:
    """The first split that makes parts of about the same size, else that of the evenest; None: there is none."""
    uneven: list[tuple[float, int]] = []
    for place, one in enumerate(found):
        counts = [0] * parts
        for exchange in sample:
            counts[part_of(exchange, one.dimension, parts)] += 1
        largest = max(counts) * parts / max(1, len(sample))
        if largest <= _EVEN:
            return one
        uneven.append((largest, place))
    least = min(uneven, default=None)
    return found[least[1]] if least is not None and least[0] < parts else None


def thresholds_of(policy: Policy, budgets: Iterable[str]) -> Mapping[str, tuple[Threshold, ...]]:
    """The thresholds of these budgets."""
    wanted = frozenset(budgets)
    return {one.name: one.thresholds for one in policy.budgets if one.name in wanted}


def conflict(found: Sequence[Levels]) -> str:
    """The counter because of which parts do not add up to one replay; empty: they do.

    A counter that one part only has touched is that part's own.
    """
    sums: dict[tuple[str, str, str], tuple[int, int, int]] = {}
    for levels in found:
        for counter, window, unit, level, most in levels:
            parts, before, least = sums.get((counter, window, unit), (0, 0, most))
            sums[(counter, window, unit)] = (parts + 1, before + level, min(least, most))
    for (counter, _, _), (parts, level, most) in sums.items():
        if parts > 1 and level > most:
            return counter
    return ""


def _counts_across(budget: Budget, dimension: str) -> bool:
    """Calls of several parts may meet on its counters, and that may decide something."""
    return budget.hard and budget.per not in SINGLES and dimension not in splits_of(budget)
