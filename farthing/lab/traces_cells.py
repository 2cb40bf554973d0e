"""Reading the cells of other tools' exports: tables and lists that may be text, counts that may be decimals, tags."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

Json = Mapping[str, object]
Flat = dict[str, object]


class BadRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row that was not understood, and why."""

    line: int
    reason: str
    content: str = ""


def first(*values: object) -> object:
    """The first value that is there."""
    return next((value for value in values if value not in (None, "")), None)


def either(record: Json, *names: str) -> object:
    """The first of these fields that is there: tools change the spelling of names between versions and formats."""
    return first(*(record.get(name) for name in names))


def text(value: object) -> str:
    """Text, or nothing."""
    return value if isinstance(value, str) else ""


def table(value: object) -> Json:
    """A table, or the text of one (CSV exports hold JSON in cells)."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError:
            return {}
    return value if isinstance(value, dict) else {}


def listed(value: object) -> Sequence[object]:
    """A list, or the text of one."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError:
            return ()
    return value if isinstance(value, list) else ()


def records(value: object) -> Iterator[Json]:
    """The tables of a list."""
    return (one for one in listed(value) if isinstance(one, dict))


def number(value: object) -> int:
    """A count; 0 where there is none. Raises ``ValueError``."""
    if value in (None, ""):
        return 0
    if isinstance(value, bool) or not isinstance(value, int | str | float) or float(value) != int(float(value)):
        raise ValueError(f"{str(value)[:40]!r} is no count")
    return int(float(value))


def yes(value: object) -> bool:
    """A flag; CSV writes it as a word."""
    return value.lower() == "true" if isinstance(value, str) else bool(value)


def nano(value: object) -> str | None:
    """Nanoseconds since 1970 as ISO text."""
    if not isinstance(value, int | str) or not str(value).isdigit():
        return None
    return datetime.fromtimestamp(int(value) // 1_000_000 / 1000, UTC).isoformat(timespec="milliseconds")


def tags(found: Sequence[object]) -> Flat:
    """``name:value`` and ``name=value`` as they are, bare words under their own name."""
    said: Flat = {}
    for one in found:
        for mark in ("=", ":"):
            name, sign, value = str(one).partition(mark)
            if sign and name:
                said[f"tag:{name}"[:64]] = value
                break
        else:
            said[f"tag:{one}"[:64]] = "yes"
    return said


def attributes(found: object) -> dict[str, object]:
    """OTLP's ``[{key, value: {stringValue: …}}]``; a plain table is taken as it is."""
    if isinstance(found, dict):
        return found
    said: dict[str, object] = {}
    for one in records(found):
        name, held = next(iter(table(one.get("value")).items()), ("", None))
        said[str(one.get("key"))] = int(str(held)) if name == "intValue" else held
    return said
