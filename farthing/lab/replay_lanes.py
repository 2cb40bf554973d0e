"""What holds for every call of a kind on the short way of a replay, worked out once.

A ceiling is a straight line in the size of the body: so many nano-USD a token of the prompt, and the answer's whole
cap beside it. Which line it is depends on the kind of call only, so that of each call its size is looked at alone.
Whatever is not a straight line (a prompt that refers outside the body, an unknown price, a limit on turns) has none.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol, runtime_checkable

import msgspec

from farthing.core.money import round_half_even
from farthing.core.price_book import Sheet
from farthing.core.pricing import flat
from farthing.core.pricing_ceiling import USES_ASSUMED, Worst
from farthing.core.types import Bounds, Request, Target, Usage
from farthing.core.units import INPUT_UNITS, OUTPUT_UNITS
from farthing.engine.act import is_cheaper
from farthing.engine.ceiling import bounds_of
from farthing.engine.plan import Plan
from farthing.engine.services import Services, Upstream
from farthing.lab.replay_books import Amounts

_SIZES: Final = (0, 1_000, 100_000_000)
"""Sizes at which bounds are looked at."""
_FLAT_MAX: Final = 1_000


@runtime_checkable
class Quick(Protocol):
    """``Prices`` that also say what they say in numbers only."""

    def sheet(self, usage: Usage, target: Target, *, at_ms: int) -> Sheet | None:
        """The rates that ``charge`` charges an answer's own model by; None: ask ``charge``."""
        ...

    def worst(self, bounds: Bounds, target: Target, *, at_ms: int) -> Worst | None:
        """What ``ceiling`` is computed with; None: ask ``ceiling``."""
        ...


class Tariff:
    """What the answers of one target cost, and the tokens that budgets count of them, in one look."""

    __slots__ = ("_flat", "_plain", "_prices", "_target")

    def __init__(self, prices: Quick, target: Target) -> None:
        self._prices = prices
        self._target = target
        self._flat: dict[tuple[str, str, tuple[tuple[str, str], ...]], _Flat] = {}
        self._plain: dict[str, _Flat] = {}
        """By model, of answers that say nothing of tier and facets."""

    def rate(self, usage: Usage, at_ms: int) -> tuple[int, int, int] | None:
        """(nano-USD, input tokens, output tokens); None: it takes the whole price book to say."""
        if len(usage.parts) != 1 or usage.stated_pusd is not None or usage.source == "missing":
            return None
        (part,) = usage.parts
        if usage.service_tier or usage.facets:
            known = self._flat.get((usage.model, usage.service_tier, usage.facets))
        else:
            known = self._plain.get(usage.model)
        if known is None or not known[0] <= at_ms < known[1]:
            known = self._looked_up(usage, at_ms)
        _, _, rates, below, plain = known
        if part.tier_basis >= below or part.model:
            return None
        lines = part.lines
        if plain is not None and len(lines) == 2:
            (one, taken), (other, given) = lines
            if one == "input" and other == "output":
                return plain[0] * taken + plain[1] * given, taken, given
        total = taken = given = 0
        try:
            for unit, quantity in lines:
                over, under, side = rates[unit]
                total += over * quantity if under == 1 else round_half_even(over * quantity, under)
                if side == 1:
                    taken += quantity
                elif side == 2:
                    given += quantity
        except KeyError:
            return None
        return total, taken, given

    def input_nusd(self, usage: Usage, at_ms: int) -> int:
        """What the input of an answer costs that :meth:`rate` has just rated at this instant."""
        tiered = usage.service_tier or usage.facets
        known = None if tiered else self._plain.get(usage.model)
        if known is None or not known.from_ms <= at_ms < known.to_ms:
            known = self._looked_up(usage, at_ms)
        total = 0
        for unit, quantity in usage.parts[0].lines:
            over, under, side = known.rates[unit]
            if side == 1:
                total += round_half_even(over * quantity, under)
        return total

    def _looked_up(self, usage: Usage, at_ms: int) -> "_Flat":
        sheet = self._prices.sheet(usage, self._target, at_ms=at_ms)
        if sheet is None:
            found = _Flat(-(2**62), 2**62, {}, 0, None)
        else:
            rates, below = flat(sheet)
            sided = {unit: (over, under, _side(unit)) for unit, (over, under) in rates.items()}
            found = _Flat(sheet.from_ms, sheet.to_ms, sided, below, _plain(rates))
        if len(self._flat) + len(self._plain) >= _FLAT_MAX:
            self._flat.clear()
            self._plain.clear()
        if usage.service_tier or usage.facets:
            self._flat[(usage.model, usage.service_tier, usage.facets)] = found
        else:
            self._plain[usage.model] = found
        return found


class _Flat(NamedTuple):
    """Rates for instants in [from_ms, to_ms)."""

    from_ms: int
    to_ms: int
    rates: dict[str, tuple[int, int, int]]
    """By unit: nano-USD as a fraction; 1 for input, 2 for output, 0 for neither."""
    below: int
    """Prompts of so many tokens have others."""
    plain: tuple[int, int] | None
    """Nano-USD of a token of input and of output; None: they are no whole numbers."""


def _plain(rates: Mapping[str, tuple[int, int]]) -> tuple[int, int] | None:
    (taken, under), (given, below) = rates.get("input", (0, 0)), rates.get("output", (0, 0))
    return (taken, given) if under == below == 1 else None


def _side(unit: str) -> int:
    return 1 if unit in INPUT_UNITS else 2 if unit in OUTPUT_UNITS else 0


class Lane:
    """The ceilings of one kind of calls at one target."""

    __slots__ = ("_bounds", "_fees", "_from_ms", "_more", "_most", "_prices", "_steps", "_target", "_to_ms", "given")

    def __init__(self, prices: Quick, target: Target, bounds: Bounds, *, more: int, most: int | None) -> None:
        """``bounds``: of a body of no bytes; ``more``: tokens of a prompt beside its bytes; ``most``: the window."""
        self._prices = prices
        self._target = target
        self._bounds = bounds
        self._more = more
        self._most = 2**62 if most is None else most
        self._from_ms = self._to_ms = 0
        self._steps: tuple[tuple[int, int, int], ...] = ()
        """(from so many tokens on, nano-USD per token of the prompt, nano-USD of the answer and all fees)."""
        self.given = bounds.output_tokens * bounds.choices
        """Output tokens that are held."""

    def need(self, body_bytes: int, at_ms: int) -> Amounts | None:
        """What budgets hold for a call with a body of so many bytes; None: there is no line at this instant."""
        if not self._from_ms <= at_ms < self._to_ms and not self._draw(at_ms):
            return None
        tokens = body_bytes + self._more
        if tokens > self._most:
            tokens = self._most
        steps, given = self._steps, self.given
        _, rate, rest = steps[0]
        if len(steps) > 1:
            for edge, dearer, more in steps:
                if edge <= tokens:
                    rate, rest = dearer, more
        return (rest + tokens * rate, tokens + given, tokens, given, 1, 0, 0)

    def usd(self, body_bytes: int, at_ms: int) -> int | None:
        """The nano-USD of that."""
        if len(self._steps) != 1 or not self._from_ms <= at_ms < self._to_ms:
            need = self.need(body_bytes, at_ms)
            return None if need is None else need[0]
        tokens = body_bytes + self._more
        _, rate, rest = self._steps[0]
        return rest + (tokens if tokens <= self._most else self._most) * rate

    def _draw(self, at_ms: int) -> bool:
        bounds = self._bounds
        worst = self._prices.worst(bounds, self._target, at_ms=at_ms)
        if worst is None or any(fee is None for _, fee in worst.fees):
            return False
        fees = sum(
            [
                (uses or USES_ASSUMED) * (fee or 0)
                for (_, uses), (_, fee) in zip(bounds.hosted_tools, worst.fees, strict=True)
            ]
        )
        output = bounds.output_tokens * max(bounds.choices, 1)
        steps = []
        for edge, taken, given in worst.steps:
            if taken is None or (output and given is None):
                return False
            steps.append((edge, taken, output * (given or 0) + worst.request_fee + fees))
        self._steps = tuple(steps)
        self._from_ms, self._to_ms = worst.from_ms, worst.to_ms
        return True


class Switch(NamedTuple):
    """Another model that thresholds want for calls of a kind, where it is cheaper."""

    targets: tuple[Target, ...]
    before: Lane | None
    """What a call may cost where it would go."""
    after: Lane | None
    """At the first of ``targets``."""

    def pays(self, body_bytes: int, at_ms: int) -> bool | None:
        """It is cheaper for a call of this size; None: that is not known from lines."""
        if self.before is None or self.after is None:
            return None
        before, after = self.before.usd(body_bytes, at_ms), self.after.usd(body_bytes, at_ms)
        return None if before is None or after is None else is_cheaper(before, after)


def lane_of(
    services: Services, prices: Quick, request: Request, target: Target, upstream: Upstream, plan: Plan
) -> Lane | None:
    """The lane of calls like this one; None: their ceilings are not a straight line."""
    if services.request_limits or services.budgets.counts_turns:
        return None
    found = []
    for size in _SIZES:
        view = msgspec.structs.replace(request.view, body_bytes=size)
        found.append(upstream.codec.bounds(msgspec.structs.replace(request, view=view), target))
    none, *more = found
    if none.unbounded:
        return None
    for size, one in zip(_SIZES[1:], more, strict=True):
        if one != msgspec.structs.replace(none, input_tokens=none.input_tokens + size):
            return None
    view = msgspec.structs.replace(request.view, body_bytes=0)
    bounds = bounds_of(services, msgspec.structs.replace(request, view=view), target, upstream, plan)
    return Lane(prices, target, bounds, more=none.input_tokens, most=services.prices.context_window(target))
