"""Changing one section in the text of ``farthing.toml`` and nothing else: comments, order and spacing stay."""

import re
import tomllib
from collections.abc import Mapping
from typing import Final

from farthing.core.errors import ConfigError

Toml = str | int | bool | list["Toml"] | dict[str, "Toml"]

_HEADER: Final = re.compile(r"\s*\[")
_BUDGETS: Final = re.compile(r"\s*\[\[\s*budgets\s*\]\]\s*(#.*)?$")
_KEY: Final = re.compile(r"\s*([A-Za-z_][\w-]*)\s*=")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def set_budget(text: str, name: str, changes: Mapping[str, Toml | None], *, source: str) -> str:
    """The text with a budget's settings changed (None: taken out), or with a new budget at its end.

    Raises ``ConfigError`` where the file writes budgets in a way that cannot be edited line by line.
    """
    before = tomllib.loads(text)
    lines = text.splitlines(keepends=True)
    budgets = before.get("budgets", [])
    position = next((place for place, one in enumerate(budgets) if one.get("name") == name), None)
    if position is None:
        new = "".join(_line(key, value) for key, value in {"name": name, **changes}.items() if value is not None)
        gap = "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
        edited = f"{text}{gap}[[budgets]]\n{new}"
    else:
        starts = [place for place, line in enumerate(lines) if _BUDGETS.match(line)]
        if len(starts) != len(budgets):
            raise _cannot(source, "budgets are not written as [[budgets]] sections")
        start = starts[position] + 1
        rest = range(start, len(lines))
        end = next(
            (place for place in rest if _HEADER.match(lines[place]) and _whole(lines[start:place])), len(lines)
        )
        edited = "".join([*lines[:start], *_changed(lines[start:end], changes), *lines[end:]])
    _check(before, edited, name, changes, source)
    return edited


def add_section(text: str, section: str, values: Mapping[str, Toml], *, source: str) -> str:
    """The text with one more ``[[section]]`` at its end. Raises ``ConfigError`` where something else comes of it."""
    before = tomllib.loads(text)
    gap = "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
    edited = f"{text}{gap}[[{section}]]\n" + "".join(_line(key, value) for key, value in values.items())
    present = before.get(section, [])
    wrong = ConfigError([f"{section}: cannot be added here; change the file by hand"], source=source)
    try:
        after = tomllib.loads(edited)
    except tomllib.TOMLDecodeError as error:
        raise wrong from error
    if not isinstance(present, list) or after != {**before, section: [*present, dict(values)]}:
        raise wrong
    return edited


def toml(value: Toml) -> str:
    """A value on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_name(key)} = {toml(one)}' for key, one in value.items())} }}"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def _name(key: str) -> str:
    return key if _BARE.fullmatch(key) else toml(key)


def _line(key: str, value: Toml) -> str:
    return f"{key} = {toml(value)}\n"


def _changed(block: list[str], changes: Mapping[str, Toml | None]) -> list[str]:
    """The lines of one section with some of its keys changed in place, new ones after the last."""
    left = dict(changes)
    found: list[str] = []
    place = 0
    last = 0
    while place < len(block):
        key = _KEY.match(block[place])
        size = 1
        while key and not _whole(block[place : place + size]) and place + size < len(block):
            size += 1
        if key and key[1] in left:
            value = left.pop(key[1])
            comment = _comment(block[place]) if size == 1 else ""
            found += [_line(key[1], value).rstrip("\n") + comment + "\n"] if value is not None else []
        else:
            found += block[place : place + size]
        last = len(found) if key else last
        place += size
    if found and last and not found[last - 1].endswith("\n"):
        found[last - 1] += "\n"
    return [*found[:last], *[_line(key, value) for key, value in left.items() if value is not None], *found[last:]]


def _comment(line: str) -> str:
    """The comment at the end of a line, with the space before it; strings may hold ``#`` too."""
    for place in (match.start() for match in re.finditer(r"\s*#", line)):
        if _whole([line[:place]]):
            return line[place:].rstrip("\n")
    return ""


def _whole(lines: list[str]) -> bool:
    try:
        tomllib.loads("".join(lines))
    except tomllib.TOMLDecodeError:
        return False
    return True


def _check(
    before: dict[str, object], edited: str, name: str, changes: Mapping[str, Toml | None], source: str
) -> None:
    """The edit did what was asked and nothing else, whatever the file looks like."""
    try:
        after = tomllib.loads(edited)
    except tomllib.TOMLDecodeError as error:
        raise _cannot(source, str(error)) from error
    expected = [dict(one) for one in _budgets(before)]
    target = next((one for one in expected if one.get("name") == name), None)
    if target is None:
        target = {"name": name}
        expected.append(target)
    for key, value in changes.items():
        target.pop(key, None)
        if value is not None:
            target[key] = value
    if _budgets(after) != expected or {**after, "budgets": 0} != {**before, "budgets": 0}:
        raise _cannot(source, "the section is written in a way that this command does not understand")


def _budgets(tree: dict[str, object]) -> list[dict[str, object]]:
    found = tree.get("budgets", [])
    return found if isinstance(found, list) else []


def _cannot(source: str, why: str) -> ConfigError:
    return ConfigError([f"budgets: cannot be edited here: {why}; change the file by hand"], source=source)
