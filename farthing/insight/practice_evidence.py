"""What the last 30 days of the ledger, the settings and the records show of a practice."""

from typing import Final, Protocol

from farthing.config import Settings
from farthing.core.policy import Limits
from farthing.core.types import LedgerQuery, Totals
from farthing.insight.reports.maturity import Evidence
from farthing.ports.incidents import IncidentMarks
from farthing.ports.outcomes import Outcomes

DAY_MS: Final = 86_400_000
DAYS: Final = 30
"""Whole days and today: closed ones are asked of a ledger once and remembered."""


class Practice(IncidentMarks, Outcomes, Protocol):
    """Marks on incidents, and outcomes."""


class Asked(Protocol):
    """The part of a ledger that answers questions."""

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]: ...


def gather(ledger: Asked, practice: Practice, settings: Settings, *, now_ms: int) -> Evidence:
    """The evidence that maturity is computed from."""
    since = now_ms - now_ms % DAY_MS - (DAYS - 1) * DAY_MS
    policy = settings.policy
    return Evidence(
        whole=_where(ledger, since, now_ms),
        no_team=_where(ledger, since, now_ms, ("team", "")).amount,
        no_feature=_where(ledger, since, now_ms, ("feature", "")).amount,
        batch=_where(ledger, since, now_ms, ("service_tier", "batch")).amount,
        cache_hits=_where(ledger, since, now_ms, ("reason", "cache_hit")).requests,
        outcomes=len(practice.all(since_ms=since)),
        budgets=len(policy.budgets),
        hard_budgets=sum(one.hard for one in policy.budgets),
        sinks=len(settings.alerts.sinks),
        routes=len(policy.routes),
        gated_routes=sum(bool(one.table) or one.rollout is not None for one in policy.routes),
        caches=len(policy.cache),
        own_cap=policy.limits.output_tokens_max != Limits().output_tokens_max,
        acknowledged=len(practice.marks()),
        allocation=bool(settings.allocation.rules or settings.allocation.pools),
    )


def _where(ledger: Asked, since: int, until: int, *where: tuple[str, str]) -> Totals:
    (row,) = ledger.totals(LedgerQuery(since_ms=since, until_ms=until, where=where))
    return row
