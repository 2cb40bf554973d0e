"""An experiment from the words of whoever starts it; everything wrong is said at once. And how long it may take."""

import math
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec

from farthing.core.errors import ConfigError
from farthing.core.experiment import PARTS, Experiment, Part, problems
from farthing.core.policy import Policy
from farthing.core.savings import CONTROL_MIN
from farthing.core.types import LedgerQuery, Totals
from farthing.engine.trials import LEAD_MS
from farthing.insight.moments import parse_moment

LOOK_BACK_DAYS: Final = 7
DAY_MS: Final = 86_400_000
_SECTIONS: Final[dict[Part, str]] = {"caches": "cache", "routes": "routes", "levers": "levers"}


class Words(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of an experiment; empty: as usual."""

    name: str
    off: str = ""
    holdout: str = ""
    match: tuple[tuple[str, str], ...] = ()
    until: str = ""
    switchback: str = ""
    washout: str = ""
    margin: str = ""
    why: str = ""


def design(words: Words, policy: Policy, *, now_ms: int, salt: str, by: str) -> Experiment:
    """The experiment that begins in a moment. Raises :class:`ConfigError` with every problem."""
    wrong: list[str] = []
    parts = _parts(words.off, policy, wrong)
    block = _span(words.switchback, "switchback", wrong)
    fade = _span(words.washout, "washout", wrong) if words.washout else block // 10
    made = Experiment(
        name=words.name,
        kind="switchback" if words.switchback else "holdout",
        off=parts,
        share_bp=_hundredths(words.holdout or ("50" if words.switchback else "5"), "holdout", wrong, 500),
        salt=f"experiment:{words.name}:{salt}",
        match=tuple(sorted(words.match)),
        starts_ms=now_ms + LEAD_MS,
        ends_ms=_end(words.until, now_ms, wrong),
        period_ms=block,
        washout_ms=fade if words.switchback else 0,
        margin_bp=_hundredths(words.margin or "2", "margin", wrong, 200),
        by=by,
        why=words.why[:500],
    )
    wrong += [one for one in problems(made) if parts or not one.startswith("off:")]
    if words.washout and not words.switchback:
        wrong.append("washout: only a switchback has one")
    if wrong:
        raise ConfigError(wrong, source="the experiment")
    return made


def traffic(experiment: Experiment, *, now_ms: int) -> LedgerQuery:
    """The question that tells how many conversations of late would have taken part."""
    since_ms = now_ms - LOOK_BACK_DAYS * DAY_MS
    return LedgerQuery(group_by=("session", "user"), since_ms=since_ms, where=experiment.match)


def outlook(experiment: Experiment, rows: Iterable[Totals]) -> str:
    """How long fifty control conversations take, by the traffic of late."""
    if experiment.kind == "switchback":
        days = -(-CONTROL_MIN * experiment.group * experiment.period_ms // DAY_MS)
        return f"{CONTROL_MIN} control blocks take about {_days(days)}."
    sessions: set[str] = set()
    users: set[str] = set()
    alone = 0
    for row in rows:
        session, user = row.group
        if session:
            sessions.add(session)
        elif user:
            users.add(user)
        else:
            alone += row.requests
    count = len(sessions) + len(users) + alone
    if not count:
        return f"In the last {LOOK_BACK_DAYS} days nobody would have taken part: how long it takes is not known."
    days = math.ceil(CONTROL_MIN * LOOK_BACK_DAYS / (count * experiment.control_share))
    return (
        f"In the last {LOOK_BACK_DAYS} days {count:,} conversations would have taken part ({len(sessions):,} by "
        f"session, {len(users):,} by user, {alone:,} single calls): {CONTROL_MIN} in control take about "
        f"{_days(days)}."
    )


def _days(count: int) -> str:
    return "a day" if count <= 1 else f"{count:,} days"


def _parts(said: str, policy: Policy, wrong: list[str]) -> tuple[Part, ...]:
    """What is tested: as it is said, else all that the policy has."""
    has: dict[Part, bool] = {
        "caches": bool(policy.cache),
        "routes": bool(policy.routes),
        "levers": bool(policy.levers),
    }
    if not said.strip():
        found = tuple(part for part in PARTS if has[part])
        if not found:
            wrong.append(
                "off: the policy has no [[cache]], no [[routes]] and no [[levers]]: there is nothing to test"
            )
        return found
    words = [word.strip() for word in said.split(",") if word.strip()]
    wrong += [f'off: "{word[:40]}" is none of {", ".join(PARTS)}' for word in words if word not in PARTS]
    found = tuple(part for part in PARTS if part in words)
    wrong += [
        f"off: the policy has no [[{_SECTIONS[part]}]], so both arms would be served alike"
        for part in found
        if not has[part]
    ]
    if len(words) != len(set(words)):
        wrong.append("off: names a part twice")
    return found


def _hundredths(said: str, name: str, wrong: list[str], otherwise: int) -> int:
    """Hundredths of a percent of ``20``, ``2.5`` or ``20%``."""
    try:
        value = Decimal(said.strip().removesuffix("%").strip())
        if value.is_finite() and abs(value) < 10**6:
            return int(value * 100)
    except InvalidOperation:
        pass
    wrong.append(f'{name}: "{said[:40]}" is no number of percent; write for example 20 or 2.5')
    return otherwise


def _span(said: str, name: str, wrong: list[str]) -> int:
    if not said.strip():
        return 0
    try:
        back = -parse_moment(said, now_ms=0)
    except ValueError:
        back = -1
    if back < 0 or not said.strip()[-1:].isalpha():
        wrong.append(f'{name}: "{said[:40]}" is no span; write for example "30m", "2h", "1d"')
        return 0
    return back


def _end(said: str, now_ms: int, wrong: list[str]) -> int | None:
    """A span counts from now on; whatever else is an instant."""
    if not said.strip():
        return None
    try:
        at = parse_moment(said, now_ms=now_ms)
    except ValueError as error:
        wrong.append(f"until: {error}")
        return None
    if said.strip()[-1:] in "mhdw" and said.strip()[:-1].strip().isdigit():
        at = now_ms + (now_ms - at)
    if at <= now_ms:
        wrong.append(f'until: "{said[:40]}" is past')
        return None
    return at
