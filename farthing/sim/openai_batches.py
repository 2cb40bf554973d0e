"""``/v1/batches``: files of requests, answered within a day at half the price."""

from typing import Any
from urllib.parse import parse_qs

import msgspec

from farthing.sim.account import Account
from farthing.sim.admission import api_key, decode
from farthing.sim.batch_room import Item, SimBatch, StoredFile
from farthing.sim.batch_run import WINDOW_MS, batch_headers, catch_up, decoded, met, page
from farthing.sim.errors import ApiError, invalid
from farthing.sim.http import JSON, Wire
from farthing.sim.invoice import key_hash
from farthing.sim.openai_wire import error_payload

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
_encode = msgspec.json.Encoder().encode


async def batches(account: Account, wire: Wire) -> None:
    """``POST /v1/batches`` and ``GET /v1/batches``."""
    key = key_hash(api_key(account, wire, "openai"))
    if wire.scope["method"] == "POST":
        fault = met(account, "/v1/batches")
        batch = _made(account, wire, key, decode(await wire.body()))
        account.batch_room.batches[batch.id] = batch
        if fault is not None and fault.kind == "reset":  # it runs, and nobody is told
            await wire.reset()
            return
        await wire.reply(200, _encode(_shown(batch)), [JSON])
        return
    mine = [
        one for one in reversed(account.batch_room.batches.values()) if one.key == key and one.id.startswith("batch_")
    ]
    for one in mine:
        await _current(account, one)
    found, more = page(mine, parse_qs(wire.scope["query_string"].decode()), after="after")
    payload = {"object": "list", "data": [_shown(one) for one in found], "has_more": more}
    if found:
        payload |= {"first_id": found[0].id, "last_id": found[-1].id}
    await wire.reply(200, _encode(payload), [JSON])


async def batch(account: Account, wire: Wire) -> None:
    """``GET /v1/batches/{id}`` and ``POST /v1/batches/{id}/cancel``."""
    key = key_hash(api_key(account, wire, "openai"))
    _, _, rest = wire.scope["path"].partition("/v1/batches/")
    id, _, what = rest.partition("/")
    found = account.batch_room.batches.get(id)
    if found is None or found.key != key or what not in ("", "cancel"):
        raise ApiError(404, f"No batch found with id '{id}'.", param="id")
    await _current(account, found)
    if what:
        if found.ended_ms is not None:
            raise ApiError(409, f"Cannot cancel a batch with status '{found.ending}'.")
        found.cancelled_ms = account.settings.now_ms()
        await _current(account, found)
    await wire.reply(200, _encode(_shown(found)), [JSON])


def _made(account: Account, wire: Wire, key: str, body: dict[str, Any]) -> SimBatch:
    stored = account.batch_room.files.get(str(body.get("input_file_id")))
    if stored is None or stored.key != key or stored.purpose != "batch":
        raise invalid(f"No file with id {body.get('input_file_id')!r}.", param="input_file_id")
    endpoint = body.get("endpoint")
    if endpoint not in ENDPOINTS:
        raise invalid(f"Invalid endpoint {endpoint!r}.", param="endpoint")
    if body.get("completion_window") != "24h":
        raise invalid("Invalid completion_window; only '24h' is supported.", param="completion_window")
    items, problems = _items(stored.data, str(endpoint))
    now = account.settings.now_ms()
    made = SimBatch(
        id=account.next_id("batch_"),
        key=key,
        created_ms=now,
        items=items,
        headers=batch_headers(wire),
        about={"endpoint": endpoint, "input": stored.id, "metadata": body.get("metadata"), "errors": problems},
    )
    if problems:
        made.ended_ms = now
    return made


def _items(data: bytes, endpoint: str) -> tuple[list[Item], list[dict[str, Any]]]:
    items: list[Item] = []
    problems: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, raw in enumerate(data.split(b"\n"), 1):
        if not raw.strip():
            continue
        line = decoded(raw)
        wrong = ""
        if not isinstance(line, dict) or not isinstance(line.get("body"), dict):
            wrong = "invalid_json_line"
        elif not line.get("custom_id") or line["custom_id"] in seen:
            wrong = "duplicate_custom_id"
        elif line.get("method") != "POST" or line.get("url") != endpoint:
            wrong = "mismatched_endpoint"
        if wrong:
            problems.append({"code": wrong, "line": number, "message": wrong.replace("_", " "), "param": None})
        else:
            seen.add(line["custom_id"])
            items.append(Item(line["custom_id"], endpoint, _encode(line["body"])))
    if not items and not problems:
        problems.append({"code": "empty_file", "line": None, "message": "The file is empty.", "param": None})
    return ([], problems) if problems else (items, [])


async def _current(account: Account, batch: SimBatch) -> None:
    if batch.about["errors"]:
        return
    was = batch.ended_ms
    await catch_up(account, batch, lambda account, error: error_payload(error))
    if batch.ended_ms is None or was is not None:
        return
    output: list[bytes] = []
    errors: list[bytes] = []
    for item in batch.items:
        line: dict[str, Any] = {"id": account.next_id("batch_req_"), "custom_id": item.custom_id}
        if item.status:
            answer = {
                "status_code": item.status,
                "request_id": account.next_id("req_"),
                "body": msgspec.Raw(item.answer),
            }
            line |= {"response": answer, "error": None}
        else:
            code = f"batch_{batch.ending}"
            line |= {"response": None, "error": {"code": code, "message": "This request was not executed."}}
        (output if item.status == 200 else errors).append(_encode(line) + b"\n")
    for name, lines in (("output", output), ("error", errors)):
        if lines:
            id = account.next_id("file-")
            batch.about[name] = id
            account.batch_room.files[id] = StoredFile(
                id, batch.key, f"{batch.id}_{name}.jsonl", "batch_output", batch.ended_ms, b"".join(lines)
            )


def _shown(batch: SimBatch) -> dict[str, Any]:
    about = batch.about
    ended = None if batch.ended_ms is None else batch.ended_ms // 1000
    status = batch.ending or ("failed" if about["errors"] else "in_progress")
    payload = {
        "id": batch.id,
        "object": "batch",
        "endpoint": about["endpoint"],
        "errors": {"object": "list", "data": about["errors"]} if about["errors"] else None,
        "input_file_id": about["input"],
        "completion_window": "24h",
        "status": status,
        "output_file_id": about.get("output"),
        "error_file_id": about.get("error"),
        "created_at": batch.created_ms // 1000,
        "in_progress_at": batch.created_ms // 1000,
        "expires_at": (batch.created_ms + WINDOW_MS) // 1000,
        "finalizing_at": ended,
        "request_counts": {"total": len(batch.items), "completed": batch.succeeded, "failed": batch.failed},
        "metadata": about["metadata"],
    }
    for name in ("completed", "failed", "expired", "cancelled"):
        payload[f"{name}_at"] = ended if status == name else None
    payload["cancelling_at"] = None if batch.cancelled_ms is None else batch.cancelled_ms // 1000
    return payload
