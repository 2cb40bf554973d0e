"""Values that only budgets have: dated grants, thresholds, and where their dates are read."""

import datetime
from collections.abc import Mapping
from typing import Final, get_args

import msgspec

from farthing.config import values
from farthing.config.values import Reader, Wrong, did_you_mean, shown
from farthing.core.budget_check import threshold_problems
from farthing.core.budget_windows import zone_of
from farthing.core.policy import Threshold
from farthing.core.types import LimitUnit

Raw = dict[str, object]

_ACTIONS: Final = ("notify", "degrade", "cap", "queue", "throttle", "block")
_UNITS: Final = tuple(unit for unit in get_args(LimitUnit) if unit != "turns_without_human")


def moment(value: object) -> object:
    """A date or a date with time, as text or as TOML's own; without an offset it is local to the budget's zone."""
    if isinstance(value, datetime.datetime):
        return value
    if isinstance(value, datetime.date):
        return datetime.datetime.combine(value, datetime.time())
    if isinstance(value, str):
        try:
            return datetime.datetime.fromisoformat(value)
        except ValueError:
            pass
    raise Wrong(f"is {shown(value)}; a date such as 2026-12-31 or 2026-12-31T18:00:00Z is expected")


def _table(fields: Mapping[str, Reader], value: object) -> Raw:
    if not isinstance(value, dict):
        raise Wrong(f"is {shown(value)}; a table is expected")
    found: Raw = {}
    for key, one in value.items():
        if key not in fields:
            allowed = f"allowed: {', '.join(fields)}"
            raise Wrong(f"has {shown(key)}, which is unknown{did_you_mean(key, fields)}; {allowed}")
        try:
            found[key] = fields[key](one)
        except Wrong as wrong:
            raise Wrong(f"{key} {wrong}") from wrong
    return found


_GRANT: Final[Mapping[str, Reader]] = {
    "usd": values.usd,
    **{unit: values.whole(1) for unit in _UNITS if unit != "usd"},
    "from": moment,
    "until": moment,
}


def grant(value: object) -> Raw:
    """``{usd = "100", from = 2026-01-01, until = 2026-12-31}``: one amount, two optional dates."""
    found = _table(_GRANT, value)
    units = [unit for unit in _UNITS if unit in found]
    if len(units) != 1:
        raise Wrong(f"gives {len(units)} amounts; exactly one of {', '.join(_UNITS)} is expected")
    return {
        "unit": units[0],
        "amount": found[units[0]],
        "from_ms": found.get("from"),
        "until_ms": found.get("until"),
    }


_THRESHOLD: Final[Mapping[str, Reader]] = {
    "at": values.whole(1, 1_000),
    "do": values.choice(*_ACTIONS),
    "to": values.text,
    "per_minute": values.whole(1, 1_000_000),
}


def threshold(value: object) -> Raw:
    """A percentage that notifies, or ``{at = 90, do = "degrade", to = "gpt-4o-mini"}``."""
    if not isinstance(value, dict):
        return {"percent": _THRESHOLD["at"](value)}
    found = _table(_THRESHOLD, value)
    if "at" not in found:
        raise Wrong('has no "at", the percentage of the limit from which on it applies')
    renamed = {"at": "percent", "do": "action"}
    named = {renamed.get(key, key): one for key, one in found.items()}
    wrong = list(threshold_problems(msgspec.convert(named, Threshold)))
    if wrong:
        raise Wrong("; ".join(wrong))
    return named


def tables(item: Reader) -> Reader:
    """A list of what ``item`` reads."""

    def read(value: object) -> object:
        if not isinstance(value, list):
            raise Wrong(f"is {shown(value)}; a list is expected: […, …]")
        problems, found = [], []
        for place, one in enumerate(value):
            try:
                found.append(item(one))
            except Wrong as wrong:
                problems.append(f"item {place} {wrong}")
        if problems:
            raise Wrong("; ".join(problems))
        return found

    return read


def dated(budget: Raw) -> Raw:
    """A budget's values with the dates of its grants as instants. The time zone was checked before."""
    zone = zone_of(str(budget.get("timezone", "UTC")))
    found = dict(budget)
    for name in ("credits", "raises"):
        grants = budget.get(name)
        if isinstance(grants, list):
            found[name] = [{key: _instant(one, zone) for key, one in grant.items()} for grant in grants]
    return found


def _instant(value: object, zone: datetime.tzinfo) -> object:
    if not isinstance(value, datetime.datetime):
        return value
    at = value if value.tzinfo is not None else value.replace(tzinfo=zone)
    return int(at.timestamp() * 1000)
