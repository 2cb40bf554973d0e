"""What settings, records and the last 30 days show of governance: owners, and evidence for the NIST AI RMF."""

from collections.abc import Iterable
from typing import Final, Protocol

from farthing.config import Settings
from farthing.core.allocation import UNALLOCATED, AllocationRules, allocate, owner_of
from farthing.core.budget_keys import splits
from farthing.core.types import KeyRecord, LedgerQuery, Totals
from farthing.insight import incident_list, ownership
from farthing.insight.incident_list import DIMENSIONS, Incidents, Judged
from farthing.insight.reports.governance import Evidence, Owned
from farthing.ports.audit import AuditLog
from farthing.ports.incidents import IncidentMarks
from farthing.ports.outcomes import Outcomes

DAY_MS: Final = 86_400_000
DAYS: Final = 30
CHANGES_DAYS: Final = 90


class Records(IncidentMarks, Outcomes, AuditLog, Protocol):
    """Marks on incidents, outcomes and the audit log."""


class Asked(Protocol):
    """The part of a ledger that answers questions."""

    def totals(self, query: LedgerQuery) -> tuple[Totals, ...]: ...


def owners(ledger: Asked, keys: Iterable[KeyRecord], settings: Settings, *, now_ms: int) -> list[Owned]:
    """By the rules of allocation, which say too whose the budgets, keys and people of a team are."""
    rules = ownership.rules_of(settings.allocation)
    query = ownership.query((rules,), since_ms=_since(now_ms), until_ms=now_ms)
    rows = ledger.totals(query)
    cost = {owner.owner: owner.total for owner in allocate(rules, ownership.lines(rows, query.group_by))}
    live: dict[str, int] = {}
    for key in keys:
        if key.revoked_at_ms is None and (key.expires_at_ms is None or key.expires_at_ms > now_ms):
            owner = _owner(rules, key.scope.team)
            live[owner] = live.get(owner, 0) + 1
    budgets: dict[str, list[str]] = {}
    everybody = []
    for budget in settings.policy.budgets:
        team = dict(budget.match).get("team")
        if team is not None:
            budgets.setdefault(_owner(rules, team), []).append(budget.name)
        elif not budget.match or "team" in splits(budget):
            everybody.append(budget.name)
    people: dict[str, list[str]] = {}
    for user in settings.dashboard.users:
        if user.team:
            people.setdefault(_owner(rules, user.team), []).append(user.name)
    return [
        Owned(
            owner=name,
            cost=cost.get(name, 0),
            budgets=(*budgets.get(name, ()), *everybody),
            keys=live.get(name, 0),
            people=tuple(people.get(name, ())),
        )
        for name in dict.fromkeys((*cost, *live, *budgets, *people))
    ]


def _owner(rules: AllocationRules, team: str) -> str:
    """Whose a team is; a team that no rule knows stands for itself."""
    return owner_of(rules, {"team": team}) or team or UNALLOCATED


def gather(
    ledger: Asked, keys: Iterable[KeyRecord], records: Records, settings: Settings, *, now_ms: int
) -> Evidence:
    """The evidence of the four functions."""
    policy = settings.policy
    (whole,) = _totals(ledger, now_ms)
    live = [one for one in keys if one.revoked_at_ms is None]
    incidents = _incidents(ledger, records, now_ms)
    return Evidence(
        whole=whole,
        no_team=sum(row.amount for row in _totals(ledger, now_ms, "team") if not row.group[0]),
        models=len(_totals(ledger, now_ms, "model")),
        providers=len(_totals(ledger, now_ms, "provider")),
        features=sum(bool(row.group[0]) for row in _totals(ledger, now_ms, "feature")),
        budgets=len(policy.budgets),
        hard_budgets=sum(one.hard for one in policy.budgets),
        keys=len(live),
        keys_without_team=sum(not one.scope.team for one in live),
        people=len(settings.dashboard.users),
        changes=len(records.changes(limit=10_000, since_ms=now_ms - CHANGES_DAYS * DAY_MS)),
        outcomes=len(records.all(since_ms=_since(now_ms))),
        sinks=len(settings.alerts.sinks),
        incidents_waiting=len(incidents.waiting),
        incidents_taken=len(incidents.found) - len(incidents.waiting),
        keeps_text=policy.log.text != "none",
    )


def _incidents(ledger: Asked, records: Records, now_ms: int) -> Incidents:
    rows = {name: ledger.totals(incident_list.query(name, now_ms)) for name in DIMENSIONS}
    return incident_list.read(rows, Judged.of(records), now_ms=now_ms)


def _since(now_ms: int) -> int:
    return now_ms - now_ms % DAY_MS - (DAYS - 1) * DAY_MS


def _totals(ledger: Asked, now_ms: int, *by: str) -> tuple[Totals, ...]:
    return ledger.totals(LedgerQuery(group_by=by, since_ms=_since(now_ms)))
