"""Governance: who owns what of the cost, and the functions of the NIST AI RMF with what here is evidence for them."""

from collections.abc import Sequence
from typing import Final

import msgspec

from farthing.core.types import Totals
from farthing.insight.render import percent
from farthing.insight.table import Column, Table, share

OWNER_COLUMNS: Final = (
    Column(name="owner", title="owner"),
    Column(name="cost", title="cost", kind="usd"),
    Column(name="part", title="of the whole", kind="percent"),
    Column(name="budgets", title="budgets that bind it", unknown="none"),
    Column(name="keys", title="live keys", kind="int"),
    Column(name="people", title="people", unknown="nobody by name"),
)
NIST_COLUMNS: Final = (
    Column(name="function", title="function"),
    Column(name="asks", title="what it asks, for cost"),
    Column(name="evidence", title="evidence"),
    Column(name="open", title="open", unknown="nothing found"),
    Column(name="shown", title="shown by"),
)


class Owned(msgspec.Struct, frozen=True, kw_only=True):
    """One owner of cost."""

    owner: str
    cost: int
    """Nano-USD of the period."""
    budgets: tuple[str, ...] = ()
    keys: int = 0
    people: tuple[str, ...] = ()


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings, the records and the last 30 days show."""

    whole: Totals
    no_team: int
    """Nano-USD of entries that name no team."""
    models: int
    providers: int
    features: int
    budgets: int
    hard_budgets: int
    keys: int
    keys_without_team: int
    people: int
    changes: int
    """On the audit log in the last 90 days."""
    outcomes: int
    sinks: int
    incidents_waiting: int
    incidents_taken: int
    keeps_text: bool


def owners(found: Sequence[Owned], *, title: str) -> Table:
    """Most cost first; whoever has a budget or a key and no cost is listed too."""
    whole = sum(one.cost for one in found)
    ordered = sorted(found, key=lambda one: (-one.cost, one.owner))
    return Table(
        title=title,
        columns=OWNER_COLUMNS,
        rows=tuple(
            (
                one.owner or "(none)", one.cost, share(one.cost, whole), ", ".join(one.budgets) or None, one.keys,
                ", ".join(one.people) or None,
            )
            for one in ordered
        ),
        total=("together", whole, None, "", sum(one.keys for one in found), "") if found else None,
        notes=("A tool names owners; people decide who answers for AI spend, and who sees each number every week.",),
    )  # fmt: skip


def nist(found: Evidence) -> Table:
    """The four functions, each with its evidence and with what is missing."""
    whole = found.whole
    untagged = share(found.no_team, whole.amount)
    rows = (
        (
            "Govern", "Owners, roles and rules are set, known and kept under change control.",
            f"{found.budgets} budgets, {found.keys} live keys, {found.people} people with a role, {found.changes} "
            "changes on record in 90 days",
            _join(
                (found.people == 0, "nobody signs in: who looks and changes is not told apart"),
                (found.keys_without_team > 0, f"{found.keys_without_team} keys name no team"),
                (found.keys == 0, "no key exists"),
                (found.budgets == 0, "no budget is set"),
            ),
            "Allocation, Budgets, Admin; farthing audit",
        ),
        (
            "Map", "Uses, users and models are known; third parties are listed.",
            f"{found.features} features on {found.models} models of {found.providers} providers; "
            f"{_part(untagged)} of cost without a team",
            _join(
                (whole.entries == 0, "no call was booked in 30 days"),
                ((untagged or 0) > 1_000, "more than a tenth of cost names no team"),
                (whole.unpriced > 0, f"{whole.unpriced:,} entries have no price"),
            ),
            "Explore, Prices; farthing report --by feature,model,provider",
        ),
        (
            "Measure", "Cost, quality and reliability are measured, with their uncertainty.",
            f"{_part(share(whole.estimated_amount, whole.amount))} of cost rests on estimates; {whole.errors:,} "
            f"failed tries; {found.outcomes:,} outcomes in 30 days",
            _join((found.outcomes == 0, "what calls are good for is not reported")),
            "Unit economics, Maturity; farthing metrics, eval, reconcile",
        ),
        (
            "Manage", "Risks are acted on: limits, alerts, incidents, records.",
            f"{found.hard_budgets} hard budgets, {found.sinks} ways to people, {found.incidents_taken} incidents "
            f"taken care of; the ledger only grows; {'prompts are' if found.keeps_text else 'no prompt is'} kept",
            _join(
                (found.hard_budgets == 0, "no limit binds"),
                (found.sinks == 0, "nobody is told"),
                (found.incidents_waiting > 0, f"{found.incidents_waiting} anomalies wait for somebody"),
            ),
            "Budgets, Anomalies; farthing alert test",
        ),
    )  # fmt: skip
    return Table(
        title="NIST AI RMF",
        columns=NIST_COLUMNS,
        rows=rows,
        notes=(
            "Evidence of the last 30 days. Trade-offs of quality, privacy and reliability stand beside each lever.",
        ),
    )


def _join(*cases: tuple[bool, str]) -> str | None:
    return "; ".join(text for holds, text in cases if holds) or None


def _part(value: int | None) -> str:
    return "nothing" if value is None else f"{percent(value)} %"
