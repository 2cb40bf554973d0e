"""The state of a page is its address: period, grouping, filters. Anything wrong in it is said, all at once."""

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote, urlencode

import msgspec

from farthing.config.values import did_you_mean
from farthing.core.dimensions import (
    ENTRY_DIMENSIONS,
    SCOPE_DIMENSIONS,
    SHORT_NAMES,
    TIME_DIMENSIONS,
    full_name,
    is_dimension,
)
from farthing.core.errors import BadRequest
from farthing.insight.moments import EXAMPLES, parse_moment

DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
LONG_HOURS: Final = 24
"""From so many on a period begins with a whole hour, of which sums are kept."""
GRAINS: Final = ("hour", "day", "week", "month")
PERIODS: Final = (("24h", "24 hours"), ("7d", "7 days"), ("30d", "30 days"), ("90d", "90 days"), ("all", "all"))
BY_MAX: Final = 4
WHERE_MAX: Final = 12
VALUE_MAX: Final = 256

Where = tuple[tuple[str, str], ...]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a page's address says."""

    path: str
    since: str = "30d"
    until: str = "now"
    by: tuple[str, ...] = ("feature",)
    where: Where = ()
    grain: str = "day"
    compare: bool = False
    table: str = ""
    since_ms: int = 0
    until_ms: int = 0
    rest: Mapping[str, str] = {}
    """What only one page understands."""

    def href(self, path: str = "", /, **changes: object) -> str:
        """This state's address with changes; ``where`` takes pairs, anything empty is left out."""
        state = msgspec.structs.replace(self, **{k: v for k, v in changes.items() if k in _OWN})
        more = {key: str(value) for key, value in changes.items() if key not in _OWN}
        return f"{path or self.path}{_query(state, more)}"

    def filtered(self, path: str, name: str, value: str) -> str:
        """The address of ``path`` in this period, with one more filter."""
        kept = tuple(pair for pair in self.where if pair[0] != name)
        return self.href(path, where=(*kept, (name, value)))


_OWN: Final = ("since", "until", "by", "where", "grain", "compare")
_DEFAULT: Final = State(path="")


def _query(state: State, more: Mapping[str, str]) -> str:
    pairs: list[tuple[str, str]] = []
    for name in ("since", "until", "grain"):
        if getattr(state, name) != getattr(_DEFAULT, name):
            pairs.append((name, getattr(state, name)))
    if state.by != _DEFAULT.by:
        pairs.append(("by", ",".join(state.by)))
    pairs += [("where", f"{name}={value}") for name, value in state.where]
    if state.compare:
        pairs.append(("compare", "1"))
    pairs += [(name, value) for name, value in more.items() if value]
    return f"?{urlencode(pairs, quote_via=quote)}" if pairs else ""


def read(path: str, pairs: Iterable[tuple[str, str]], *, now_ms: int) -> State:
    """The state of an address. Raises ``BadRequest`` that names everything wrong in it."""
    said: dict[str, str] = {}
    where: list[tuple[str, str]] = []
    problems: list[str] = []
    for name, value in pairs:
        if name == "where" and value:
            where.append(_filter(value, problems))
        elif name != "where":
            said[name] = value[:2_000]
    named = (full_name(part.strip()) for part in said.pop("by", "feature").split(","))
    by = tuple(dict.fromkeys(part for part in named if part))
    problems += [_unknown(name) for name in by if not is_dimension(name)]
    if len(by) > BY_MAX:
        problems.append(f"by: at most {BY_MAX} dimensions")
    if len(where) > WHERE_MAX:
        problems.append(f"where: at most {WHERE_MAX} filters")
    grain = said.pop("grain", "") or "day"
    if grain not in GRAINS:
        problems.append(f'grain: "{grain[:40]}" is none of {", ".join(GRAINS)}')
    since, until = said.pop("since", "") or "30d", said.pop("until", "") or "now"
    since_ms, until_ms = (
        _moment(name, text, now_ms, problems) for name, text in (("since", since), ("until", until))
    )
    if since[-1:] in "dw" and since[:-1].isdigit():
        since_ms -= since_ms % DAY_MS  # whole days: each is asked of the ledger once and remembered
    elif since[-1:] == "h" and since[:-1].isdigit() and int(since[:-1]) >= LONG_HOURS:
        since_ms -= since_ms % HOUR_MS
    if not problems and until_ms <= since_ms:
        problems.append("until: ends before it begins")
    if problems:
        raise BadRequest("; ".join(problems), hint="Change the address, or start again from the menu.")
    return State(
        path=path,
        since=since,
        until=until,
        by=by,
        where=tuple(where),
        grain=grain,
        compare=said.pop("compare", "") in ("1", "on", "true"),
        table=said.pop("table", ""),
        since_ms=since_ms,
        until_ms=until_ms,
        rest=said,
    )


def _filter(text: str, problems: list[str]) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    name = full_name(name)
    if not equals:
        problems.append(f'where: "{text[:40]}" is not name=value')
    elif not is_dimension(name):
        problems.append(_unknown(name))
    elif len(value) > VALUE_MAX:
        problems.append(f"where: the value of {name} is longer than {VALUE_MAX} characters")
    return name, value


def _moment(name: str, text: str, now_ms: int, problems: list[str]) -> int:
    try:
        return parse_moment(text, now_ms=now_ms)
    except ValueError:
        problems.append(f'{name}: "{text[:40]}" is no time; write for example {EXAMPLES}')
        return 0


def _unknown(name: str) -> str:
    known = (*SCOPE_DIMENSIONS, *ENTRY_DIMENSIONS, *TIME_DIMENSIONS, *SHORT_NAMES)
    meant = did_you_mean(name[:40], known)
    return f'"{name[:40]}" is no dimension{meant}; allowed: {", ".join(known)}, tag:<name>'
