"""``/v1/messages/batches``: requests in one body, answered within a day at half the price."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import msgspec

from farthing.sim.account import Account
from farthing.sim.admission import api_key, decode
from farthing.sim.anthropic_wire import error_payload
from farthing.sim.batch_room import Item, SimBatch
from farthing.sim.batch_run import WINDOW_MS, batch_headers, catch_up, met, page
from farthing.sim.errors import ApiError, invalid
from farthing.sim.http import JSON, Wire
from farthing.sim.invoice import key_hash

PATH = "/v1/messages/batches"
REQUESTS_MAX = 100_000
_encode = msgspec.json.Encoder().encode


async def batches(account: Account, wire: Wire) -> None:
    """``POST /v1/messages/batches`` and ``GET /v1/messages/batches``."""
    key = key_hash(api_key(account, wire, "anthropic"))
    if wire.scope["method"] == "POST":
        fault = met(account, PATH)
        batch = _made(account, wire, key, decode(await wire.body()))
        account.batch_room.batches[batch.id] = batch
        if fault is not None and fault.kind == "reset":  # it runs, and nobody is told
            await wire.reset()
            return
        await wire.reply(200, _encode(_shown(batch, wire)), [JSON])
        return
    mine = [
        one for one in reversed(account.batch_room.batches.values()) if one.key == key and one.about.get("anthropic")
    ]
    for one in mine:
        await catch_up(account, one, _failure)
    found, more = page(mine, parse_qs(wire.scope["query_string"].decode()), after="after_id", before="before_id")
    ends = {"first_id": found[0].id if found else None, "last_id": found[-1].id if found else None}
    await wire.reply(200, _encode({"data": [_shown(one, wire) for one in found], "has_more": more, **ends}), [JSON])


async def batch(account: Account, wire: Wire) -> None:
    """``GET`` and ``DELETE /v1/messages/batches/{id}``, ``…/results`` and ``…/cancel``."""
    key = key_hash(api_key(account, wire, "anthropic"))
    id, _, what = wire.scope["path"].removeprefix(PATH + "/").partition("/")
    found = account.batch_room.batches.get(id)
    if found is None or found.key != key or what not in ("", "results", "cancel"):
        raise ApiError(404, f"Batch {id} not found.", kind="not_found_error")
    await catch_up(account, found, _failure)
    if what == "results":
        if found.ended_ms is None:
            raise ApiError(404, f"Batch {id} has no results yet.", kind="not_found_error")
        await wire.reply(200, _results(found), [(b"content-type", b"application/x-jsonl")])
        return
    if what == "cancel":
        if found.ended_ms is None:
            found.cancelled_ms = account.settings.now_ms()
            await catch_up(account, found, _failure)
    elif wire.scope["method"] == "DELETE":
        if found.ended_ms is None:
            raise invalid("A batch that is being processed cannot be deleted; cancel it first.")
        del account.batch_room.batches[id]
        await wire.reply(200, _encode({"id": id, "type": "message_batch_deleted"}), [JSON])
        return
    await wire.reply(200, _encode(_shown(found, wire)), [JSON])


def _made(account: Account, wire: Wire, key: str, body: dict[str, Any]) -> SimBatch:
    asked = body.get("requests")
    if not isinstance(asked, list) or not 1 <= len(asked) <= REQUESTS_MAX:
        raise invalid(f"requests: a list of 1 to {REQUESTS_MAX} requests is required")
    seen: set[str] = set()
    items = []
    for place, one in enumerate(asked):
        if not isinstance(one, dict) or not isinstance(one.get("params"), dict) or not one.get("custom_id"):
            raise invalid(f"requests.{place}: custom_id and params are required")
        if one["custom_id"] in seen:
            raise invalid(f"requests.{place}.custom_id: is not unique")
        seen.add(one["custom_id"])
        items.append(Item(one["custom_id"], "/v1/messages", _encode(one["params"])))
    now = account.settings.now_ms()
    return SimBatch(account.next_id("msgbatch_"), key, now, items, batch_headers(wire), {"anthropic": True})


def _failure(account: Account, error: ApiError) -> bytes:
    return error_payload(error, account.next_id("req_"))


def _results(batch: SimBatch) -> bytes:
    lines = []
    for item in batch.items:
        if item.status == 200:
            result: dict[str, Any] = {"type": "succeeded", "message": msgspec.Raw(item.answer)}
        elif item.status:
            result = {"type": "errored", "error": msgspec.Raw(item.answer)}
        else:
            result = {"type": "canceled" if batch.ending == "cancelled" else "expired"}
        lines.append(_encode({"custom_id": item.custom_id, "result": result}) + b"\n")
    return b"".join(lines)


def _shown(batch: SimBatch, wire: Wire) -> dict[str, Any]:
    ended = batch.ended_ms is not None
    cancelled = batch.left if batch.ending == "cancelled" else 0
    results = f"http://{wire.header(b'host', 'sim')}{PATH}/{batch.id}/results" if ended else None
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if ended else "in_progress" if batch.cancelled_ms is None else "canceling",
        "request_counts": {
            "processing": 0 if ended else len(batch.items),
            "succeeded": batch.succeeded if ended else 0,
            "errored": batch.failed if ended else 0,
            "canceled": cancelled,
            "expired": batch.left if batch.ending == "expired" else 0,
        },
        "created_at": _time(batch.created_ms),
        "expires_at": _time(batch.created_ms + WINDOW_MS),
        "ended_at": _time(batch.ended_ms) if batch.ended_ms is not None else None,
        "cancel_initiated_at": None if batch.cancelled_ms is None else _time(batch.cancelled_ms),
        "archived_at": None,
        "results_url": results,
    }


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
