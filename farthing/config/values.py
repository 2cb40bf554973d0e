"""Readers of single values: each takes what TOML gave and returns what a record wants, or raises ``Wrong``.

A ``Wrong`` says what is allowed; the parser adds where it was found. Nothing here knows names of settings.
"""

import difflib
import re
import zoneinfo
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

from farthing.core.money import parse_usd, price_per_million

Reader = Callable[[object], object]

INT64_MAX: Final = 2**63 - 1

_DURATION = re.compile(r"(\d{1,12})\s*(ms|s|m|h|d)")
_UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_HOURS = re.compile(r"(\d{2}):(\d{2})\s*-\s*(\d{2}):(\d{2})")
_DOLLARS = re.compile(r"\d{1,9}(\.\d{1,12})?")
_SECRET = re.compile(
    r"(?:^|\s|=)(?:(?:sk|fk)[-_][A-Za-z0-9_-]{12,}|(?:gsk|xai|pplx|hf|nvapi)[-_][A-Za-z0-9_]{20,})"
    r"|^Bearer\s+\S{8,}|\bAKIA[0-9A-Z]{16}\b|\bAIza[0-9A-Za-z_-]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)


class Wrong(ValueError):
    """A value that a setting cannot take; the message says what it can."""


def shown(value: object) -> str:
    """The value as the file's author would recognise it, never longer than a line, never a secret."""
    if isinstance(value, str):
        text = "(a secret)" if looks_secret(value) else f'"{value}"'
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, dict):
        text = "a table"
    elif isinstance(value, list):
        text = "a list"
    else:
        text = str(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return text if len(text) <= 60 else f"{text[:56]}…"


def looks_secret(value: str) -> bool:
    """True for text that has the shape of an API key, a bearer header or a private key."""
    return _SECRET.search(value) is not None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean "x"?)`` for the closest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f' (did you mean "{close[0]}"?)' if close else ""


def text(value: object) -> object:
    """Any non-empty text."""
    if not isinstance(value, str):
        raise Wrong(f"is {shown(value)}; text in quotes is expected")
    if not value.strip():
        raise Wrong("is empty; write some text or leave the setting out")
    return value


def flag(value: object) -> object:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        raise Wrong(f"is {shown(value)}; true or false is expected (without quotes)")
    return value


def whole(low: int, high: int = INT64_MAX) -> Reader:
    """A whole number within bounds, both included."""
    bound = f"{low:,} or more" if high == INT64_MAX else f"{low:,} to {high:,}"

    def read(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Wrong(f"is {shown(value)}; a whole number is expected, {bound}")
        if not low <= value <= high:
            raise Wrong(f"is {shown(value)}; allowed is {bound}")
        return value

    return read


def choice(*allowed: str) -> Reader:
    """One of a few words."""
    listed = ", ".join(f'"{word}"' for word in allowed)

    def read(value: object) -> object:
        if isinstance(value, str) and value in allowed:
            return value
        guess = did_you_mean(value, allowed) if isinstance(value, str) else ""
        raise Wrong(f"is {shown(value)}; allowed: {listed}{guess}")

    return read


def matching(pattern: str, what: str) -> Reader:
    """Text that fully matches a regular expression; ``what`` describes it to people."""
    compiled = re.compile(pattern)

    def read(value: object) -> object:
        if not isinstance(value, str) or compiled.fullmatch(value) is None:
            raise Wrong(f"is {shown(value)}; {what} is expected")
        return value

    return read


def duration_ms(value: object) -> object:
    """``"250ms"``, ``"30s"``, ``"10m"``, ``"2h"``, ``"1d"`` to milliseconds, at least one."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise Wrong(f'is {shown(value)}; a duration with its unit is expected, in quotes: "250ms", "30s", "10m"')
    milliseconds = int(found[1]) * _UNIT_MS[found[2]]
    if milliseconds < 1:
        raise Wrong("is zero; at least 1ms is expected")
    return milliseconds


def hours(value: object) -> object:
    """``"22:00-07:00"`` to (1320, 420): minutes after midnight, over midnight or not."""
    found = _HOURS.fullmatch(value) if isinstance(value, str) else None
    minutes = [int(found[one]) * 60 + int(found[one + 1]) for one in (1, 3)] if found else []
    if found is None or any(int(found[one]) > 23 or int(found[one + 1]) > 59 for one in (1, 3)):
        raise Wrong(f'is {shown(value)}; a part of the day is expected, such as "22:00-07:00"')
    if minutes[0] == minutes[1]:
        raise Wrong(f"is {shown(value)}; the hours begin when they end")
    return tuple(minutes)


def _dollar_text(value: object) -> str:
    if isinstance(value, float):
        raise Wrong(f'is {value!r}, a float, and floats are inexact; write "{value!r}" in quotes')
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Wrong(f'is {shown(value)}; dollars are expected, as text ("12.50") or as a whole number')
    written = str(value) if not isinstance(value, int) or abs(value) < 10**30 else "too many"
    if _DOLLARS.fullmatch(written) is None:
        raise Wrong(
            f'is {shown(value)}; dollars are digits with a decimal point, such as "12.50", '
            "not negative, below 1,000,000,000"
        )
    return written


def usd(value: object) -> object:
    """Dollars as text or whole number to nano-USD, exactly."""
    written = _dollar_text(value)
    try:
        return int(parse_usd(written))
    except ValueError as error:
        raise Wrong(f"is {shown(value)}; at most nine decimals (one nano-dollar) are kept") from error


def rate(value: object) -> object:
    """Dollars per million tokens, kept as the text that was written."""
    written = _dollar_text(value)
    try:
        price_per_million(written)
    except ValueError as error:
        raise Wrong(f"is {shown(value)}; at most six decimals of a dollar per million are kept") from error
    return written


def url(value: object) -> object:
    """An http(s) address without credentials, query or trailing slash."""
    try:
        parts = urlsplit(str(text(value)))
        bad_port = parts.port == 0
    except ValueError as error:
        raise Wrong(f"is {shown(value)}; not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or bad_port or " " in str(value):
        raise Wrong(f'is {shown(value)}; an address such as "https://api.example.com/v1" is expected')
    if parts.username or parts.password:
        raise Wrong("holds a user name or password; name the key with api_key_env instead")
    if parts.query or parts.fragment:
        raise Wrong(f"is {shown(value)}; an address without ? and # is expected")
    return str(value).rstrip("/")


def timezone(value: object) -> object:
    """An IANA time zone."""
    name = str(text(value))
    try:
        zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        guess = did_you_mean(name, zoneinfo.available_timezones())
        raise Wrong(f'is {shown(value)}; an IANA time zone such as "Europe/Berlin" is expected{guess}') from error
    return name


def regex(value: object) -> object:
    """A regular expression that compiles."""
    pattern = str(text(value))
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise Wrong(f"is {shown(value)}; not a regular expression: {error}") from error
    return pattern


def listed(item: Reader, *, low: int = 0) -> Reader:
    """A list of ``item``, without repetitions."""

    def read(value: object) -> object:
        if not isinstance(value, list):
            raise Wrong(f'is {shown(value)}; a list is expected: ["…", "…"]')
        if len(value) < low:
            raise Wrong(f"has {len(value)} items; at least {low} is expected")
        items = []
        for place, one in enumerate(value):
            try:
                items.append(item(one))
            except Wrong as wrong:
                raise Wrong(f"item {place} {wrong}") from wrong
        if len(set(items)) != len(items):
            raise Wrong("says the same thing twice")
        return tuple(items)

    return read


def pairs(name: Reader, item: Reader) -> Reader:
    """A table ``{name = item}`` as pairs sorted by name."""

    def read(value: object) -> object:
        if not isinstance(value, dict):
            raise Wrong(f'is {shown(value)}; a table is expected: {{name = "…"}}')
        result = []
        for key, one in value.items():
            try:
                result.append((str(name(key)), item(one)))
            except Wrong as wrong:
                raise Wrong(f"entry {shown(key)} {wrong}") from wrong
        return tuple(sorted(result, key=lambda pair: pair[0]))

    return read
