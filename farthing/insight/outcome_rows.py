"""Outcomes as people and programs report them: rows of CSV or JSON to records, every problem of a row at once."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from farthing.core.csv_text import separator_of
from farthing.core.money import parse_usd
from farthing.ports.outcomes import Outcome

FIELDS: Final = ("id", "kind", "at", "session", "request_id", "value_usd", "success")
TEXT_MAX: Final = 128
VALUE_MAX: Final = 10**17
_KIND: Final = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_EPOCH_MS: Final = re.compile(r"[0-9]{12,14}")
_SAID: Final = {"true": True, "yes": True, "1": True, "": True, "false": False, "no": False, "0": False}
_FIRST_MS: Final = 946_684_800_000
_LAST_MS: Final = 4_102_444_800_000
"""2000 to 2100: what lies outside is a mistake of units."""


def outcome(row: Mapping[str, object], *, now_ms: int) -> Outcome:
    """One outcome; ``at`` is ISO time or UTC milliseconds, else now. Raises ``ValueError`` for all problems."""
    problems = [f"{name} is unknown; allowed: {', '.join(FIELDS)}" for name in row if name not in FIELDS]
    texts = {name: _text(row, name, problems) for name in ("id", "kind", "session", "request_id")}
    if not texts["id"]:
        problems.append("id is missing; it makes reporting twice harmless")
    if not _KIND.fullmatch(texts["kind"]):
        problems.append("kind is a name of small letters, digits and '_.-', such as ticket_resolved")
    if not texts["session"] and not texts["request_id"]:
        problems.append("session or request_id is needed: which calls was it of?")
    value, at_ms = _value(row.get("value_usd"), problems), _at(row.get("at"), now_ms, problems)
    success = _success(row.get("success", True), problems)
    if problems:
        raise ValueError("; ".join(problems))
    return Outcome(
        id=texts["id"],
        kind=texts["kind"],
        at_ms=at_ms,
        session=texts["session"],
        request_id=texts["request_id"],
        value_nusd=value,
        success=success,
    )


def read_rows(text: str, *, jsonl: bool, now_ms: int) -> tuple[list[Outcome], list[str]]:
    """(outcomes, problems with their line) of CSV with a header, or of one JSON object a line."""
    found: list[Outcome] = []
    bad: list[str] = []
    lines = ((number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip())
    for number, row in lines if jsonl else _csv(text):
        try:
            cells = msgspec.json.decode(row, type=dict[str, object]) if isinstance(row, str) else row
            if None in cells:
                raise ValueError(f"has more columns than the header; columns: {', '.join(FIELDS)}")
            found.append(outcome(cells, now_ms=now_ms))
        except (ValueError, msgspec.DecodeError) as error:
            bad.append(f"line {number}: {error}")
    return found, bad


def _csv(text: str) -> Iterator[tuple[int, dict[str, object]]]:
    """(line on which a row ends, cells by column)."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.DictReader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=separator_of(first))
    skipped = text[: len(text) - len(text.lstrip("\r\n"))].count("\n")
    for row in reader:
        yield reader.line_num + skipped, dict(row)


def _text(row: Mapping[str, object], name: str, problems: list[str]) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > TEXT_MAX or not value.isprintable():
        problems.append(f"{name} is text of at most {TEXT_MAX} printable characters")
        return ""
    return value.strip()


def _value(value: object, problems: list[str]) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, str | int) and not isinstance(value, bool):
        try:
            amount = int(parse_usd(value))
        except ValueError as error:
            problems.append(f"value_usd: {error}")
            return None
        if abs(amount) <= VALUE_MAX:
            return amount
    problems.append('value_usd is dollars as text, such as "12.50"')
    return None


def _at(value: object, now_ms: int, problems: list[str]) -> int:
    found: int | None = None
    if value is None or value == "":
        return now_ms
    if isinstance(value, int) and not isinstance(value, bool):
        found = value
    elif isinstance(value, str) and _EPOCH_MS.fullmatch(value.strip()):
        found = int(value)
    elif isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            found = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
        except (ValueError, OverflowError):
            found = None
    if found is None or not _FIRST_MS <= found < _LAST_MS:
        problems.append("at is ISO time such as 2026-11-21T10:00:00Z, or UTC milliseconds")
        return now_ms
    return found


def _success(value: object, problems: list[str]) -> bool:
    if isinstance(value, bool):
        return value
    said = _SAID.get(value.strip().lower()) if isinstance(value, str) else None
    if said is None:
        problems.append("success is true or false")
        return True
    return said
