"""Rows of the providers' usage and cost reports, and of any bill as CSV, to the rows of a :class:`Bill`."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from itertools import chain
from typing import Any, Final

from farthing.core.bill import ALL, TOKEN_CLASSES, BilledCost, BilledUsage, Place, plain_tier
from farthing.core.csv_text import separator_of
from farthing.core.money import NUSD_PER_USD

Row = BilledUsage | BilledCost

CSV_FIELDS: Final = (
    "day", "model", "class", "quantity", "amount", "key", "variant", "requests", "currency", "label",
)  # fmt: skip
"""What a column of a CSV bill can be, besides the token classes themselves for bills with one column each."""

_GROUPED: Final = re.compile(r"[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?")
_LIFETIMES: Final = ("30m", "12h", "1h", "5m")
_ITEMS: Final = (
    (("credit", "discount", "refund"), "credit"),
    (("web search", "web_search"), "web_search"),
    (("file search", "file_search"), "file_search"),
    (("code interpreter", "code_interpreter", "code execution", "code_execution"), "code_session"),
    (("output", "completion"), "output"),
)


class BadReport(ValueError):
    """A row that cannot be understood; the message says which and why."""


def class_of(text: str) -> str:
    """The class behind a provider's own word for it; the word itself when it is none of ours."""
    said = text.strip().lower()
    if said in TOKEN_CLASSES:
        return said
    for words, found in _ITEMS:
        if any(word in said for word in words):
            return found
    if "cach" in said and "uncached" not in said:
        if "write" not in said and "creation" not in said:
            return "cache_read"
        lifetime = next((one for one in _LIFETIMES if one in said), "")
        return f"cache_write_{lifetime}" if lifetime else "cache_write"
    return "input" if "input" in said or "prompt" in said or "embedding" in said else said


def _plain(value: object, what: str) -> str:
    """A number without its dollar sign and without commas between thousands. Any other comma may be a decimal one."""
    text = str(value).strip().replace("$", "", 1)
    if "," not in text:
        return text
    if not _GROUPED.fullmatch(text):
        raise BadReport(f"{value!r} is not {what}: commas may only stand between thousands; write 1234.56")
    return text.replace(",", "")


def nusd(value: object, *, per_usd: int = 1) -> int:
    """Dollars (or ``per_usd``-ths of them) to nano-USD; the float dust of JSON numbers is rounded away, half-even."""
    try:
        amount = Decimal(_plain(value, "an amount"))
    except InvalidOperation as error:
        raise BadReport(f"{value!r} is not an amount") from error
    if not amount.is_finite():
        raise BadReport(f"{value!r} is not an amount")
    return int((amount * NUSD_PER_USD / per_usd).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


def whole(value: object) -> int:
    """A quantity as an integer."""
    try:
        number = Decimal(_plain(value, "a quantity") or 0)
    except InvalidOperation as error:
        raise BadReport(f"{value!r} is not a quantity") from error
    if number != number.to_integral_value():
        raise BadReport(f"{value!r} is not a whole quantity")
    return int(number)


def day_of(value: object) -> str:
    """The UTC day of epoch seconds, an ISO date or an ISO time."""
    text = str(value).strip()
    try:
        if text.isdigit() and len(text) >= 9:
            moment = datetime.fromtimestamp(int(text), UTC)
        else:
            moment = datetime.fromisoformat(text)
            moment = moment.astimezone(UTC) if moment.tzinfo else moment
    except (ValueError, OverflowError) as error:
        raise BadReport(f"{value!r} is not a day; write 2026-11-21 or an ISO time") from error
    return moment.strftime("%Y-%m-%d")


def openai_rows(pages: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """Rows of ``/organization/usage/*`` and ``/organization/costs``."""
    for day, result in _results(pages, "start_time"):
        yield _openai_cost(day, result) if "amount" in result else _openai_usage(day, result)


def _openai_usage(day: str, result: Mapping[str, Any]) -> BilledUsage:
    cached = whole(result.get("input_cached_tokens") or 0)
    written = whole(result.get("input_cache_write_tokens") or 0)
    counts = {
        "input": whole(result.get("input_tokens") or 0) - cached - written,
        "cache_read": cached,
        "cache_write": written,
        "output": whole(result.get("output_tokens") or 0),
    }
    tier = "batch" if result.get("batch") is True else plain_tier(str(result.get("service_tier") or ""))
    requests = result.get("num_model_requests")
    return BilledUsage(
        place=Place(day, str(result.get("model") or ""), tier),
        counts=tuple((name, count) for name, count in counts.items() if count),
        requests=None if requests is None else whole(requests),
        key=str(result.get("api_key_id") or ""),
    )


def _openai_cost(day: str, result: Mapping[str, Any]) -> BilledCost:
    amount = result["amount"] or {}
    if str(amount.get("currency", "usd")).lower() != "usd":
        raise BadReport(f"costs of {day} are in {amount.get('currency')}, not in US dollars")
    label = str(result.get("line_item") or "")
    model, _, item = (part.strip() for part in label.partition(","))
    item, _, tier = (part.strip() for part in item.partition(","))
    return BilledCost(
        place=Place(day, model if item or "embedding" in model else "", plain_tier(tier)),
        token_class=class_of(item or label) if label else ALL,
        amount=nusd(amount.get("value", 0)),
        key=str(result.get("api_key_id") or ""),
        label=label,
    )


def anthropic_rows(pages: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    """Rows of ``/organizations/usage_report/messages`` and ``/organizations/cost_report``."""
    for day, result in _results(pages, "starting_at"):
        yield _anthropic_cost(day, result) if "amount" in result else _anthropic_usage(day, result)


def _anthropic_usage(day: str, result: Mapping[str, Any]) -> BilledUsage:
    written = result.get("cache_creation") or {}
    counts = {
        "input": result.get("uncached_input_tokens"),
        "cache_read": result.get("cache_read_input_tokens"),
        "cache_write_5m": written.get("ephemeral_5m_input_tokens"),
        "cache_write_1h": written.get("ephemeral_1h_input_tokens"),
        "output": result.get("output_tokens"),
        "web_search": (result.get("server_tool_use") or {}).get("web_search_requests"),
    }
    return BilledUsage(
        place=Place(day, str(result.get("model") or ""), _anthropic_variant(result)),
        counts=tuple((name, whole(count)) for name, count in counts.items() if count),
        key=str(result.get("api_key_id") or ""),
    )


def _anthropic_cost(day: str, result: Mapping[str, Any]) -> BilledCost:
    if str(result.get("currency") or "USD").upper() != "USD":
        raise BadReport(f"costs of {day} are in {result['currency']}, not in US dollars")
    kind = str(result.get("token_type") or "") or str(result.get("cost_type") or "")
    label = str(result.get("description") or kind)
    return BilledCost(
        place=Place(day, str(result.get("model") or ""), _anthropic_variant(result)),
        token_class=class_of(kind or label) if kind or label else ALL,
        amount=nusd(result["amount"], per_usd=100),
        label=label,
    )


def _anthropic_variant(result: Mapping[str, Any]) -> str:
    geo = str(result.get("inference_geo") or "").lower()
    parts = (
        plain_tier(str(result.get("service_tier") or "")),
        "" if geo in ("not_available", "global") else geo,
        "long" if str(result.get("context_window") or "").startswith("200k") else "",
    )
    return "+".join(part for part in parts if part)


def _results(pages: Iterable[Mapping[str, Any]], start: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for page in pages:
        buckets = page.get("data")
        if not isinstance(buckets, list):
            raise BadReport('a report page has a "data" list of buckets')
        for bucket in buckets:
            if start not in bucket:
                raise BadReport(f'a bucket has no "{start}": is this the report of another provider?')
            for result in bucket.get("results") or ():
                yield day_of(bucket[start]), result


def csv_rows(lines: Iterable[str], columns: Mapping[str, str]) -> Iterator[Row]:
    """Rows of any bill as CSV; ``columns`` says which column is the ``day``, the ``model``, the ``amount``…"""
    left = iter(lines)
    header = next(left, "")
    reader = csv.DictReader(chain([header], left), delimiter=separator_of(header))
    missing = sorted(set(columns.values()) - set(reader.fieldnames or ()))
    if missing:
        raise BadReport(f"the bill has no column {', '.join(missing)}; it has {', '.join(reader.fieldnames or ())}")
    european = separator_of(header) == ";"
    for row in reader:
        said = {name: (row.get(column) or "").strip() for name, column in columns.items()}
        if european:  # where semicolons separate, it is because a comma is the decimal point
            said |= {name: _dotted(said[name]) for name in ("amount", "quantity", *TOKEN_CLASSES) if name in said}
        try:
            yield from _csv_row(said)
        except BadReport as error:
            raise BadReport(f"line {reader.line_num}: {error}") from error


def _dotted(number: str) -> str:
    """``1.234,56`` as ``1234.56``; a number without a comma as it is."""
    return number.replace(".", "").replace(",", ".") if "," in number else number


def _csv_row(said: Mapping[str, str]) -> Iterator[Row]:
    currency = said.get("currency") or "usd"
    if currency.lower() != "usd":
        raise BadReport(f"the amount is in {currency}, not in US dollars")
    if not said["day"]:
        return
    place = Place(day_of(said["day"]), said.get("model", ""), plain_tier(said.get("variant", "")))
    name = class_of(said["class"]) if "class" in said else ALL
    counts = {wide: whole(said[wide] or 0) for wide in TOKEN_CLASSES if wide in said}
    if said.get("quantity"):
        counts[name] = counts.get(name, 0) + whole(said["quantity"])
    key = said.get("key", "")
    if any(counts.values()):
        requests = whole(said["requests"]) if said.get("requests") else None
        found = tuple((one, count) for one, count in sorted(counts.items()) if count)
        yield BilledUsage(place=place, counts=found, requests=requests, key=key)
    if said.get("amount"):
        label = said.get("label") or said.get("class", "")
        yield BilledCost(place=place, token_class=name, amount=nusd(said["amount"]), key=key, label=label)
