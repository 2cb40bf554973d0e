"""In which ways money was saved without an experiment to show it: exactly, or by a model; and what saving cost.

``exact``: arithmetic on what was billed; the same tokens at the list price, the same answer not bought twice.
``modelled``: what another model, an unmarked prompt or a longer one would have cost: it rests on tokens that nobody
was billed for. Neither was measured; they are never added to each other or to what was.
"""

from typing import Final

import msgspec

from farthing.core.types import LedgerEntry, Usage
from farthing.core.units import is_cache_read, is_cache_write
from farthing.engine.caching_books import CACHE_HIT
from farthing.engine.levers import unoptimised
from farthing.insight.arms import LEVER, SIMILAR_HIT, is_lever, rated, removed_tokens, worth_of
from farthing.ports.prices import Prices

DISCOUNTED: Final = ("batch", "flex")
"""Service tiers below the list price."""
MARKS: Final = "cache_breakpoints"

TITLES: Final = {
    "exact_hits": "equal questions answered from the cache",
    "provider_cache": "the providers' prompt caches, net of write premiums",
    "tiers": "batch and flex tiers",
    "hits_by_model": "equal questions, where prices moved or the provider's own cache might have helped",
    "similar_hits": "similar questions answered from the cache",
    "marks": "prompt-cache marks that levers set",
    "routes": "other models than asked for, by routes",
    "switched": "other models than asked for, by budgets and fallbacks",
    "shorter": "prompts that levers made shorter",
}
"""Name → what it is, exact ones first."""
EXACT: Final = ("exact_hits", "provider_cache", "tiers")


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """Money saved in one way, or spent on saving."""

    name: str
    title: str
    calls: int
    amount: int
    """Nano-USD; a saving may be negative."""


class Whole(msgspec.Struct, kw_only=True):
    """The period's books as a whole."""

    entries: int = 0
    spend: int = 0
    unpriced: int = 0
    estimated: int = 0
    untagged: int = 0
    """Calls without a team and a feature."""
    no_baseline: int = 0
    unvalued: int = 0
    """Calls with a discount that could not be rated again."""
    capped: int = 0
    """Calls whose answers levers capped."""
    policies: set[str] = set()
    price_books: set[str] = set()


class Ways:
    """Feeds on entries; ``exact``, ``modelled`` and ``own_cost`` are what was found."""

    def __init__(self, prices: Prices, *, since_ms: int, until_ms: int) -> None:
        self.whole = Whole(policies=set(), price_books=set())
        self._prices = prices
        self._worth = worth_of(prices)
        self._since_ms = since_ms
        self._until_ms = until_ms
        self._saved: dict[str, list[int]] = {}
        self._own: dict[tuple[str, str], list[int]] = {}

    @property
    def exact(self) -> tuple[Way, ...]:
        """In the order of ``TITLES``."""
        return tuple(one for one in self._ways() if one.name in EXACT)

    @property
    def modelled(self) -> tuple[Way, ...]:
        """In the order of ``TITLES``."""
        return tuple(one for one in self._ways() if one.name not in EXACT)

    @property
    def own_cost(self) -> tuple[Way, ...]:
        """What saving cost, by lever and act, the dearest first."""
        found = (
            Way(name=f"{lever}/{act}", title=_own_title(lever, act), calls=calls, amount=amount)
            for (lever, act), (calls, amount) in self._own.items()
        )
        return tuple(sorted(found, key=lambda one: (-one.amount, one.name)))

    def entry(self, entry: LedgerEntry) -> None:
        """Counts one entry."""
        if not self._since_ms <= entry.received_at_ms < self._until_ms:
            return
        self._count(entry)
        if entry.kind != "charge" or entry.charge.total is None:
            return
        if is_lever(entry):
            act = next((one.action for one in entry.decisions if one.reason == "lever_cost"), "")
            lever = entry.charge.reason.removeprefix(LEVER)
            _add(self._own.setdefault((lever, act), [0, 0]), entry.charge.total)
        elif entry.charge.reason == CACHE_HIT:
            self._hit(entry)
        else:
            self._call(entry, entry.charge.total)

    def _count(self, entry: LedgerEntry) -> None:
        whole = self.whole
        whole.entries += 1
        whole.spend += entry.charge.total or 0
        whole.unpriced += (entry.charge.total is None) - (entry.charge.reason == "was_unpriced")
        whole.estimated += entry.usage.source != "reported"
        whole.untagged += not (entry.scope.team or entry.scope.feature)
        whole.capped += any(one.stage == "levers" and one.action == "cap_output" for one in entry.decisions)
        if entry.policy_ref:
            whole.policies.add(entry.policy_ref)
        if entry.charge.price_ref:
            whole.price_books.add(entry.charge.price_ref)

    def _hit(self, entry: LedgerEntry) -> None:
        if entry.baseline is None:
            self.whole.no_baseline += 1
        elif any(one.reason == SIMILAR_HIT for one in entry.decisions):
            self._save("similar_hits", entry.baseline)
        else:
            self._save("exact_hits" if entry.fidelity == "exact" else "hits_by_model", entry.baseline)

    def _call(self, entry: LedgerEntry, total: int) -> None:
        marked = any(one.stage == "levers" and one.action == MARKS for one in entry.decisions)
        if entry.baseline is None:
            self.whole.no_baseline += 1
        elif entry.baseline != total:
            routed = any(one.stage == "route" for one in entry.decisions)
            self._save("marks" if marked else "routes" if routed else "switched", entry.baseline - total)
        elif not marked:
            self._discounts(entry, total)
        tokens = removed_tokens(entry)
        if tokens:
            worth = self._worth(entry, tokens)
            if worth is None:
                self.whole.unvalued += 1
            else:
                self._save("shorter", worth)

    def _discounts(self, entry: LedgerEntry, total: int) -> None:
        """List price less paid price on the same tokens."""
        usage = entry.usage
        cached = any(is_cache_read(unit) or is_cache_write(unit) for part in usage.parts for unit, _ in part.lines)
        tiered = usage.service_tier in DISCOUNTED
        if usage.stated_pusd is not None or not (cached or tiered):
            return
        if rated(self._prices, usage, entry) != total:
            self.whole.unvalued += 1  # another book than it was booked by: the difference would not be the discount
            return
        if cached:
            self._against(entry, "provider_cache", unoptimised(usage, marked=True, elsewhere=False), total)
        if tiered:
            self._against(entry, "tiers", msgspec.structs.replace(usage, service_tier=""), total)

    def _against(self, entry: LedgerEntry, name: str, usage: Usage, total: int) -> None:
        listed = rated(self._prices, usage, entry)
        if listed is None:
            self.whole.unvalued += 1
        else:
            self._save(name, listed - total)

    def _save(self, name: str, amount: int) -> None:
        _add(self._saved.setdefault(name, [0, 0]), amount)

    def _ways(self) -> tuple[Way, ...]:
        return tuple(
            Way(name=name, title=title, calls=self._saved[name][0], amount=self._saved[name][1])
            for name, title in TITLES.items()
            if name in self._saved
        )


_ACTS: Final = {
    "embed": "embeddings",
    "shadow": "shadow calls",
    "judge": "judges",
    "ask": "calls that only decide or verify",
}


def _own_title(lever: str, act: str) -> str:
    return f"{lever}: {_ACTS.get(act, act)}"


def _add(held: list[int], amount: int) -> None:
    held[0] += 1
    held[1] += amount
