"""OpenAI's usage and cost APIs, from the invoice."""

from collections.abc import Callable
from typing import Any

import msgspec

from farthing.sim.account import Account
from farthing.sim.errors import invalid
from farthing.sim.http import JSON, Wire
from farthing.sim.invoice import InvoiceLine
from farthing.sim.reports import GroupKey, Page, Query, bucketed, page_of, require_admin

LIMITS = {"1m": (60, 1_440), "1h": (24, 168), "1d": (7, 31)}
COST_LIMITS = (7, 180)
_DIMENSIONS: dict[str, Callable[[InvoiceLine], str | bool | None]] = {
    "project_id": lambda line: "proj_sim",
    "user_id": lambda line: None,
    "api_key_id": lambda line: f"key_{line.key}",
    "model": lambda line: line.model,
    "batch": lambda line: line.tier == "batch",
    "service_tier": lambda line: line.tier,
}
_ITEMS = {"input": "input", "cache_read": "cached input", "cache_write": "cache write", "output": "output"}
_encode = msgspec.json.Encoder().encode


class _Window(msgspec.Struct, frozen=True):
    start_ms: int
    end_ms: int
    width: str
    page: Page


def _window(account: Account, query: Query, limits: dict[str, tuple[int, int]]) -> _Window:
    start = query.whole("start_time", 0) * 1000
    if not start:
        raise invalid("Missing required parameter: 'start_time'.", param="start_time")
    width = query.choice("bucket_width", "1d", tuple(limits))
    end = query.whole("end_time", 0) * 1000 or account.settings.now_ms() + 1
    return _Window(start, end, width, page_of(query, start, end, width, query.limit(*limits[width])))


def _keep(query: Query, endpoints: tuple[str, ...]) -> Callable[[InvoiceLine], bool]:
    models, keys = set(query.many("models")), set(query.many("api_key_ids"))

    def keep(line: InvoiceLine) -> bool:
        return (
            line.provider == "openai"
            and (not endpoints or line.endpoint in endpoints)
            and (not models or line.model in models)
            and (not keys or f"key_{line.key}" in keys)
        )

    return keep


def _answer(window: _Window, rows: Callable[[int], list[dict[str, Any]]]) -> bytes:
    width = window.page.width_ms
    data = [
        {"object": "bucket", "start_time": start // 1000, "end_time": (start + width) // 1000, "results": rows(start)}
        for start in window.page.starts
    ]
    next_page = window.page.next_page
    return _encode({"object": "page", "data": data, "has_more": next_page is not None, "next_page": next_page})


async def _usage(
    account: Account, wire: Wire, endpoints: tuple[str, ...], result: Callable[[list[InvoiceLine]], dict[str, Any]]
) -> None:
    require_admin(account, wire, anthropic=False)
    query = Query(wire)
    window = _window(account, query, LIMITS)
    groups = query.groups(tuple(_DIMENSIONS))

    def group(line: InvoiceLine) -> GroupKey:
        return tuple(_DIMENSIONS[name](line) for name in groups)

    found = dict(bucketed(account, window.page, window.start_ms, window.end_ms, _keep(query, endpoints), group))

    def rows(start: int) -> list[dict[str, Any]]:
        return [
            result(lines) | dict.fromkeys(_DIMENSIONS) | dict(zip(groups, key, strict=True))
            for key, lines in found[start].items()
        ]

    await wire.reply(200, _answer(window, rows), [JSON])


def _completions(lines: list[InvoiceLine]) -> dict[str, Any]:
    return {
        "object": "organization.usage.completions.result",
        "input_tokens": sum(line.tokens.prompt for line in lines),
        "input_uncached_tokens": sum(line.tokens.input for line in lines),
        "input_cached_tokens": sum(line.tokens.cache_read for line in lines),
        "input_cache_write_tokens": sum(line.tokens.cache_write for line in lines),
        "input_audio_tokens": 0,
        "output_tokens": sum(line.tokens.generated for line in lines),
        "output_audio_tokens": 0,
        "num_model_requests": len(lines),
    }


def _embeddings(lines: list[InvoiceLine]) -> dict[str, Any]:
    return {
        "object": "organization.usage.embeddings.result",
        "input_tokens": sum(line.tokens.prompt for line in lines),
        "num_model_requests": len(lines),
    }


async def usage_completions(account: Account, wire: Wire) -> None:
    """``GET /v1/organization/usage/completions``: chat completions, completions and responses."""
    await _usage(account, wire, ("/v1/chat/completions", "/v1/completions", "/v1/responses"), _completions)


async def usage_embeddings(account: Account, wire: Wire) -> None:
    """``GET /v1/organization/usage/embeddings``."""
    await _usage(account, wire, ("/v1/embeddings",), _embeddings)


def _number(nano: int) -> msgspec.Raw:
    """Nano-USD as an exact JSON number of dollars."""
    whole, fraction = divmod(nano, 1_000_000_000)
    return msgspec.Raw(f"{whole}.{fraction:09d}".encode())


def line_item(line: InvoiceLine, unit: str) -> str:
    """OpenAI's ``line_item``: model, token class and, off the default, the tier."""
    tier = "" if line.tier == "default" else f", {line.tier}"
    return f"{line.model}, {_ITEMS['output' if unit == 'reasoning' else unit]}{tier}"


async def costs(account: Account, wire: Wire) -> None:
    """``GET /v1/organization/costs``, days only: ``amount.value`` is a JSON number of dollars."""
    require_admin(account, wire, anthropic=False)
    query = Query(wire)
    window = _window(account, query, {"1d": COST_LIMITS})
    groups = query.groups(("project_id", "line_item", "api_key_id"))
    whole = dict(bucketed(account, window.page, window.start_ms, window.end_ms, _keep(query, ()), lambda line: ()))

    def rows(start: int) -> list[dict[str, Any]]:
        sums: dict[GroupKey, list[int]] = {}
        for line in whole[start].get((), ()):
            for charge in line.charges:
                values = {"project_id": "proj_sim", "api_key_id": f"key_{line.key}"}
                values["line_item"] = line_item(line, charge.unit)
                total = sums.setdefault(tuple(values[name] for name in groups), [0, 0])
                total[0] += charge.amount_nusd
                total[1] += charge.quantity
        return [_cost(groups, key, amount, quantity) for key, (amount, quantity) in sums.items()]

    await wire.reply(200, _answer(window, rows), [JSON])


def _cost(groups: tuple[str, ...], key: GroupKey, amount: int, quantity: int) -> dict[str, Any]:
    by_item = "line_item" in groups
    return {
        "object": "organization.costs.result",
        "amount": {"value": _number(amount), "currency": "usd"},
        "line_item": None,
        "project_id": None,
        "api_key_id": None,
        "quantity": quantity if by_item else None,
        "quantity_unit": "tokens" if by_item else None,
    } | dict(zip(groups, key, strict=True))
