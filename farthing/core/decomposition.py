"""Why a bill changed: the difference of two periods split into causes that sum to it exactly, to the nano-dollar.

Cost is a product, slice by slice: requests × share of the slice × attempts per request × tokens per attempt × list
price per token × part of the list price that was paid. The log-mean Divisia index gives each factor its part without
a residue; what floats leave over is settled by largest remainder.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, get_args

import msgspec

from farthing.core.allocation import to_whole

Cause = Literal["volume", "mix", "retries", "tokens", "price", "cache"]
"""More requests; other slices (models, features…) among them; more tries per request; longer prompts and answers;
another price per token; another part of the list price paid because of caches and discounts."""

CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """What one slice of the traffic did in one period."""

    requests: int
    attempts: int
    """Billed tries; at least as many as requests where nothing was served from a cache."""
    tokens: int
    """All tokens, cached ones included."""
    list_nusd: int
    """Nano-USD at list price without any cache or discount."""
    cost_nusd: int
    """Nano-USD that was booked."""


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the change that one cause has in one slice."""

    slice: str
    cause: Cause
    amount_nusd: int
    """Positive: it made the bill larger."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A change of cost, fully explained: the effects sum to ``after_nusd − before_nusd``."""

    before_nusd: int
    after_nusd: int
    effects: tuple[Effect, ...]
    """Largest first, by size."""

    @property
    def by_cause(self) -> dict[Cause, int]:
        """Nano-USD of each cause over all slices."""
        found: dict[Cause, int] = dict.fromkeys(CAUSES, 0)
        for effect in self.effects:
            found[effect.cause] += effect.amount_nusd
        return found

    @property
    def by_slice(self) -> dict[str, int]:
        """Nano-USD of each slice over all causes."""
        found: dict[str, int] = {}
        for effect in self.effects:
            found[effect.slice] = found.get(effect.slice, 0) + effect.amount_nusd
        return found


def explain(before: Mapping[str, Slice], after: Mapping[str, Slice]) -> Change:
    """Splits the difference of two periods of equal length into causes, slice by slice."""
    totals = sum(one.requests for one in before.values()), sum(one.requests for one in after.values())
    raw: list[tuple[str, Cause, float]] = []
    for name in sorted({*before, *after}):
        raw += [(name, cause, amount) for cause, amount in _slice(before.get(name), after.get(name), totals)]
    old = sum(one.cost_nusd for one in before.values())
    new = sum(one.cost_nusd for one in after.values())
    whole = to_whole([amount for _, _, amount in raw], new - old)
    effects = [
        Effect(slice=name, cause=cause, amount_nusd=amount)
        for (name, cause, _), amount in zip(raw, whole, strict=True)
        if amount
    ]
    effects.sort(key=lambda effect: (-abs(effect.amount_nusd), effect.slice, effect.cause))
    return Change(before_nusd=old, after_nusd=new, effects=tuple(effects))


def _slice(old: Slice | None, new: Slice | None, totals: tuple[int, int]) -> Iterable[tuple[Cause, float]]:
    """The causes within one slice. A slice that came or went is a change of mix, whole, unless all traffic did."""
    was, now = (old.cost_nusd if old else 0), (new.cost_nusd if new else 0)
    if not all(totals):
        return [("volume", float(now - was))]
    if old is None or new is None or was <= 0 or now <= 0:
        return [("mix", float(now - was))]
    weight = _log_mean(now, was)
    found: list[tuple[Cause, float]] = []
    explained = 0.0
    for cause, (first, second) in zip(CAUSES[:-1], _pairs(old, new, totals), strict=True):
        amount = weight * math.log(second / first) if first > 0 and second > 0 else 0.0
        found.append((cause, amount))
        explained += amount
    return [*found, ("cache", (now - was) - explained)]


def _pairs(old: Slice, new: Slice, totals: tuple[int, int]) -> Sequence[tuple[float, float]]:
    """(before, after) of every factor but the last, which takes what is left."""
    return (
        (totals[0], totals[1]),
        (_ratio(old.requests, totals[0]), _ratio(new.requests, totals[1])),
        (_ratio(old.attempts, old.requests), _ratio(new.attempts, new.requests)),
        (_ratio(old.tokens, old.attempts), _ratio(new.tokens, new.attempts)),
        (_ratio(old.list_nusd, old.tokens), _ratio(new.list_nusd, new.tokens)),
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole > 0 else 0.0


def _log_mean(a: float, b: float) -> float:
    """The logarithmic mean of two positive numbers."""
    if math.isclose(a, b, rel_tol=1e-12):
        return (a + b) / 2
    return (a - b) / math.log(a / b)
