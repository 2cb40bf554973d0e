"""Anthropic's usage and cost report APIs, from the invoice."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from farthing.sim.account import Account
from farthing.sim.errors import invalid
from farthing.sim.http import JSON, Wire
from farthing.sim.invoice import InvoiceLine
from farthing.sim.reports import GroupKey, Page, Query, bucketed, context_window, page_of, require_admin

LIMITS = {"1m": (60, 1_440), "1h": (24, 168), "1d": (7, 31)}
_DIMENSIONS: dict[str, Callable[[InvoiceLine], str | None]] = {
    "api_key_id": lambda line: f"apikey_{line.key}",
    "workspace_id": lambda line: None,
    "model": lambda line: line.model,
    "service_tier": lambda line: _tier(line),
    "context_window": context_window,
    "inference_geo": lambda line: line.geo or "not_available",
}
_TOKEN_TYPES = {
    "input": "uncached_input_tokens",
    "cache_read": "cache_read_input_tokens",
    "cache_write_5m": "cache_creation.ephemeral_5m_input_tokens",
    "cache_write_1h": "cache_creation.ephemeral_1h_input_tokens",
    "output": "output_tokens",
    "reasoning": "output_tokens",
}
_LABELS = {
    "uncached_input_tokens": "Input Tokens",
    "cache_read_input_tokens": "Input Tokens, Cache Hit",
    "cache_creation.ephemeral_5m_input_tokens": "Input Tokens, Cache Write 5m",
    "cache_creation.ephemeral_1h_input_tokens": "Input Tokens, Cache Write 1h",
    "output_tokens": "Output Tokens",
}
_encode = msgspec.json.Encoder().encode


def _tier(line: InvoiceLine) -> str:
    return "standard" if line.tier == "default" else line.tier


def _instant(text: str, name: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise invalid(f"{name}: expected an RFC 3339 time, got {text!r}") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def _rfc3339(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Window(msgspec.Struct, frozen=True):
    start_ms: int
    end_ms: int
    page: Page


def _window(account: Account, query: Query, limits: dict[str, tuple[int, int]]) -> _Window:
    if not query.one("starting_at"):
        raise invalid("starting_at: Field required")
    start = _instant(query.one("starting_at"), "starting_at")
    ending = query.one("ending_at")
    end = _instant(ending, "ending_at") if ending else account.settings.now_ms() + 1
    width = query.choice("bucket_width", "1d", tuple(limits))
    return _Window(start, end, page_of(query, start, end, width, query.limit(*limits[width])))


def _keep(query: Query) -> Callable[[InvoiceLine], bool]:
    wanted = {
        name: set(query.many(plural))
        for name, plural in (("model", "models"), ("api_key_id", "api_key_ids"), ("service_tier", "service_tiers"))
    }

    def keep(line: InvoiceLine) -> bool:
        return line.provider == "anthropic" and all(
            not values or _DIMENSIONS[name](line) in values for name, values in wanted.items()
        )

    return keep


def _answer(window: _Window, rows: Callable[[int], list[dict[str, Any]]]) -> bytes:
    width = window.page.width_ms
    data = [
        {"starting_at": _rfc3339(start), "ending_at": _rfc3339(start + width), "results": rows(start)}
        for start in window.page.starts
    ]
    next_page = window.page.next_page
    return _encode({"data": data, "has_more": next_page is not None, "next_page": next_page})


async def usage_messages(account: Account, wire: Wire) -> None:
    """``GET /v1/organizations/usage_report/messages``."""
    require_admin(account, wire, anthropic=True)
    query = Query(wire)
    window = _window(account, query, LIMITS)
    groups = query.groups(tuple(_DIMENSIONS))

    def group(line: InvoiceLine) -> GroupKey:
        return tuple(_DIMENSIONS[name](line) for name in groups)

    found = dict(bucketed(account, window.page, window.start_ms, window.end_ms, _keep(query), group))

    def rows(start: int) -> list[dict[str, Any]]:
        return [
            _usage(lines) | dict.fromkeys(_DIMENSIONS) | dict(zip(groups, key, strict=True))
            for key, lines in found[start].items()
        ]

    await wire.reply(200, _answer(window, rows), [JSON])


def _usage(lines: list[InvoiceLine]) -> dict[str, Any]:
    return {
        "uncached_input_tokens": sum(line.tokens.input for line in lines),
        "cache_creation": {
            "ephemeral_5m_input_tokens": sum(line.tokens.cache_write_5m for line in lines),
            "ephemeral_1h_input_tokens": sum(line.tokens.cache_write_1h for line in lines),
        },
        "cache_read_input_tokens": sum(line.tokens.cache_read for line in lines),
        "output_tokens": sum(line.tokens.generated for line in lines),
        "server_tool_use": {"web_search_requests": 0},
    }


def cents(nano: int) -> str:
    """Nano-USD as an exact decimal string of cents: ``"123.45"`` is $1.2345."""
    whole, fraction = divmod(nano, 10_000_000)
    digits = f"{fraction:07d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


async def cost_report(account: Account, wire: Wire) -> None:
    """``GET /v1/organizations/cost_report``, days only: ``amount`` is a decimal string of cents."""
    require_admin(account, wire, anthropic=True)
    query = Query(wire)
    window = _window(account, query, {"1d": LIMITS["1d"]})
    groups = query.groups(("workspace_id", "description"))
    whole = dict(bucketed(account, window.page, window.start_ms, window.end_ms, _keep(query), lambda line: ()))

    def rows(start: int) -> list[dict[str, Any]]:
        sums: dict[GroupKey, int] = {}
        for line in whole[start].get((), ()):
            for charge in line.charges:
                kind = _TOKEN_TYPES[charge.unit]
                geo = _DIMENSIONS["inference_geo"](line)
                key = (line.model, _tier(line), context_window(line), geo, kind) if "description" in groups else ()
                sums[key] = sums.get(key, 0) + charge.amount_nusd
        return [_cost(key, amount) for key, amount in sums.items()]

    await wire.reply(200, _answer(window, rows), [JSON])


def _cost(key: GroupKey, amount: int) -> dict[str, Any]:
    model, tier, window, geo, kind = key or (None,) * 5
    description = f"{model} Usage - {_LABELS[str(kind)]}" if key else None
    return {
        "currency": "USD",
        "amount": cents(amount),
        "workspace_id": None,
        "description": description,
        "cost_type": "tokens" if key else None,
        "context_window": window,
        "model": model,
        "service_tier": tier,
        "token_type": kind,
        "inference_geo": geo,
    }
