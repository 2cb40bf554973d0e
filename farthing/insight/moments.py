"""Instants for people: reading "30d" and "2026-11-21", showing UTC."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_SPAN = re.compile(r"(\d{1,6})\s*(m|h|d|w)")
_SPAN_MS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)

EXAMPLES: Final = '"30d", "24h", "today", "2026-11", "2026-11-21", "2026-11-21T14:00Z"'


def parse_moment(text: str, *, now_ms: int) -> int:
    """UTC milliseconds of a span back from now, a day, a month or an ISO time (UTC when no zone is written).

    Raises ``ValueError`` that says what is allowed.
    """
    word = text.strip()
    span = _SPAN.fullmatch(word)
    if span:
        return now_ms - int(span[1]) * _SPAN_MS[span[2]]
    today = now_ms - now_ms % 86_400_000
    fixed = {"now": now_ms, "today": today, "yesterday": today - 86_400_000, "all": 0}
    if word in fixed:
        return fixed[word]
    try:
        moment = datetime.fromisoformat(f"{word}-01" if re.fullmatch(r"\d{4}-\d\d", word) else word)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return (aware - _EPOCH) // _MILLISECOND
    except (ValueError, OverflowError) as error:
        raise ValueError(f'"{text[:40]}" is no time; write for example {EXAMPLES}') from error


def shown(at_ms: int) -> str:
    """``2026-11-21 14:00:05`` in UTC, with milliseconds where they are not zero."""
    try:
        moment = _EPOCH + timedelta(milliseconds=at_ms)
    except OverflowError:
        return f"{at_ms} ms"
    return moment.replace(tzinfo=None).isoformat(" ", "milliseconds" if at_ms % 1000 else "seconds")


def iso(at_ms: int) -> str:
    """``2026-11-21T14:00:05.000Z``."""
    try:
        moment = _EPOCH + timedelta(milliseconds=at_ms)
    except OverflowError:
        return f"{at_ms}"
    return moment.replace(tzinfo=None).isoformat("T", "milliseconds") + "Z"
