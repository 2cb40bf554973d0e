"""What is learned, for each family of partitions: one route, one answering model, one embedder, all tenants.

Only features and booleans are pooled, never texts: a new tenant is as safe from its first request as the others. A
new family begins with another's weights as its prior and serves nothing until it has comparisons of its own.
"""

import logging
from typing import Final

import msgspec

from farthing.core.money import Nusd
from farthing.core.policy_cache import SemanticRules
from farthing.core.semantic import Candidate
from farthing.core.semantic_risk import Learned, RiskControl, Verdict
from farthing.ports.cache import Ask
from farthing.ports.semantic import SemanticStore

_LOG = logging.getLogger("farthing.semantic")
_KEEP_EVERY: Final = 50
_KEEP_MS: Final = 30_000
_DAY_MS: Final = 86_400_000
_THRESHOLD_RISK: Final = 0.5
"""What a fixed threshold stands for in the learned part, which then only measures."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A family as the store keeps it."""

    learned: Learned
    route: str = ""
    delta: float | None = None
    threshold: float | None = None
    judge_calls: int = 0
    judge_cost: int = 0
    overhead: int = 0
    """Nano-USD spent on the lever, ever."""
    day: int = 0
    day_overhead: int = 0


_decode = msgspec.msgpack.Decoder(Kept).decode
_encode = msgspec.msgpack.Encoder().encode


def kept(state: bytes) -> Kept:
    """A family's state as bytes of the store. Raises ``msgspec.DecodeError`` for one of another version."""
    return _decode(state)


class Family:
    """Decides and learns for its partitions."""

    def __init__(
        self, name: str, rules: SemanticRules, *, route: str, before: Kept | None, prior: Learned | None
    ) -> None:
        self.name = name
        self._route = route
        self._threshold = rules.threshold
        delta = rules.delta or _THRESHOLD_RISK
        share = rules.shadow_share
        if before is not None:
            self._control = RiskControl(delta, shadow_share=share, learned=before.learned)
            if before.delta != rules.delta:
                self._control.refit()
        elif prior is not None:
            self._control = RiskControl.cold(delta, shadow_share=share, prior=prior)
        else:
            self._control = RiskControl(delta, shadow_share=share)
        self._delta = rules.delta
        self._judge_calls = before.judge_calls if before else 0
        self._judge_cost = before.judge_cost if before else 0
        self._overhead = before.overhead if before else 0
        self._day = before.day if before else 0
        self._day_overhead = before.day_overhead if before else 0
        self.changes = 0
        self.kept_ms = 0

    @property
    def control(self) -> RiskControl:
        return self._control

    def verdict(self, chosen: Candidate, rules: SemanticRules) -> Verdict:
        """By the learned risk, or by the fixed threshold if the route insists on one."""
        found = self._control.verdict(chosen.features)
        if rules.threshold is None:
            return found
        return msgspec.structs.replace(
            found,
            serve=chosen.similarity >= rules.threshold,
            limit=rules.threshold,
            shadow_share=rules.shadow_share,
        )

    def served(self, chosen: Candidate) -> None:
        self._control.served(chosen.features)
        self.changes += 1

    def missed(self, chosen: Candidate, wrong: bool | None) -> None:
        self._control.missed(chosen.features, wrong)
        self.changes += 1

    def shadowed(self, chosen: Candidate, *, wrong: bool, share: float) -> None:
        self._control.shadowed(chosen.features, wrong, share=share)
        self.changes += 1

    def judged(self, calls: int, cost: Nusd, *, now_ms: int) -> None:
        """Judge calls that were made."""
        self._judge_calls += calls
        self._judge_cost += cost
        self.spend(cost, now_ms=now_ms)

    def spend(self, amount: Nusd, *, now_ms: int) -> None:
        """Money that the lever itself cost."""
        self._turn_day(now_ms)
        self._overhead += amount
        self._day_overhead += amount

    def affords(self, rules: SemanticRules, *, now_ms: int) -> bool:
        """Today's overhead leaves room for another shadow or judge call."""
        self._turn_day(now_ms)
        return rules.overhead_usd_per_day is None or self._day_overhead < rules.overhead_usd_per_day

    def state(self) -> bytes:
        return _encode(
            Kept(
                learned=self._control.learned(),
                route=self._route,
                delta=self._delta,
                threshold=self._threshold,
                judge_calls=self._judge_calls,
                judge_cost=self._judge_cost,
                overhead=self._overhead,
                day=self._day,
                day_overhead=self._day_overhead,
            )
        )

    def _turn_day(self, now_ms: int) -> None:
        day = now_ms // _DAY_MS
        if day != self._day:
            self._day, self._day_overhead = day, 0


class Families:
    """All of one process, read from and kept in the store."""

    def __init__(self, store: SemanticStore) -> None:
        self._store = store
        self._families: dict[str, Family] = {}

    async def get(self, ask: Ask, embedder: str, *, now_ms: int) -> Family:
        """The family of a request. Raises ``StoreUnavailable``."""
        name = f"{ask.route.name}|{ask.target.provider}/{ask.target.model}|{embedder}"
        found = self._families.get(name)
        if found is None:
            state = await self._store.state(name)
            found = self._families.get(name)
            if found is None:
                found = self._made(name, ask, state)
                found.kept_ms = now_ms
                self._families[name] = found
        return found

    async def keep_if_due(self, family: Family, *, now_ms: int) -> None:
        """Writes what was learned, every so often. Raises ``StoreUnavailable``."""
        if family.changes >= _KEEP_EVERY or (family.changes and now_ms - family.kept_ms >= _KEEP_MS):
            await self._keep(family, now_ms)

    async def keep_all(self, *, now_ms: int) -> None:
        for family in self._families.values():
            if family.changes:
                await self._keep(family, now_ms)

    def gauges(self) -> dict[str, float]:
        """Sums over families; each family's own figures are the command line's."""
        tallies = [family.control.tally for family in self._families.values()]
        return {
            "semantic_hits": float(sum(one.hits for one in tallies)),
            "semantic_shadows": float(sum(one.shadows for one in tallies)),
            "semantic_shadows_wrong": float(sum(one.wrong for one in tallies)),
            "semantic_comparisons": float(sum(one.compared + one.shadows for one in tallies)),
            "semantic_drift_alarms": float(sum(one.control.alarms for one in self._families.values())),
            "semantic_families_open": float(sum(one.control.limit > 0 for one in self._families.values())),
        }

    async def _keep(self, family: Family, now_ms: int) -> None:
        family.changes, family.kept_ms = 0, now_ms
        await self._store.keep(family.name, family.state(), now_ms=now_ms)

    def _made(self, name: str, ask: Ask, state: bytes | None) -> Family:
        before: Kept | None = None
        if state is not None:
            try:
                before = _decode(state)
            except msgspec.DecodeError:
                _LOG.warning("what was learned for %s is of another version and is not used", name)
        elder = max(self._families.values(), key=lambda one: one.control.tally.compared, default=None)
        prior = elder.control.learned() if elder is not None else None
        return Family(name, ask.route.semantic, route=ask.route.name, before=before, prior=prior)
