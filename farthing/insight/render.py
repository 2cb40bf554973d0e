"""One renderer for every table: text for people, JSON and CSV for programs, Markdown for documents.

Money is never a float: people see dollars with at least six decimals and all that are not zero, programs get exact
decimal strings beside integer nano-USD.
"""

import csv
import io
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from typing import Literal

import msgspec

from farthing.core.money import format_usd
from farthing.insight.table import Column, Kind, Money, Row, Table, Value

Format = Literal["table", "json", "csv", "md"]

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def render(table: Table, form: Format) -> str:
    """The table in one of the formats, without a final newline."""
    match form:
        case "table":
            return _text(table)
        case "json":
            return msgspec.json.format(msgspec.json.encode(as_json(table)), indent=2).decode()
        case "csv":
            return _csv(table)
        case "md":
            return _markdown(table)


def usd(amount: int) -> str:
    """Nano-USD for people: ``$1,234.567890``; six decimals at least, nine where they say something."""
    exact = format_usd(abs(amount))
    whole, _, fraction = exact.partition(".")
    shown = fraction.rstrip("0").ljust(6, "0")
    return f"{'-' if amount < 0 else ''}${int(whole):,}.{shown}"


def percent(value: int) -> str:
    """Hundredths of a percent for people and programs: ``12.34``."""
    whole, fraction = divmod(abs(value), 100)
    return f"{'-' if value < 0 else ''}{whole}.{fraction:02d}"


def cell(column: Column, value: Value) -> str:
    """One value for people."""
    if value is None:
        return column.unknown
    if isinstance(value, Money):
        return usd(value.nusd)
    if isinstance(value, str):
        return printable(value)
    match column.kind:
        case "usd":
            return usd(value)
        case "percent":
            return f"{percent(value)}%"
        case "int" | "quantity":
            return f"{value:,}"
        case "text":
            return str(value)


def printable(text: str) -> str:
    """The text without control characters, so that a stored name cannot steer a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def as_json(table: Table) -> dict[str, object]:
    """The table as JSON values: dollars as exact decimal strings and as ``*_nusd`` integers."""
    return {
        "title": table.title,
        "rows": [_json_row(table.columns, row) for row in table.rows],
        "total": _json_row(table.columns, table.total) if table.total is not None else None,
        "notes": list(table.notes),
    }


def from_json(document: Mapping[str, object]) -> Table:
    """A table out of what :func:`as_json` made of it; titles of columns are their names. Raises ``ValueError``."""
    rows, total = document.get("rows"), document.get("total")
    lines = [*rows, total] if isinstance(rows, list) else [total]
    known = [line for line in lines if isinstance(line, dict)]
    columns: dict[str, Column] = {}
    keys = {key: None for line in known for key in line}
    for key in keys:
        name, kind = _read_key(key, keys)
        if name:
            whole = all(isinstance(line.get(key), int | None) for line in known)
            kind = "int" if kind == "text" and whole and any(line.get(key) is not None for line in known) else kind
            columns[key] = Column(name=name, title=name.replace("_", " "), kind=kind)
    notes = document.get("notes")

    def row(line: Mapping[str, object]) -> Row:
        return tuple(_read_cell(key, column, line) for key, column in columns.items())

    return Table(
        title=str(document.get("title", "")),
        columns=tuple(columns.values()),
        rows=tuple(row(line) for line in known[: len(known) - isinstance(total, dict)]),
        total=row(total) if isinstance(total, dict) else None,
        notes=tuple(map(str, notes)) if isinstance(notes, list) else (),
    )


def _read_key(key: str, line: Mapping[str, object]) -> tuple[str, Kind]:
    """(column, kind) of a key of a row; "" for one that only repeats another."""
    base, _, end = key.rpartition("_")
    match end:
        case "usd" if f"{base}_nusd" in line:
            return base, "usd"
        case "nusd" if f"{base}_usd" in line or base in line:
            return "", "text"
        case "percent":
            return base, "percent"
        case _:
            return key, "quantity" if f"{key}_nusd" in line and f"{key}_usd" not in line else "text"


def _read_cell(key: str, column: Column, line: Mapping[str, object]) -> Value:
    value = line.get(key)
    if column.kind == "usd":
        value = line.get(f"{column.name}_nusd")
    elif column.kind == "quantity" and f"{key}_nusd" in line:
        amount = line[f"{key}_nusd"]
        return Money(amount) if isinstance(amount, int) else None
    elif column.kind == "percent" and isinstance(value, str):
        return round(Decimal(value) * 100)
    if value is None or isinstance(value, str | int):
        return value
    raise ValueError(f"{key} is neither text nor a whole number")


def _json_row(columns: tuple[Column, ...], row: Row) -> dict[str, object]:
    found: dict[str, object] = {}
    for column, value in zip(columns, row, strict=True):
        if isinstance(value, Money):
            found[column.name] = format_usd(value.nusd)
            found[f"{column.name}_nusd"] = value.nusd
            continue
        if isinstance(value, str):
            found[column.name] = value
            continue
        match column.kind:
            case "usd":
                found[f"{column.name}_usd"] = None if value is None else format_usd(value)
                found[f"{column.name}_nusd"] = value
            case "percent":
                found[f"{column.name}_percent"] = None if value is None else percent(value)
            case _:
                found[column.name] = value
    return found


def _text(table: Table) -> str:
    lines = [[cell(column, value) for column, value in zip(table.columns, row, strict=True)] for row in table.rows]
    if table.total is not None:
        lines.append([cell(column, value) for column, value in zip(table.columns, table.total, strict=True)])
    titles = [column.title for column in table.columns]
    widths = [max(map(_width, texts)) for texts in zip(titles, *lines, strict=True)]
    body = [_line(line, widths, table.columns) for line in [titles, *lines]]
    rule = "-" * len("  ".join("-" * width for width in widths))
    body.insert(1, rule)
    if table.total is not None:
        body.insert(len(body) - 1, rule)
    parts = [table.title, "", *body]
    if not table.rows:
        parts.append("(nothing)")
    if table.notes:
        parts += ["", *table.notes]
    return "\n".join(part.rstrip() for part in parts)


def _line(texts: list[str], widths: list[int], columns: tuple[Column, ...]) -> str:
    padded = []
    for text, width, column in zip(texts, widths, columns, strict=True):
        space = " " * (width - _width(text))
        padded.append(text + space if column.kind == "text" else space + text)
    return "  ".join(padded)


def _width(text: str) -> int:
    """Terminal columns: wide East Asian characters take two, combining marks none."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) != 0 for character in text)


def _csv(table: Table) -> str:
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow([f"{column.name}_usd" if column.kind == "usd" else _csv_name(column) for column in table.columns])
    for row in table.rows:
        writer.writerow([_csv_cell(column, value) for column, value in zip(table.columns, row, strict=True)])
    return target.getvalue().rstrip("\n")


def _csv_name(column: Column) -> str:
    return f"{column.name}_percent" if column.kind == "percent" else column.name


def _csv_cell(column: Column, value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, Money):
        return format_usd(value.nusd)
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA_STARTS) else value
    match column.kind:
        case "usd":
            return format_usd(value)
        case "percent":
            return percent(value)
        case _:
            return str(value)


def _markdown(table: Table) -> str:
    def line(texts: list[str]) -> str:
        return "| " + " | ".join(text.replace("\\", "\\\\").replace("|", "\\|") for text in texts) + " |"

    rows = list(table.rows) + ([table.total] if table.total is not None else [])
    parts = [
        f"### {table.title}",
        "",
        line([column.title for column in table.columns]),
        "|" + "|".join(" :--- " if column.kind == "text" else " ---: " for column in table.columns) + "|",
        *(line([cell(column, value) for column, value in zip(table.columns, row, strict=True)]) for row in rows),
    ]
    return "\n".join(parts + ([""] + [f"- {note}" for note in table.notes] if table.notes else []))
