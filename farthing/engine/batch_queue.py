"""Calls that can wait: kept until enough of them go together, sent as one batch, and answered when it ends.

A deferred call is priced and set aside like a request of a batch when it is taken on, so that it is refused at once
where it does not fit. Its prompt lies on the shelf until it is sent, its answer until it is pruned.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

import msgspec

from farthing.core.errors import BadRequest, FarthingError, NotFound, ProviderFailed
from farthing.core.types import Endpoint, Request
from farthing.engine.act import DEFER_HEADER
from farthing.engine.batch_asks import Caller, ask_of
from farthing.engine.batch_desk import BatchDesk
from farthing.engine.batch_holds import give_back, manifest_of, set_aside, stub_of
from farthing.engine.batch_provider import object_id
from farthing.ports.batches import Batch, DeferredCall, Group, Manifest, Share
from farthing.wire.batches import answer_of, requests_body
from farthing.wire.openai import PATHS

_LOG: Final = logging.getLogger("farthing.batches")
QUEUED_ENDPOINTS: Final = ("chat", "completions", "embeddings", "responses", "messages")
_URLS: Final = {endpoint: path for path, endpoint in PATHS.items()}
_encode: Final = msgspec.json.Encoder().encode
_LOST: Final = b'{"error":{"type":"api_error","message":"Nobody knows whether the provider got this call."}}'


class BatchQueue:
    """The queue of one installation, at one of its workers."""

    def __init__(self, desk: BatchDesk, *, size: int, age_ms: int) -> None:
        """A batch is sent once there are ``size`` calls for it, or the oldest has waited ``age_ms``."""
        self._desk = desk
        self._size = size
        self._age_ms = age_ms
        self._services = desk.services
        self._shelf = desk.shelf
        desk.answers = self._answered

    def wants(self, request: Request) -> bool:
        """The caller asks for the queue."""
        return any(name == DEFER_HEADER and value.strip().lower() == b"batch" for name, value in request.headers)

    async def take(self, caller: Caller, request: Request) -> DeferredCall:
        """Keep a call for later. Raises ``BadRequest``, ``BudgetExceeded``, ``StoreFailed``."""
        endpoint = request.view.endpoint
        if endpoint not in QUEUED_ENDPOINTS:
            raise BadRequest("Calls of this endpoint cannot be deferred.")
        services, able = self._services, self._desk.provider.able
        id, now_ms = f"dfr_{request.id}", request.received_at_ms
        ask, body = await asyncio.to_thread(
            ask_of, services, caller, request.dialect, endpoint, id, request.body, able, now_ms
        )
        manifest = manifest_of(
            services, [ask], scope=request.scope, dialect=request.dialect, endpoint=endpoint, at_ms=now_ms
        )
        (group,), share = manifest.groups, manifest.shares[id]
        call = DeferredCall(
            id=id,
            owner=caller.owner,
            provider=ask.provider,
            dialect=request.dialect,
            endpoint=endpoint,
            created_ms=now_ms,
            body=body,
            group=group,
            share=share,
        )
        waits = Batch(id=id, provider=call.provider, dialect=call.dialect, owner=call.owner, created_ms=now_ms)
        stub = stub_of(services, f"{id}-held", waits, manifest, group, [share])
        await set_aside(services, id, [group], stub)
        try:
            await asyncio.to_thread(self._shelf.defer, call)
        except FarthingError:
            await self._release(call)
            raise
        return call

    async def find(self, owner: str, id: str) -> DeferredCall:
        """A call of this owner. Raises :class:`NotFound`."""
        found = await asyncio.to_thread(self._shelf.deferred, owner, id)
        if found is None:
            raise NotFound(f"There is no deferred call '{id[:100]}'.", param="id")
        return found

    async def cancel(self, owner: str, id: str) -> bool:
        """Take a call back that was not sent yet; False: too late."""
        call = await self.find(owner, id)
        if not await asyncio.to_thread(self._shelf.cancel, owner, id):
            return False
        await self._release(call)
        return True

    async def gather(self) -> int:
        """Send the batches that are ready; how many calls."""
        sent = 0
        while True:
            now_ms = self._services.clock.now_ms()
            found = await asyncio.to_thread(
                self._shelf.gather, self._manifest_of, now_ms=now_ms, size=self._size, age_ms=self._age_ms
            )
            if found is None:
                return sent
            batch, calls = found
            if not await self._send(batch, calls):
                return sent
            sent += len(calls)

    def _manifest_of(self, calls: tuple[DeferredCall, ...]) -> bytes:
        return _encode(_manifest(self._services.policy_ref, calls))

    async def _send(self, batch: Batch, calls: tuple[DeferredCall, ...]) -> bool:
        """False: the provider cannot take anything now."""
        manifest = _manifest(self._services.policy_ref, calls)
        try:
            await self._desk.send(batch, manifest, lambda: self._ask(batch, calls))
        except ProviderFailed as error:
            _LOG.warning("a batch of %d deferred calls could not be sent: %s", len(calls), error)
            if error.sent and error.status is None:
                await self._fail(calls, 504, _LOST, release=False)
            elif error.status is not None and 400 <= error.status < 500 and error.status not in (408, 409, 429):
                await self._fail(calls, error.status, error.body, release=True)
                return True
            else:
                await asyncio.to_thread(self._shelf.put_back, batch.id)
            return False
        return True

    async def _ask(self, batch: Batch, calls: Iterable[DeferredCall]) -> bytes:
        provider = self._desk.provider
        if batch.dialect == "anthropic":
            parts = [_encode({"custom_id": call.id, "params": msgspec.Raw(call.body)}) for call in calls]
            return await provider.ask(batch.provider, "POST", "/messages/batches", body=requests_body(parts))
        url = ""
        lines = []
        for call in calls:
            url = _URLS[call.endpoint]
            line = {"custom_id": call.id, "method": "POST", "url": url, "body": msgspec.Raw(call.body)}
            lines.append(_encode(line) + b"\n")
        data = b"".join(lines)
        try:
            shown = await provider.upload(batch.provider, (("purpose", "batch"),), f"{batch.id}.jsonl", data)
        except ProviderFailed as error:
            error.sent = False  # an upload runs nothing
            raise
        asked = {"input_file_id": object_id(shown, batch.provider), "endpoint": url, "completion_window": "24h"}
        return await provider.ask(batch.provider, "POST", "/batches", body=_encode(asked))

    async def _answered(self, batch: Batch, manifest: Manifest, lines: Iterable[bytes]) -> None:
        """Keep the answers; whoever was not answered is told so."""

        def keep() -> None:
            left = set(manifest.shares)
            for raw in lines:
                if raw.strip():
                    id, status, body = answer_of(raw)
                    left.discard(id)
                    self._shelf.answer(id, "done" if status < 400 else "failed", status, body)
            for id in left:
                self._shelf.answer(id, "failed", 504, _LOST)

        await asyncio.to_thread(keep)

    async def lost(self, batch: Batch, manifest: Manifest) -> None:
        """Nobody knows what became of a batch of the queue."""

        def keep() -> None:
            for id in manifest.shares:
                self._shelf.answer(id, "failed", 504, _LOST)

        await asyncio.to_thread(keep)

    async def _fail(self, calls: Iterable[DeferredCall], status: int, body: bytes, *, release: bool) -> None:
        for call in calls:
            if await asyncio.to_thread(self._shelf.answer, call.id, "failed", status, body) and release:
                await self._release(call)

    async def _release(self, call: DeferredCall) -> None:
        await give_back(self._services, f"{call.id}-void", [(call.group, [call.share])])


def _manifest(policy_ref: str, calls: Iterable[DeferredCall]) -> Manifest:
    groups: list[Group] = []
    shares: dict[str, Share] = {}
    endpoint: Endpoint = "chat"
    for call in calls:
        endpoint = call.endpoint
        shares[call.id] = Share(len(groups), call.share.usd, call.share.input_tokens, call.share.output_tokens)
        groups.append(call.group)
    return Manifest(endpoint=endpoint, policy_ref=policy_ref, groups=tuple(groups), shares=shares)
