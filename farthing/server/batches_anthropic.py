"""``/v1/messages/batches``: Anthropic's batch API, metered."""

import asyncio
from typing import Final

import msgspec
from starlette.requests import Request as HttpAsk
from starlette.responses import Response
from starlette.routing import Route

from farthing.server.batch_answers import BatchRoom, json_answer, page_of, spoken, whole_body

PATH: Final = "/v1/messages/batches"
_RAW: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class AnthropicBatches:
    """The routes."""

    def __init__(self, room: BatchRoom) -> None:
        self._room = room

    def routes(self) -> list[Route]:
        """For the gateway's application."""
        table = (
            (PATH, self.create, "POST"),
            (PATH, self.batches, "GET"),
            (PATH + "/{id}", self.batch, "GET"),
            (PATH + "/{id}", self.delete, "DELETE"),
            (PATH + "/{id}/results", self.results, "GET"),
            (PATH + "/{id}/cancel", self.cancel, "POST"),
        )
        return [Route(path, spoken("anthropic", handler), methods=[method]) for path, handler, method in table]

    async def create(self, ask: HttpAsk) -> Response:
        """A batch of the requests in the body, held at its ceiling."""
        caller = self._room.caller(ask)
        body = await whole_body(ask, self._room.bytes_max)
        beta = tuple(value for name, value in ask.headers.raw if name == b"anthropic-beta")
        return self._answer(ask, await self._room.desk.create_from_requests(caller, body, beta))

    async def batches(self, ask: HttpAsk) -> Response:
        """The batches of this key, as last seen."""
        owner = self._room.owner(ask)
        found = await asyncio.to_thread(self._room.desk.shelf.batches, owner, "anthropic")
        ids = [one.upstream_id for one in found]
        first, last = page_of(ask.url.query, ids, after="after_id", before="before_id")
        before = bool(ask.query_params.get("before_id")) and not ask.query_params.get("after_id")
        page = {
            "data": [msgspec.Raw(self._here(ask, one.shown)) for one in found[first:last]],
            "has_more": first > 0 if before else last < len(ids),
            "first_id": ids[first] if first < last else None,
            "last_id": ids[last - 1] if first < last else None,
        }
        return json_answer(msgspec.json.encode(page))

    async def batch(self, ask: HttpAsk) -> Response:
        desk = self._room.desk
        found = await desk.find(self._room.owner(ask), ask.path_params["id"], "anthropic")
        return self._answer(ask, await desk.look(found))

    async def results(self, ask: HttpAsk) -> Response:
        """The results, once they are booked."""
        desk = self._room.desk
        found = await desk.find(self._room.owner(ask), ask.path_params["id"], "anthropic")
        return Response(await desk.results(found), media_type="application/x-jsonl")

    async def cancel(self, ask: HttpAsk) -> Response:
        desk = self._room.desk
        found = await desk.find(self._room.owner(ask), ask.path_params["id"], "anthropic")
        return self._answer(ask, await desk.cancel(found))

    async def delete(self, ask: HttpAsk) -> Response:
        desk = self._room.desk
        found = await desk.find(self._room.owner(ask), ask.path_params["id"], "anthropic")
        return json_answer(await desk.delete(found))

    def _answer(self, ask: HttpAsk, shown: bytes) -> Response:
        return json_answer(self._here(ask, shown))

    def _here(self, ask: HttpAsk, shown: bytes) -> bytes:
        """The object with its results at this gateway: clients go where ``results_url`` says, with their key."""
        fields = _RAW.decode(shown)
        if bytes(fields.get("results_url", msgspec.Raw(b"null"))) == b"null":
            return shown
        id = msgspec.json.decode(fields["id"], type=str)
        url = f"{ask.url.scheme}://{ask.headers.get('host', ask.url.netloc)}{PATH}/{id}/results"
        fields["results_url"] = msgspec.Raw(msgspec.json.encode(url))
        return msgspec.json.encode(fields)
