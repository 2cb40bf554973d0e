"""What both batch APIs share: lines that are answered in order as time goes by, at the batch tier's prices.

Nothing runs in the background: whoever looks at a batch first lets it catch up with the clock, so a run is the same
whenever it is looked at. After ``batch_ms`` all lines are answered; one that is cancelled, or that is not done within
a day, has answered the share of its lines that its time allowed.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from farthing.sim.account import Account
from farthing.sim.batch_room import Item, SimBatch
from farthing.sim.errors import ApiError, ConnectionDropped
from farthing.sim.faults import Fault
from farthing.sim.http import Message, Wire

WINDOW_MS = 86_400_000
_AUTH = (b"authorization", b"x-api-key", b"anthropic-version", b"anthropic-beta")
Failure = Callable[[Account, ApiError], bytes]


def batch_headers(wire: Wire) -> list[tuple[bytes, bytes]]:
    """The headers with which each item is asked later."""
    kept = [(name, wire.headers[name]) for name in _AUTH if name in wire.headers]
    return [*kept, (b"x-sim-tier", b"batch")]


def met(account: Account, path: str) -> Fault | None:
    """The fault that making a batch meets: a status is raised at once, others are the caller's to act out."""
    fault = account.faults.pick("", path, model="", endpoint=path, stream=False)
    if fault is not None and fault.status:
        raise fault.refusal()
    return fault


async def catch_up(account: Account, batch: SimBatch, failure: Failure) -> None:
    """Answer what is due by the clock, and end the batch when its time has come."""
    if batch.ended_ms is not None:
        return
    now, takes = account.settings.now_ms(), account.settings.batch_ms
    ends, ending = batch.created_ms + takes, "completed"
    if takes > WINDOW_MS:
        ends, ending = batch.created_ms + WINDOW_MS, "expired"
    if batch.cancelled_ms is not None and batch.cancelled_ms < ends:
        ends, ending = batch.cancelled_ms, "cancelled"
    spent = min(now, ends) - batch.created_ms
    due = len(batch.items) if spent >= takes else len(batch.items) * spent // takes
    for item in batch.items[:due]:
        if not item.status:
            await _answer(account, item, batch.headers, failure)
    if now >= ends:
        batch.ended_ms = ends
        batch.ending = ending  # type: ignore[assignment]  # one of its literals, by the lines above


async def _answer(account: Account, item: Item, headers: list[tuple[bytes, bytes]], failure: Failure) -> None:
    """Ask the account's own endpoint, as if the item had come over a connection."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": item.body}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": item.path, "query_string": b"", "headers": headers}
    try:
        await account.endpoints[("POST", item.path)](account, Wire(scope, receive, send))
    except ApiError as error:
        item.status, item.answer = error.status, failure(account, error)
        return
    except ConnectionDropped:
        item.status, item.answer = 500, failure(account, ApiError(500, "Internal error", kind="api_error"))
        return
    item.status = sent[0]["status"]
    item.answer = b"".join(message.get("body", b"") for message in sent[1:])


def page(
    found: list[Any], wire_query: dict[str, list[str]], *, after: str, before: str = ""
) -> tuple[list[Any], bool]:
    """(one page of objects with an ``id``, newest first, whether there are more)."""
    limit = int(wire_query.get("limit", ["20"])[0])
    cursor = wire_query.get(after, [""])[0]
    if cursor:
        ids = [one.id for one in found]
        found = found[ids.index(cursor) + 1 :] if cursor in ids else []
    elif before and wire_query.get(before):
        ids = [one.id for one in found]
        upto = ids.index(wire_query[before][0]) if wire_query[before][0] in ids else 0
        return found[max(0, upto - limit) : upto], upto > limit
    return found[:limit], len(found) > limit


def decoded(raw: bytes) -> Any:
    """JSON, or None."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
