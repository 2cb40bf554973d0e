"""Budgets as they are configured."""

import datetime
from collections.abc import Iterable
from typing import Final

from farthing.core.budget_keys import splits
from farthing.core.money import format_usd
from farthing.core.policy import Budget, Grant
from farthing.insight.moments import shown
from farthing.insight.table import Column, Row, Table

COLUMNS: Final = (
    Column(name="budget", title="budget"),
    Column(name="per", title="per"),
    Column(name="limits", title="limits"),
    Column(name="each", title="each"),
    Column(name="match", title="match"),
    Column(name="begins", title="begins"),
    Column(name="more", title="credits and raises"),
    Column(name="thresholds", title="thresholds"),
    Column(name="mode", title="mode"),
)


def build(budgets: Iterable[Budget], now_ms: int) -> Table:
    """One row a budget, in the policy's order."""
    return Table(title="Budgets", columns=COLUMNS, rows=tuple(_row(one, now_ms) for one in budgets))


def amount(unit: str, value: int) -> str:
    """An amount in its unit, in words."""
    if unit != "usd":
        return f"{value:,} {unit.replace('_', ' ')}"
    whole, _, rest = format_usd(value).partition(".")
    return f"${whole}.{rest.rstrip('0'):0<2}"


def per(budget: Budget) -> str:
    """The period in words."""
    if budget.length_ms is None:
        return budget.per
    return f"rolling {datetime.timedelta(milliseconds=budget.length_ms)}"


def _row(one: Budget, now_ms: int) -> Row:
    return (
        one.name,
        per(one),
        ", ".join(amount(unit, limit) for unit, limit in one.limits) or None,
        ", ".join(splits(one)) or None,
        ", ".join(f"{name}={value or '(none)'}" for name, value in one.match) or None,
        _begins(one),
        "; ".join(_grant(grant, now_ms) for grant in (*one.credits, *one.raises)) or None,
        ", ".join(f"{step.percent}% {step.action}" for step in one.thresholds) or None,
        "enforce" if one.hard else "shadow",
    )


def _begins(one: Budget) -> str | None:
    said = []
    if one.year_month != 1:
        said.append(f"month {one.year_month}")
    if one.month_day != 1:
        said.append(f"day {one.month_day}")
    if one.week_starts != "monday":
        said.append(one.week_starts)
    if one.day_hour:
        said.append(f"{one.day_hour:02}:00")
    if one.timezone != "UTC":
        said.append(one.timezone)
    return ", ".join(said) or None


def _grant(grant: Grant, now_ms: int) -> str:
    text = f"+{amount(grant.unit, grant.amount)}"
    if grant.from_ms is not None:
        text += f" from {shown(grant.from_ms)}"
    if grant.until_ms is not None:
        text += f" until {shown(grant.until_ms)}" + (" (over)" if grant.until_ms <= now_ms else "")
    return text
