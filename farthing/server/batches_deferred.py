"""``/api/v1/deferred``: calls that wait for a batch, by the id that their caller was given."""

from typing import Final

import msgspec
from starlette.requests import Request as HttpAsk
from starlette.responses import Response
from starlette.routing import Route

from farthing.core.errors import BadRequest, Conflict
from farthing.core.types import Request
from farthing.engine.batch_asks import Caller
from farthing.engine.batch_queue import BatchQueue
from farthing.ports.batches import DeferredCall
from farthing.ports.reply import Reply
from farthing.server.auth import Doorman, check_model, secret_of
from farthing.server.batch_answers import BatchRoom, json_answer, spoken

PATH: Final = "/api/v1/deferred"
_JSON: Final = (b"content-type", b"application/json")
_STATES: Final = {"queued": "queued", "sent": "in_batch"}


class DeferredApi:
    """The routes, and what accepts a call."""

    def __init__(self, room: BatchRoom) -> None:
        self._room = room

    def routes(self) -> list[Route]:
        """For the gateway's application."""
        return [
            Route(PATH + "/{id}", spoken("openai", self.show), methods=["GET"]),
            Route(PATH + "/{id}", spoken("openai", self.cancel), methods=["DELETE"]),
        ]

    async def show(self, ask: HttpAsk) -> Response:
        """Where the call stands, with its answer once it is there."""
        call = await self._queue().find(self._room.owner(ask), ask.path_params["id"])
        return json_answer(shown(call))

    async def cancel(self, ask: HttpAsk) -> Response:
        """Take a call back that is still queued."""
        owner, id = self._room.owner(ask), ask.path_params["id"]
        if not await self._queue().cancel(owner, id):
            raise Conflict(
                "The call is in a batch already, or has its answer.", hint="Its answer comes all the same."
            )
        return json_answer(shown(await self._queue().find(owner, id)))

    def _queue(self) -> BatchQueue:
        if self._room.queue is None:
            raise BadRequest(
                "This gateway defers no calls.", hint="Set queue = true under [batches] in farthing.toml."
            )
        return self._room.queue


async def accept(queue: BatchQueue, doorman: Doorman, request: Request, reply: Reply) -> None:
    """Keep a call for later and say so: 202, with where to ask for its answer."""
    record = doorman.key(secret_of(list(request.headers)))
    caller = Caller(owner=record.id, scope=request.scope, may=lambda model: check_model(record, model))
    call = await queue.take(caller, request)
    where = f"{PATH}/{call.id}".encode()
    headers = [_JSON, (b"location", where), (b"x-farthing-request-id", request.id.encode())]
    await reply.whole(202, headers, shown(call))


def shown(call: DeferredCall) -> bytes:
    """A deferred call for its caller."""
    found: dict[str, object] = {
        "id": call.id,
        "object": "deferred_call",
        "status": _STATES.get(call.state, call.state),
        "created_at": call.created_ms // 1000,
        "model": call.group.model,
        "response": None,
    }
    if call.state in ("done", "failed"):
        found["response"] = {"status_code": call.status, "body": _body(call.answer)}
    return msgspec.json.encode(found)


def _body(answer: bytes) -> object:
    try:
        msgspec.json.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return answer.decode("utf-8", "replace")
    return msgspec.Raw(answer)
