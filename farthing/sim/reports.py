"""What both vendors' report APIs share: admin keys, UTC buckets, grouping and pages, all read off the invoice."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable
from urllib.parse import parse_qs

import msgspec

from farthing.sim.account import Account
from farthing.sim.errors import ApiError, invalid
from farthing.sim.http import Wire
from farthing.sim.invoice import InvoiceLine

WIDTH_MS = {"1m": 60_000, "1h": 3_600_000, "1d": 86_400_000}
GroupKey = tuple[str | bool | None, ...]


class Query:
    """A report request's query string; ``name[]`` and ``name`` are the same parameter."""

    def __init__(self, wire: Wire) -> None:
        parsed = parse_qs(wire.scope["query_string"].decode(), keep_blank_values=True)
        self._values: dict[str, list[str]] = {}
        for name, values in parsed.items():
            self._values.setdefault(name.removesuffix("[]"), []).extend(values)

    def many(self, name: str) -> list[str]:
        """A repeatable parameter; comma lists count as repetition."""
        return [part for value in self._values.get(name, []) for part in value.split(",") if part]

    def one(self, name: str, default: str = "") -> str:
        """A single parameter."""
        return self._values.get(name, [default])[0]

    def whole(self, name: str, default: int) -> int:
        """A whole number; raises a 400 otherwise."""
        text = self.one(name, str(default))
        if not text.isdigit():
            raise invalid(f"{name}: expected a whole number, got {text!r}", param=name)
        return int(text)

    def choice(self, name: str, default: str, allowed: Iterable[str]) -> str:
        """One of ``allowed``; raises a 400 otherwise."""
        text = self.one(name, default)
        if text not in allowed:
            raise invalid(f"{name}: expected one of {', '.join(allowed)}, got {text!r}", param=name)
        return text

    def groups(self, allowed: tuple[str, ...]) -> tuple[str, ...]:
        """``group_by``; raises a 400 on a dimension the report does not have."""
        names = self.many("group_by")
        unknown = sorted(set(names) - set(allowed))
        if unknown:
            raise invalid(f"group_by: {unknown[0]!r} is not one of {', '.join(allowed)}", param="group_by")
        return tuple(names)

    def limit(self, default: int, maximum: int) -> int:
        """Buckets in a page; raises a 400 outside 1 to ``maximum``."""
        limit = self.whole("limit", default)
        if not 1 <= limit <= maximum:
            raise invalid(f"limit: expected 1 to {maximum}, got {limit}", param="limit")
        return limit


class Page(msgspec.Struct, frozen=True):
    """Bucket starts (ms) of one page, and the token of the next."""

    starts: tuple[int, ...]
    width_ms: int
    next_page: str | None


def require_admin(account: Account, wire: Wire, *, anthropic: bool) -> None:
    """Only admin keys may read reports; raises the vendor's 401."""
    key = wire.header(b"x-api-key") if anthropic else wire.header(b"authorization").removeprefix("Bearer ")
    if key not in account.settings.admin_keys:
        message = "invalid x-api-key" if anthropic else "You have insufficient permissions: an admin key is required."
        raise ApiError(401, message, kind="authentication_error", code="invalid_api_key")


def page_of(query: Query, start_ms: int, end_ms: int, width: str, limit: int) -> Page:
    """The buckets that ``page``, ``start`` and ``end`` select; buckets are aligned to UTC."""
    width_ms = WIDTH_MS[width]
    first = start_ms // width_ms * width_ms
    token = query.one("page")
    if token:
        try:
            first = int(urlsafe_b64decode(token.removeprefix("page_")))
        except (Base64Error, ValueError) as error:
            raise invalid(f"page: {token!r} was not issued by this endpoint", param="page") from error
    starts = tuple(range(first, end_ms, width_ms)[:limit])
    after = starts[-1] + width_ms if starts else end_ms
    more = after < end_ms
    return Page(starts, width_ms, "page_" + urlsafe_b64encode(str(after).encode()).decode() if more else None)


def bucketed(
    account: Account,
    page: Page,
    start_ms: int,
    end_ms: int,
    keep: Callable[[InvoiceLine], bool],
    group: Callable[[InvoiceLine], GroupKey],
) -> list[tuple[int, dict[GroupKey, list[InvoiceLine]]]]:
    """For each bucket of ``page`` its start and its lines by group; lines outside [start, end) are left out."""
    buckets: dict[int, dict[GroupKey, list[InvoiceLine]]] = {start: {} for start in page.starts}
    for line in account.invoice.between(start_ms, end_ms):
        start = line.at // page.width_ms * page.width_ms
        if start in buckets and keep(line):
            buckets[start].setdefault(group(line), []).append(line)
    return list(buckets.items())


def context_window(line: InvoiceLine) -> str:
    """Anthropic's class of prompt length."""
    return "200k-1M" if line.tokens.prompt > 200_000 else "0-200k"
