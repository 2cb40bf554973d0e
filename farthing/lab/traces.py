"""Reading traces of elsewhere: CSV and JSON lines to rows of tokens and time, every bad row named, none guessed."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from farthing.core.dimensions import SCOPE_DIMENSIONS
from farthing.core.money import NUSD_PER_USD
from farthing.core.units import INPUT_CACHE_WRITE_1H, INPUT_CACHE_WRITE_5M
from farthing.lab.traces_cells import BadRow
from farthing.lab.traces_csv import Rows, Wanted, csv_rows
from farthing.lab.traces_foreign import LAYOUTS, unfinished, unwrap
from farthing.lab.traces_spans import Span, counted, spans

Shape = Literal["csv", "jsonl", "records"]

FIELDS: Final = ("time", "input", "cached", "output", "model", "blocks", *SCOPE_DIMENSIONS[:-1])
"""What a column can be mapped to; ``tag:<name>`` too. ``input`` counts all input tokens, cached ones included."""

NEEDED: Final = ("time", "input", "output")
"""Fields without which a row is none."""

_TIME = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)[Tt ](\d\d):?(\d\d)(?::?(\d\d)(?:[.,](\d{1,9}))?)?\s*(Z|z|UTC|GMT|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII,
)
"""ISO 8601, extended or basic, and as databases print it: ``2026-11-21 10:30:00.5+00``, ``2026-11-21 10:30 UTC``."""
_COUNT = re.compile(r"([0-9]{1,12})(?:\.0{1,2})?")
"""A table that was once floating point writes ``374.0``; ``1.000`` may be a thousand, so it is not read."""
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_EPOCH = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,9}))?")
_WRITES: Final = (("written_5m", INPUT_CACHE_WRITE_5M), ("written_1h", INPUT_CACHE_WRITE_1H))
_TOKENS_MAX: Final = 10**12
_USD_MAX: Final = 10**9
"""No row costs more; a larger number is no cost."""
_EPOCH_STEPS: Final = ((10**17, 10**6), (10**14, 10**3), (10**11, 1))
"""(least number, its units in a millisecond): nano-, micro- and milliseconds since 1970; less: seconds."""
_EPOCH_S_FROM: Final = 10**9
"""Less is no time of a call: a date without hyphens, or a time since the start of something."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of file and what its columns mean."""

    name: str
    shape: Shape
    columns: tuple[tuple[str, str], ...]
    """(column, field of ``FIELDS``)."""
    relative: bool = False
    """Times are milliseconds from a start that the reader must be told."""
    block_tokens: int = 0
    """Tokens per prefix block, when the source has blocks."""
    layout: str = ""
    """How a record of another tool becomes rows (``farthing.lab.traces_foreign``)."""
    stated: bool = False
    """Records say what they cost: it is booked as it stands."""
    sums: bool = False
    """Records are sums of a period, without ids (``farthing.lab.import_again``)."""


_FOREIGN: Final = (
    *FIELDS, "id", "provider", "cost", "until", "latency_ms", "written_5m", "written_1h", "calls", "tier", "failed",
    "tier_basis", "searches", "region", "speed", "audio_in", "audio_out",
)  # fmt: skip
"""What rows of other tools hold beside their tags."""


def _foreign(name: str, *, stated: bool = False, sums: bool = False) -> Source:
    fields = tuple((field, field) for field in _FOREIGN)
    return Source(name=name, shape="records", columns=fields, layout=name, stated=stated, sums=sums)


SOURCES: Final = MappingProxyType(
    {
        "azure-llm-trace": Source(
            name="azure-llm-trace",
            shape="csv",
            columns=(("TIMESTAMP", "time"), ("ContextTokens", "input"), ("GeneratedTokens", "output")),
        ),
        "mooncake-trace": Source(
            name="mooncake-trace",
            shape="jsonl",
            columns=(
                ("timestamp", "time"),
                ("input_length", "input"),
                ("output_length", "output"),
                ("hash_ids", "blocks"),
            ),
            relative=True,
            block_tokens=512,
        ),
        "csv": Source(name="csv", shape="csv", columns=tuple((field, field) for field in FIELDS)),
        "jsonl": Source(name="jsonl", shape="jsonl", columns=tuple((field, field) for field in FIELDS)),
        "litellm": _foreign("litellm", stated=True),
        "langfuse": _foreign("langfuse", stated=True),
        "helicone": _foreign("helicone", stated=True),
        "openai-usage": _foreign("openai-usage", sums=True),
        "anthropic-usage": _foreign("anthropic-usage", sums=True),
        "otel": _foreign("otel"),
    }
)
"""Known sources; ``csv`` and ``jsonl`` take columns by their field names or by a map."""


class TraceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a trace."""

    id: str
    """``imp-`` and a hash of source, content and occurrence: the same row of the same file always gets it."""
    line: int
    at_ms: int
    input_tokens: int
    cached_tokens: int = 0
    output_tokens: int
    model: str = ""
    blocks: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    """Scope dimensions and ``tag:<name>`` from columns."""
    written: tuple[tuple[str, int], ...] = ()
    """(unit, tokens) written to a prompt cache; part of ``input_tokens``."""
    provider: str = ""
    """As the source names it."""
    stated_nusd: int | None = None
    """What the source says it cost; None: it does not say."""
    calls: int = 1
    """Calls that the row stands for."""
    tier: str = ""
    tier_basis: int = 0
    """Prompt tokens that decide the context tier, where the row says so; 0: its mean call's."""
    searches: int = 0
    """Web searches that are billed beside the tokens."""
    audio_input: int = 0
    """Part of ``input_tokens``, and not cached."""
    audio_output: int = 0
    """Part of ``output_tokens``."""
    facets: tuple[tuple[str, str], ...] = ()
    """Other billing facts, sorted: region, speed."""
    latency_ms: int = 0
    failed: bool = False


def read_rows(lines: Iterable[str], source: Source, *, start_ms: int | None = None) -> Iterator[TraceRow | BadRow]:
    """Rows in file order; empty lines are passed over. ``start_ms`` is the origin of relative times."""
    seen: Counter[bytes] = Counter()
    raw = _flat(_records(lines), source.layout) if source.layout else _plain(lines, source)
    for line, cells in raw:
        if isinstance(cells, BadRow):
            yield cells
            continue
        content = msgspec.json.encode(cells, order="deterministic")
        digest = hashlib.sha256(content).digest()[:16]
        seen[digest] += 1
        try:
            yield _row(cells, source, line, start_ms, _row_id(source, content, seen[digest]))
        except ValueError as error:
            yield BadRow(line=line, reason=str(error), content=content.decode()[:500])


def _row_id(source: Source, content: bytes, occurrence: int) -> str:
    name = b"\0".join((source.name.encode(), content, str(occurrence).encode()))
    return "imp-" + hashlib.sha256(name).hexdigest()[:32]


def _plain(lines: Iterable[str], source: Source) -> Rows:
    """The cells of a file of one row a call."""
    if source.shape != "csv":
        return _json_rows(lines)
    usual = {column for column, _ in SOURCES[source.name].columns}
    return csv_rows(
        lines,
        Wanted(
            needed=tuple((field, tuple(column for column, of in source.columns if of == field)) for field in NEEDED),
            mapped=tuple(column for column, _ in source.columns if column not in usual),
            known=tuple(column for column, _ in source.columns),
        ),
    )


def _json_rows(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, object] | BadRow]]:
    for number, line in enumerate(lines, 1):
        text = line.strip().lstrip("\N{ZERO WIDTH NO-BREAK SPACE}")
        if not text:
            continue
        try:
            yield number, msgspec.json.decode(text, type=dict[str, object])
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
            yield number, BadRow(line=number, reason=f"not a JSON object: {error}", content=text[:500])


def _records(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, object] | BadRow]]:
    """Records of a JSON document, of JSON lines or of CSV, whichever the file is."""
    text = "".join(lines).lstrip("\N{ZERO WIDTH NO-BREAK SPACE}").strip()
    if text[:1] not in ("{", "["):
        yield from csv_rows(_lines(text))
        return
    try:
        document = msgspec.json.decode(text)
        found = unwrap(document)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        yield from _pages(_json_rows(_lines(text)))
        return
    number = 0
    for number, one in enumerate(found, 1):
        yield number, one if isinstance(one, dict) else BadRow(line=number, reason="not a JSON object")
    lacking = unfinished(document if isinstance(document, list) else [document])
    if lacking:
        yield number, BadRow(line=number, reason=lacking)


def _pages(rows: Rows) -> Rows:
    """The rows; after them what lacks where lines are pages of an API."""
    pages, number = [], 0
    for number, one in rows:
        if isinstance(one, dict) and isinstance(one.get("data"), list):
            pages.append({name: value for name, value in one.items() if name != "data"} | {"data": []})
        yield number, one
    lacking = unfinished(pages)
    if lacking:
        yield number, BadRow(line=number, reason=lacking)


def _flat(
    found: Iterable[tuple[int, dict[str, object] | BadRow]], layout: str
) -> Iterator[tuple[int, dict[str, object] | BadRow]]:
    seen: list[Span] = []
    for number, record in found:
        if isinstance(record, BadRow):
            yield number, record
            continue
        try:
            # One JSON line may be a document of its own (a page, an OTLP batch).
            for one in (one for one in unwrap(record) if isinstance(one, dict)):
                if layout == "otel":
                    for span in spans(number, one):
                        if isinstance(span, BadRow):
                            yield number, span
                        else:
                            seen.append(span)
                else:
                    yield from ((number, cells) for cells in LAYOUTS[layout](one))
        except (ValueError, TypeError) as error:
            yield number, BadRow(line=number, reason=str(error), content=str(record)[:500])
    yield from counted(seen)


def _lines(text: str) -> Iterator[str]:
    """Lines end where files end them, not at every mark that Unicode calls a line's end: texts hold those."""
    return (line + "\n" for line in text.split("\n"))


def _row(cells: Mapping[str, object], source: Source, line: int, start_ms: int | None, row_id: str) -> TraceRow:
    """The row, or ``ValueError`` with the reason."""
    found = {field: cells[column] for column, field in source.columns if cells.get(column) not in (None, "")}
    missing = [field for field in NEEDED if field not in found]
    if missing:
        columns = ", ".join(column for column, field in source.columns if field in missing)
        raise ValueError(f"no value for {', '.join(missing)} (column {columns or 'not mapped'})")
    tokens, cached = _count(found["input"], "input"), _count(found.get("cached", 0), "cached")
    written = tuple(
        (unit, _count(found[field], field)) for field, unit in _WRITES if field in found and found[field] != 0
    )
    if cached + sum(count for _, count in written) > tokens:
        raise ValueError(f"cached tokens ({cached}) are more than input tokens ({tokens}), which include them")
    at_ms = _time(found["time"], start_ms if source.relative else None, relative=source.relative)
    if source.layout and "id" in found:
        row_id = "imp-" + hashlib.sha256(f"{source.name}\0{found['id']}".encode()).hexdigest()[:32]
    return TraceRow(
        id=row_id,
        written=written,
        provider=str(found.get("provider", "")).lower() if source.layout else "",
        stated_nusd=_stated(found.get("cost")) if source.layout else None,
        calls=_count(found.get("calls", 1), "calls") if source.layout else 1,
        tier=str(found.get("tier", "")) if source.layout else "",
        tier_basis=_count(found.get("tier_basis", 0), "tier_basis"),
        searches=_count(found.get("searches", 0), "searches"),
        audio_input=_count(found.get("audio_in", 0), "audio_in"),
        audio_output=_count(found.get("audio_out", 0), "audio_out"),
        facets=tuple((name, str(found[name])) for name in ("region", "speed") if name in found),
        latency_ms=_latency(found, at_ms) if source.layout else 0,
        failed=bool(found.get("failed", False)) if source.layout else False,
        line=line,
        at_ms=at_ms,
        input_tokens=tokens,
        cached_tokens=cached,
        output_tokens=_count(found["output"], "output"),
        model=str(found.get("model", "")),
        blocks=_blocks(found.get("blocks", [])),
        labels=tuple(
            (field, str(value)[:128])
            for field, value in (*found.items(), *_own_tags(cells, source))
            if field in SCOPE_DIMENSIONS or field[:4] == "tag:"
        ),
    )


def _own_tags(cells: Mapping[str, object], source: Source) -> Iterator[tuple[str, object]]:
    if source.layout:
        yield from ((name, value) for name, value in cells.items() if name[:4] == "tag:" and value not in (None, ""))


def _stated(value: object) -> int | None:
    """Nano-USD of dollars as a tool writes them, floats included; rounded once, half-even."""
    if value is None:
        return None
    try:
        dollars = Decimal(str(value))
        if not abs(dollars) <= _USD_MAX:
            raise InvalidOperation
        return int((dollars * NUSD_PER_USD).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))
    except InvalidOperation as error:
        raise ValueError(f"cost is {str(value)[:40]!r}; dollars are expected") from error


def _latency(found: Mapping[str, object], at_ms: int) -> int:
    if "latency_ms" in found:
        try:
            return round(float(str(found["latency_ms"])))
        except (ValueError, OverflowError) as error:
            raise ValueError(f"latency is {str(found['latency_ms'])[:40]!r}; milliseconds are expected") from error
    return max(0, _time(found["until"], None, relative=False) - at_ms) if "until" in found else 0


def _count(value: object, field: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and (whole := _COUNT.fullmatch(value.strip())):
        return int(whole[1])
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _TOKENS_MAX:
        return value
    raise ValueError(f"{field} is {str(value)[:40]!r}; a whole number of tokens, 0 or more, is expected")


def _blocks(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, int | str) for item in value):
        raise ValueError("blocks is not a list of ids")
    return tuple(str(item) for item in value)


def _time(value: object, start_ms: int | None, *, relative: bool) -> int:
    """UTC milliseconds; digits finer than a millisecond are cut off."""
    if relative:
        if start_ms is None:
            raise ValueError("times are relative and no start was given")
        return start_ms + _count(value, "time")
    if isinstance(value, float):
        value = f"{value:.3f}"
    if isinstance(value, str):
        found = _EPOCH.fullmatch(value.strip())
        if found is None:
            return parse_time(value)
        number, fraction = int(found[1]), found[2] or ""
    elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**19:
        number, fraction = value, ""
    else:
        raise ValueError(f"time is {str(value)[:40]!r}; ISO 8601 or a number since 1970")
    for least, units in _EPOCH_STEPS:
        if number >= least:
            return number // units
    if number < _EPOCH_S_FROM:
        raise ValueError(f"time is {str(value)[:40]!r}, which is before 2001; ISO 8601 or a number since 1970")
    return number * 1000 + int(fraction.ljust(3, "0")[:3])


def parse_time(text: str) -> int:
    """ISO 8601 with up to nine decimals to UTC milliseconds; UTC when no zone is written; a day is its beginning."""
    found = _TIME.fullmatch(text.strip() + ("T00:00" if _DAY.fullmatch(text.strip()) else ""))
    if found is None:
        raise ValueError(f"time is {text[:40]!r}; a time such as 2026-11-21T10:30:00.123Z is expected")
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    zone = "+00:00" if zone is None or zone[0] not in "+-" else f"{zone}:00" if len(zone) == 3 else zone
    try:
        moment = datetime.fromisoformat(f"{year}-{month}-{day}T{hour}:{minute}:{second or '00'}{zone}")
        seconds = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"time is {text[:40]!r}: {error}") from error
    return (seconds.days * 86_400 + seconds.seconds) * 1000 + int((fraction or "0").ljust(3, "0")[:3])
