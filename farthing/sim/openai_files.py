"""``/v1/files``: uploads of requests, and the output files of batches."""

import re
from typing import Any
from urllib.parse import parse_qs

import msgspec

from farthing.sim.account import Account
from farthing.sim.admission import api_key
from farthing.sim.batch_room import StoredFile
from farthing.sim.batch_run import page
from farthing.sim.errors import ApiError, invalid
from farthing.sim.http import JSON, Wire
from farthing.sim.invoice import key_hash

_encode = msgspec.json.Encoder().encode
_NAME = re.compile(rb'[; ]name="([^"]*)"')
_FILENAME = re.compile(rb'filename="([^"]*)"')


async def files(account: Account, wire: Wire) -> None:
    """``POST /v1/files`` and ``GET /v1/files``."""
    key = key_hash(api_key(account, wire, "openai"))
    if wire.scope["method"] == "POST":
        stored = _stored(account, key, wire.header(b"content-type"), await wire.body())
        account.batch_room.files[stored.id] = stored
        await wire.reply(200, _encode(shown(stored)), [JSON])
        return
    query = parse_qs(wire.scope["query_string"].decode())
    purpose = query.get("purpose", [""])[0]
    mine = [one for one in reversed(account.batch_room.files.values()) if one.key == key]
    found, more = page([one for one in mine if purpose in ("", one.purpose)], query, after="after")
    payload = {"object": "list", "data": [shown(one) for one in found], "has_more": more}
    if found:
        payload |= {"first_id": found[0].id, "last_id": found[-1].id}
    await wire.reply(200, _encode(payload), [JSON])


async def file(account: Account, wire: Wire) -> None:
    """``GET`` and ``DELETE /v1/files/{id}``, ``GET /v1/files/{id}/content``."""
    key = key_hash(api_key(account, wire, "openai"))
    _, _, rest = wire.scope["path"].partition("/v1/files/")
    id, _, what = rest.partition("/")
    stored = account.batch_room.files.get(id)
    if stored is None or stored.key != key or what not in ("", "content"):
        raise ApiError(404, f"No such File object: {id}", kind="invalid_request_error", param="id")
    if what:
        await wire.reply(200, stored.data, [(b"content-type", b"application/octet-stream")])
    elif wire.scope["method"] == "DELETE":
        del account.batch_room.files[id]
        await wire.reply(200, _encode({"id": id, "object": "file", "deleted": True}), [JSON])
    else:
        await wire.reply(200, _encode(shown(stored)), [JSON])


def shown(one: StoredFile) -> dict[str, Any]:
    """The file object."""
    return {
        "id": one.id,
        "object": "file",
        "bytes": len(one.data),
        "created_at": one.created_ms // 1000,
        "expires_at": None,
        "filename": one.name,
        "purpose": one.purpose,
        "status": "processed",
        "status_details": None,
    }


def _stored(account: Account, key: str, kind: str, body: bytes) -> StoredFile:
    parts = _parts(kind, body)
    if "file" not in parts or "purpose" not in parts:
        raise invalid("'file' and 'purpose' are required.", param="file")
    name, data = parts["file"]
    return StoredFile(
        id=account.next_id("file-"),
        key=key,
        name=name,
        purpose=parts["purpose"][1].decode(),
        created_ms=account.settings.now_ms(),
        data=data,
    )


def _parts(kind: str, body: bytes) -> dict[str, tuple[str, bytes]]:
    """(file name, bytes) of each part of a form, by the field's name."""
    _, _, boundary = kind.partition("boundary=")
    if not kind.startswith("multipart/form-data") or not boundary:
        raise invalid("Send multipart/form-data.")
    found = {}
    for part in body.split(b"--" + boundary.strip('"').encode())[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        named, file_name = _NAME.search(head), _FILENAME.search(head)
        if named is not None:
            shown_name = file_name[1].decode() if file_name else ""
            found[named[1].decode()] = (shown_name, data.removesuffix(b"\r\n"))
    return found
