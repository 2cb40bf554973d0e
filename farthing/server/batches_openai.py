"""``/v1/files`` and ``/v1/batches``: OpenAI's batch API, metered."""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request as HttpAsk
from starlette.responses import Response
from starlette.routing import Route

from farthing.core.errors import BadRequest, TooLong
from farthing.ports.batches import Batch, BatchFile
from farthing.server.batch_answers import BatchRoom, json_answer, page_of, spoken, whole_body
from farthing.wire import body as bodies

_BODY_MAX: Final = 1024 * 1024
_FILES: Final = ("batch", "batch_output")


class _Create(msgspec.Struct):
    metadata: msgspec.Raw = bodies.NULL


_CREATE: Final = msgspec.json.Decoder(_Create)


class OpenAIBatches:
    """The routes."""

    def __init__(self, room: BatchRoom) -> None:
        self._room = room

    def routes(self) -> list[Route]:
        """For the gateway's application."""
        table = (
            ("/v1/files", self.upload, "POST"),
            ("/v1/files", self.files, "GET"),
            ("/v1/files/{id}", self.file, "GET"),
            ("/v1/files/{id}", self.delete, "DELETE"),
            ("/v1/files/{id}/content", self.content, "GET"),
            ("/v1/batches", self.create, "POST"),
            ("/v1/batches", self.batches, "GET"),
            ("/v1/batches/{id}", self.batch, "GET"),
            ("/v1/batches/{id}/cancel", self.cancel, "POST"),
        )
        return [Route(path, spoken("openai", handler), methods=[method]) for path, handler, method in table]

    async def upload(self, ask: HttpAsk) -> Response:
        """A file of requests; only ``purpose=batch`` is taken."""
        room = self._room
        caller = room.caller(ask)
        size = ask.headers.get("content-length", "")
        if not size.isdigit() or int(size) > room.bytes_max + 65_536:
            raise TooLong(
                f"An upload must say its content-length, at most {room.bytes_max:,} bytes.",
                hint="Send smaller batches, or raise [batches] file_bytes_max in farthing.toml.",
            )
        try:
            async with ask.form(max_files=1, max_fields=20) as form:
                file = form.get("file")
                if form.get("purpose") != "batch":
                    raise BadRequest("'purpose' must be 'batch': other files do not pass.", param="purpose")
                if not isinstance(file, UploadFile):
                    raise BadRequest("The form has no 'file'.", param="file")
                data = await file.read()
                extra = tuple(
                    (name, value)
                    for name, value in form.multi_items()
                    if isinstance(value, str) and name.startswith("expires_after")
                )
                name = file.filename or "batch.jsonl"
        except (HTTPException, MultiPartException, FormParserError) as error:
            raise BadRequest(f"The body is no multipart/form-data: {error}.") from None
        return json_answer(await room.desk.upload(caller, name, data, extra))

    async def files(self, ask: HttpAsk) -> Response:
        """The files of this key."""
        owner = self._room.owner(ask)
        found = await asyncio.to_thread(self._room.desk.shelf.files, owner)
        purpose = ask.query_params.get("purpose", "")
        found = tuple(one for one in found if purpose in ("", one.purpose))
        return await self._page(ask, found, [one.id for one in found])

    async def file(self, ask: HttpAsk) -> Response:
        file = await self._room.desk.file(self._room.owner(ask), ask.path_params["id"])
        return json_answer(await self._room.desk.provider.ask(file.provider, "GET", f"/files/{file.id}"))

    async def content(self, ask: HttpAsk) -> Response:
        """A file's bytes; of results, once they are booked."""
        data = await self._room.desk.content(self._room.owner(ask), ask.path_params["id"])
        return Response(data, media_type="application/octet-stream")

    async def delete(self, ask: HttpAsk) -> Response:
        return json_answer(await self._room.desk.delete_file(self._room.owner(ask), ask.path_params["id"]))

    async def create(self, ask: HttpAsk) -> Response:
        """A batch of an uploaded file, held at its ceiling."""
        body = await whole_body(ask, _BODY_MAX)
        caller = self._room.caller(ask, bodies.decode(_CREATE, body).metadata)
        return json_answer(await self._room.desk.create_from_file(caller, body))

    async def batches(self, ask: HttpAsk) -> Response:
        """The batches of this key, as last seen."""
        owner = self._room.owner(ask)
        found = await asyncio.to_thread(self._room.desk.shelf.batches, owner, "openai")
        return await self._page(ask, found, [one.upstream_id for one in found])

    async def batch(self, ask: HttpAsk) -> Response:
        desk = self._room.desk
        return json_answer(await desk.look(await desk.find(self._room.owner(ask), ask.path_params["id"], "openai")))

    async def cancel(self, ask: HttpAsk) -> Response:
        desk = self._room.desk
        found = await desk.find(self._room.owner(ask), ask.path_params["id"], "openai")
        return json_answer(await desk.cancel(found))

    async def _page(self, ask: HttpAsk, found: Sequence[Batch | BatchFile], ids: list[str]) -> Response:
        first, last = page_of(ask.url.query, ids, after="after")
        shown = [await self._shown(one) for one in found[first:last]]
        page: dict[str, object] = {"object": "list", "data": shown, "has_more": last < len(ids)}
        if shown:
            page |= {"first_id": ids[first], "last_id": ids[last - 1]}
        return json_answer(msgspec.json.encode(page))

    async def _shown(self, one: Batch | BatchFile) -> msgspec.Raw:
        """The provider's object; of an output file it is asked for."""
        if one.shown or isinstance(one, Batch):
            return msgspec.Raw(one.shown)
        return msgspec.Raw(await self._room.desk.provider.ask(one.provider, "GET", f"/files/{one.id}"))
