"""Batches of callers: taken on, watched, and booked when they end.

Whoever looks at a batch may find that it has ended: a worker on its round, or its caller. Booking is done by one of
them, who holds the batch's lease on the shelf; each answer is booked under an id of its own, so that a lease that
lapses in the middle of it does no harm.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final
from uuid import uuid4
from weakref import WeakValueDictionary

import msgspec

from farthing.core.errors import BadRequest, FarthingError, NotFound, ProviderFailed, StoreFailed
from farthing.core.types import Dialect, Endpoint, LedgerEntry
from farthing.engine.batch_asks import ENDPOINTS, Caller, read_lines, read_requests
from farthing.engine.batch_holds import give_back, manifest_of, set_aside, stub_of, unknown_entries
from farthing.engine.batch_provider import BatchProvider, object_id
from farthing.engine.batch_results import book_results
from farthing.engine.services import Services
from farthing.ports.batches import Ask, Batch, BatchFile, BatchShelf, Manifest, Share
from farthing.ports.books import Settlement
from farthing.wire.batches import Seen, id_of, requests_body, seen

_LOG: Final = logging.getLogger("farthing.batches")
LEASE_MS: Final = 120_000
_FIRST_LOOK_MS: Final = 1_000
_encode: Final = msgspec.json.Encoder().encode
_asks: Final = msgspec.json.Decoder(tuple[Endpoint, list[Ask]])
_manifest: Final = msgspec.json.Decoder(Manifest)
_TOP: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])

Answers = Callable[[Batch, Manifest, Iterable[bytes]], Awaitable[None]]
"""Told the results of a batch that ends, before its lease does; for calls that wait for theirs."""


class BatchDesk:
    """Takes batches on and books them. One per process."""

    def __init__(
        self,
        services: Services,
        shelf: BatchShelf,
        provider: BatchProvider,
        *,
        holder: str,
        poll_ms: int,
    ) -> None:
        """``holder`` names this process among those that share the shelf."""
        self.services = services
        self.shelf = shelf
        self.provider = provider
        self.answers: Answers | None = None
        self._finishing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._holder = holder
        self._poll_ms = poll_ms

    # -- files

    async def upload(self, caller: Caller, name: str, data: bytes, extra: tuple[tuple[str, str], ...]) -> bytes:
        """OpenAI's file of requests: read, edited where policy says so, and sent on; the provider's object."""
        now_ms = self.services.clock.now_ms()
        able = self.provider.able
        taken = await asyncio.to_thread(read_lines, self.services, caller, data, able, now_ms)
        fields = (("purpose", "batch"), *extra)
        shown = await self.provider.upload(taken.provider, fields, name, b"\n".join(taken.parts) + b"\n")
        file = BatchFile(
            id=id_of(shown),
            provider=taken.provider,
            owner=caller.owner,
            purpose="batch",
            created_ms=now_ms,
            shown=shown,
        )
        asks = await asyncio.to_thread(_encode, (taken.endpoint, taken.asks))
        await asyncio.to_thread(self.shelf.add_file, file, asks)
        return shown

    async def file(self, owner: str, id: str) -> BatchFile:
        """A file of this owner. Raises :class:`NotFound`."""
        found = await asyncio.to_thread(self.shelf.file, owner, id)
        if found is None:
            raise NotFound(f"There is no file '{id[:100]}'.", param="id")
        return found

    async def content(self, owner: str, id: str) -> bytes:
        """A file's bytes; results are booked before they are given."""
        file = await self.file(owner, id)
        await self._look_at_batch_of(file)
        return await self.provider.ask(file.provider, "GET", f"/files/{file.id}/content")

    async def delete_file(self, owner: str, id: str) -> bytes:
        """Results are booked before they go."""
        file = await self.file(owner, id)
        await self._look_at_batch_of(file)
        shown = await self.provider.ask(file.provider, "DELETE", f"/files/{file.id}")
        await asyncio.to_thread(self.shelf.forget_file, file.id)
        return shown

    async def _look_at_batch_of(self, file: BatchFile) -> None:
        batch = await asyncio.to_thread(self.shelf.by_id, file.batch) if file.batch else None
        if batch is not None:
            await self.look(batch)

    # -- taking on

    async def create_from_file(self, caller: Caller, body: bytes) -> bytes:
        """OpenAI: a batch of an uploaded file; the provider's object."""
        try:
            top = _TOP.decode(body)
            id, url = (msgspec.json.decode(top[name], type=str) for name in ("input_file_id", "endpoint"))
        except (msgspec.DecodeError, KeyError):
            raise BadRequest("The body needs 'input_file_id' and 'endpoint', both texts.") from None
        file = await self.file(caller.owner, id)
        said = await asyncio.to_thread(self.shelf.asks, file.id)
        if not said:
            raise BadRequest(f"The file '{id[:100]}' holds no requests.", param="input_file_id")
        endpoint, asks = await asyncio.to_thread(_asks.decode, said)
        if ENDPOINTS.get(url) != endpoint:
            raise BadRequest(f"The file is for another endpoint than '{url[:80]}'.", param="endpoint")
        for model in {ask.model for ask in asks}:
            caller.may(model)
        return await self._begin(
            caller,
            "openai",
            file.provider,
            await self._manifest_of(caller, "openai", endpoint, asks),
            lambda: self.provider.ask(file.provider, "POST", "/batches", body=body),
        )

    async def create_from_requests(self, caller: Caller, body: bytes, beta: tuple[bytes, ...]) -> bytes:
        """Anthropic: a batch of the requests in a body; the provider's object."""
        now_ms, able = self.services.clock.now_ms(), self.provider.able
        taken = await asyncio.to_thread(read_requests, self.services, caller, body, able, now_ms)
        sent = await asyncio.to_thread(lambda: requests_body(taken.parts, _TOP.decode(body)))
        provider = taken.provider
        return await self._begin(
            caller,
            "anthropic",
            provider,
            await self._manifest_of(caller, "anthropic", taken.endpoint, taken.asks),
            lambda: self.provider.ask(provider, "POST", "/messages/batches", body=sent, beta=beta),
        )

    async def _manifest_of(self, caller: Caller, dialect: Dialect, endpoint: Endpoint, asks: list[Ask]) -> Manifest:
        now_ms = self.services.clock.now_ms()
        return await asyncio.to_thread(
            lambda: manifest_of(
                self.services, asks, scope=caller.scope, dialect=dialect, endpoint=endpoint, at_ms=now_ms
            )
        )

    async def _begin(
        self,
        caller: Caller,
        dialect: Dialect,
        provider: str,
        manifest: Manifest,
        send: Callable[[], Awaitable[bytes]],
    ) -> bytes:
        now_ms = self.services.clock.now_ms()
        batch = Batch(
            id=f"fb_{uuid4().hex}", provider=provider, dialect=dialect, owner=caller.owner, created_ms=now_ms
        )
        await set_aside(self.services, batch.id, manifest.groups, self._stub(batch, manifest))
        try:
            await asyncio.to_thread(self.shelf.begin, batch, _encode(manifest))
        except FarthingError:
            await self._void(batch, manifest)
            raise
        return await asyncio.shield(self.send(batch, manifest, send))

    def _stub(self, batch: Batch, manifest: Manifest) -> LedgerEntry:
        shares = manifest.shares.values()
        return stub_of(self.services, f"{batch.id}-held", batch, manifest, manifest.groups[0], shares)

    async def send(self, batch: Batch, manifest: Manifest, ask: Callable[[], Awaitable[bytes]]) -> bytes:
        """Give a batch that is begun to its provider; the provider's object."""
        try:
            shown = await ask()
            upstream_id = object_id(shown, batch.provider)
        except ProviderFailed as error:
            self.services.telemetry.attempt_failed(batch.provider, error.code)
            if error.sent and error.status is None:
                await self.lose(batch, manifest, error.code)
            else:
                await asyncio.to_thread(self.shelf.settled, batch.id, "failed")
                if batch.kind == "caller":
                    await self._void(batch, manifest)
            raise
        due_ms = self.services.clock.now_ms() + min(_FIRST_LOOK_MS, self._poll_ms)
        await asyncio.to_thread(lambda: self.shelf.sent(batch.id, upstream_id, shown, due_ms=due_ms))
        return shown

    async def _void(self, batch: Batch, manifest: Manifest) -> None:
        """It never ran: all that was set aside is given back."""
        shares = manifest.shares.values()
        groups = [
            (group, [share for share in shares if share.group == place])
            for place, group in enumerate(manifest.groups)
        ]
        await give_back(self.services, f"{batch.id}-void", groups)

    async def lose(self, batch: Batch, manifest: Manifest, why: str) -> None:
        """Nobody knows what became of it: booked at its ceiling, for a reconciliation to correct."""
        await asyncio.to_thread(self.shelf.settled, batch.id, "lost")
        entries = unknown_entries(self.services, batch, manifest, why)
        settlement = Settlement(reservation=None, entries=entries)
        try:
            await self.services.books.settle(settlement, now_ms=self.services.hold_ms())
        except StoreFailed as error:
            self.services.telemetry.store_failed(error.code)
            self.services.background.book_later(settlement)

    # -- while it runs

    async def find(self, owner: str, upstream_id: str, dialect: Dialect) -> Batch:
        """A batch of this owner. Raises :class:`NotFound`."""
        found = await asyncio.to_thread(self.shelf.batch, owner, upstream_id)
        if found is None or found.dialect != dialect:
            raise NotFound(f"There is no batch '{upstream_id[:100]}'.", param="id")
        return found

    async def look(self, batch: Batch) -> bytes:
        """The provider's object as it is now; a batch that has ended is booked before this returns, by somebody."""
        if batch.state == "ended":
            return batch.shown
        shown = await self.provider.ask(batch.provider, "GET", _path(batch))
        await self._saw(batch, shown)
        if self._said(batch, shown).ended:
            await self._finish(batch, shown)
        return shown

    async def cancel(self, batch: Batch) -> bytes:
        """Ask the provider to stop; its object."""
        shown = await self.provider.ask(batch.provider, "POST", f"{_path(batch)}/cancel")
        await self._saw(batch, shown)
        if self._said(batch, shown).ended:
            await self._finish(batch, shown)
        return shown

    async def results(self, batch: Batch) -> bytes:
        """Anthropic: the results; booked before they are given."""
        await self.look(batch)
        return await self.provider.ask(batch.provider, "GET", f"{_path(batch)}/results")

    async def delete(self, batch: Batch) -> bytes:
        """Anthropic: booked before it goes."""
        await self.look(batch)
        shown = await self.provider.ask(batch.provider, "DELETE", _path(batch))
        await asyncio.to_thread(self.shelf.forget, batch.id)
        return shown

    async def round(self, most: int = 20) -> None:
        """Look at the batches whose time has come, one after the other."""
        now_ms = self.services.clock.now_ms()
        for batch in await asyncio.to_thread(
            lambda: self.shelf.due(self._holder, now_ms=now_ms, lease_ms=LEASE_MS, most=most)
        ):
            try:
                await self.look(batch)
            except FarthingError as error:
                _LOG.warning("batch %s cannot be looked at: %s", batch.upstream_id, error)
            due_ms = self.services.clock.now_ms() + self._poll_ms
            await asyncio.to_thread(self.shelf.leave, batch.id, self._holder, due_ms=due_ms)

    async def _saw(self, batch: Batch, shown: bytes) -> None:
        """Remember what the provider says, and whose its results are."""
        found = self._said(batch, shown)

        def keep() -> None:
            self.shelf.saw(batch.id, shown)
            for id in found.results if batch.kind == "caller" else ():
                self.shelf.add_file(
                    BatchFile(
                        id=id,
                        provider=batch.provider,
                        owner=batch.owner,
                        purpose="batch_output",
                        created_ms=found.ended_ms or batch.created_ms,
                        shown=b"",
                        batch=batch.id,
                    )
                )

        await asyncio.to_thread(keep)

    def _said(self, batch: Batch, shown: bytes) -> Seen:
        try:
            return seen(batch.dialect, shown)
        except ValueError:
            raise ProviderFailed(f"{batch.provider} answered something that is no batch.") from None

    async def _finish(self, batch: Batch, shown: bytes) -> None:
        """Book the results, give back what is left. Whoever finds another worker at it leaves it to them."""
        lock = self._finishing.get(batch.id)
        if lock is None:
            lock = self._finishing[batch.id] = asyncio.Lock()
        async with lock:
            now_ms = self.services.clock.now_ms()
            if not await asyncio.to_thread(
                self.shelf.claim, batch.id, self._holder, now_ms=now_ms, lease_ms=LEASE_MS
            ):
                return
            manifest = _manifest.decode(await asyncio.to_thread(self.shelf.manifest, batch.id))
            said = self._said(batch, shown)
            lines = await self._lines(batch, said)
            if lines is None:
                if await asyncio.to_thread(self.shelf.end, batch.id, self._holder):
                    await self.lose(batch, manifest, "results_gone")
                return
            booked_ms = said.ended_ms or batch.created_ms
            done = await book_results(self.services, batch, manifest, lines, booked_ms=booked_ms)
            if self.answers is not None and batch.kind == "queue":
                await self.answers(batch, manifest, lines)
            if await asyncio.to_thread(self.shelf.end, batch.id, self._holder):
                await self._rest(batch, manifest, done)

    async def _rest(self, batch: Batch, manifest: Manifest, done: set[str]) -> None:
        """Requests that cost nothing keep nothing set aside."""
        left: list[list[Share]] = [[] for _ in manifest.groups]
        for custom_id, share in manifest.shares.items():
            if custom_id not in done:
                left[share.group].append(share)
        await give_back(self.services, f"{batch.id}-rest", zip(manifest.groups, left, strict=True))

    async def _lines(self, batch: Batch, said: Seen) -> list[bytes] | None:
        """The lines of all results; None: the provider does not have them any more."""
        paths = [f"{_path(batch)}/results"] if batch.dialect == "anthropic" else []
        paths += [f"/files/{id}/content" for id in said.results]
        lines: list[bytes] = []
        for path in paths:
            try:
                data = await self.provider.ask(batch.provider, "GET", path)
            except ProviderFailed as error:
                if error.status in (404, 410):
                    return None
                raise
            lines += data.split(b"\n")
        return lines


def _path(batch: Batch) -> str:
    return f"{'/messages/batches' if batch.dialect == 'anthropic' else '/batches'}/{batch.upstream_id}"
