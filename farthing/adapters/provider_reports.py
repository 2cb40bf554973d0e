"""The providers' usage and cost reports: over their report APIs with an admin key, or from saved files.

The key is only ever sent to the address asked, over https (http to this machine), and never written anywhere.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal

import httpx

from farthing.adapters.provider_report_rows import (
    CSV_FIELDS,
    BadReport,
    Row,
    anthropic_rows,
    csv_rows,
    openai_rows,
)
from farthing.core.bill import TOKEN_CLASSES, Bill, BilledCost, BilledUsage
from farthing.core.errors import BadRequest, ProviderFailed

Kind = Literal["openai", "anthropic", "csv"]

URLS: Final = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com/v1"}
TIMEOUT_S: Final = 60.0
PAGES_MAX: Final = 10_000
TRIES_MAX: Final = 4
WAIT_S_MAX: Final = 60.0
_RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504, 529})

_Query = Sequence[tuple[str, str]]


class ProviderReports:
    """Reads bills. ``sleep`` is how it waits when a provider asks it to."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep

    def from_files(
        self, kind: Kind, files: Sequence[Path], *, since_ms: int, until_ms: int, columns: Mapping[str, str]
    ) -> Bill:
        """The bill in saved report pages (JSON, or JSON Lines) or CSV files.

        Raises ``BadRequest`` naming the file and what it lacks, ``OSError`` when one cannot be read.
        """
        rows: list[Row] = []
        digest = hashlib.sha256()
        for path in files:
            try:
                text = path.read_text("utf-8-sig")
            except UnicodeDecodeError as error:
                raise BadRequest(f"{path} is not UTF-8: {error}.", hint="Save it as UTF-8.") from error
            digest.update(text.encode())
            try:
                if kind == "csv":
                    rows += csv_rows(text.splitlines(), _checked(columns))
                else:
                    rows += _rows_of(kind)(_pages_in(text))
            except BadReport as error:
                raise BadRequest(f"{path}: {error}.", hint="Save the report API's answers as they come.") from error
        return _bill(kind, rows, since_ms, until_ms, digest.hexdigest()[:16])

    def fetch(self, kind: Kind, url: str, key: str, *, since_ms: int, until_ms: int) -> Bill:
        """The bill from the report API. Raises ``BadRequest``, ``ProviderFailed``."""
        base = _base(kind, url)
        headers = {"authorization": f"Bearer {key}"}
        if kind == "anthropic":
            headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
        plans = _openai_plans if kind == "openai" else _anthropic_plans
        digest = hashlib.sha256()
        rows: list[Row] = []
        with httpx.Client(timeout=TIMEOUT_S, headers=headers, follow_redirects=False) as client:
            for path, queries in plans(since_ms, until_ms):
                pages = list(self._pages(client, f"{base}{path}", queries))
                digest.update(json.dumps(pages, default=str, sort_keys=True).encode())
                try:
                    rows += _rows_of(kind)(pages)
                except BadReport as error:
                    raise ProviderFailed(f"{base}{path}: {error}.") from error
        return _bill(kind, rows, since_ms, until_ms, digest.hexdigest()[:16])

    def _pages(self, client: httpx.Client, url: str, queries: Sequence[_Query]) -> Iterator[dict[str, Any]]:
        """All pages under the first of the queries that the provider accepts."""
        for number, query in enumerate(queries):
            page = ""
            for _ in range(PAGES_MAX):
                more = [("page", page)] if page else []
                answer = self._get(client, url, [*query, *more])
                if answer.status_code == httpx.codes.BAD_REQUEST and not page and number + 1 < len(queries):
                    break
                found = _decoded(url, answer)
                yield found
                if not found.get("has_more"):
                    return
                if found.get("next_page") in (None, page):
                    raise ProviderFailed(f"{url} says there is more, but not where.")
                page = str(found["next_page"])

    def _get(self, client: httpx.Client, url: str, query: _Query) -> httpx.Response:
        for turn in range(1, TRIES_MAX + 1):
            try:
                answer = client.get(url, params=list(query))
            except httpx.HTTPError as error:
                if turn == TRIES_MAX:
                    raise ProviderFailed(f"{url} cannot be reached: {error}.", sent=False) from error
                self._sleep(2.0**turn)
                continue
            if answer.status_code not in _RETRIED or turn == TRIES_MAX:
                return answer
            asked = answer.headers.get("retry-after", "")
            self._sleep(min(float(asked), WAIT_S_MAX) if asked.isdigit() else 2.0**turn)
        raise AssertionError("the last try returns or raises")


def _decoded(url: str, answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code in (401, 403):
        raise ProviderFailed(
            f"{url} refuses the key ({answer.status_code}).",
            hint="Usage and cost reports need an admin key of the organisation, not an ordinary API key.",
            status=answer.status_code,
        )
    if answer.status_code != httpx.codes.OK:
        raise ProviderFailed(f"{url} answered {answer.status_code}: {answer.text[:300]}", status=answer.status_code)
    try:
        found = json.loads(answer.text, parse_float=Decimal)
    except ValueError as error:
        raise ProviderFailed(f"{url} did not answer with JSON.") from error
    if not isinstance(found, dict):
        raise ProviderFailed(f"{url} did not answer with a report page.")
    return found


def _base(kind: Kind, url: str) -> str:
    base = httpx.URL((url or URLS.get(kind, "")).rstrip("/"))
    if base.scheme != "https" and base.host not in ("127.0.0.1", "localhost", "::1"):
        raise BadRequest(
            f"{base}: an admin key is only sent over https.", hint="Use an https address, or http to this machine."
        )
    text = str(base)
    return text if text.endswith("/v1") else f"{text}/v1"


def _openai_plans(since_ms: int, until_ms: int) -> Iterator[tuple[str, Sequence[_Query]]]:
    span = [("start_time", str(since_ms // 1000)), ("end_time", str(until_ms // 1000)), ("bucket_width", "1d")]

    def by(limit: int, *names: str) -> _Query:
        return [*span, ("limit", str(limit)), *(("group_by", name) for name in names)]

    full = by(31, "model", "api_key_id", "service_tier", "batch")
    yield "/organization/usage/completions", [full, by(31, "model", "api_key_id", "batch")]
    yield "/organization/usage/embeddings", [by(31, "model", "api_key_id")]
    yield "/organization/costs", [by(180, "line_item", "api_key_id"), by(180, "line_item")]


def _anthropic_plans(since_ms: int, until_ms: int) -> Iterator[tuple[str, Sequence[_Query]]]:
    start, end = (
        datetime.fromtimestamp(moment // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for moment in (since_ms, until_ms)
    )
    span = [("starting_at", start), ("ending_at", end), ("bucket_width", "1d"), ("limit", "31")]
    groups = ("model", "api_key_id", "service_tier", "context_window", "inference_geo")
    yield (
        "/organizations/usage_report/messages",
        [[*span, *(("group_by[]", name) for name in some)] for some in (groups, groups[:4])],
    )
    yield "/organizations/cost_report", [[*span, ("group_by[]", "description"), ("group_by[]", "workspace_id")]]


def _rows_of(kind: Kind) -> Callable[[Iterable[Mapping[str, Any]]], Iterator[Row]]:
    return anthropic_rows if kind == "anthropic" else openai_rows


def _pages_in(text: str) -> list[dict[str, Any]]:
    """One page, a list of pages, or one page a line."""
    try:
        found = json.loads(text, parse_float=Decimal)
    except ValueError:
        try:
            found = [json.loads(line, parse_float=Decimal) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            raise BadReport(f"is neither JSON nor JSON Lines ({error})") from error
    pages = found if isinstance(found, list) else [found]
    if not all(isinstance(page, dict) for page in pages):
        raise BadReport('a report page is an object with a "data" list')
    return pages


def _checked(columns: Mapping[str, str]) -> Mapping[str, str]:
    known = {*CSV_FIELDS, *TOKEN_CLASSES}
    unknown = sorted(set(columns) - known)
    if unknown or "day" not in columns:
        what = f"{unknown[0]!r} is nothing a bill has" if unknown else "the column of the day is not given"
        raise BadReport(f"{what}; map column names to {', '.join(sorted(known))}: --map day=Date --map amount=Cost")
    return columns


def _bill(kind: str, rows: Iterable[Row], since_ms: int, until_ms: int, ref: str) -> Bill:
    first = datetime.fromtimestamp(since_ms // 1000, UTC).date()
    last = datetime.fromtimestamp((until_ms - 1) // 1000, UTC).date()
    days = tuple((first + timedelta(days=step)).isoformat() for step in range((last - first).days + 1))
    known = set(days)
    kept = [row for row in rows if row.place.day in known]
    return Bill(
        provider=kind,
        days=days,
        usage=tuple(row for row in kept if isinstance(row, BilledUsage)),
        costs=tuple(row for row in kept if isinstance(row, BilledCost) and row.amount),
        ref=ref,
    )
