"""From an upstream's answer to the caller: read or streamed, metered on the way, booked before its last byte."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from functools import lru_cache
from typing import Final, cast

import msgspec

from farthing.core.errors import ProviderFailed
from farthing.core.money import format_usd
from farthing.core.types import Usage, UsagePart
from farthing.core.units import is_input, is_output
from farthing.engine.call import FREE_ENDPOINTS, Attempt, Call
from farthing.engine.record import Ending, tokens_of
from farthing.engine.translating import FRAMES, ID_HEADERS
from farthing.ports.provider import HttpReply, PushingReply, ReadyReply
from farthing.ports.reply import Headers, PromptReply, Reply
from farthing.wire.body import answer_text
from farthing.wire.tap import CONVERSE_TERMINALS, MESSAGES_TERMINALS, OPENAI_TERMINALS, RESPONSES_TERMINALS, StreamTap
from farthing.wire.usage import SseMeter

_DROPPED = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"set-cookie",
     b"alt-svc", b"trailer", b"upgrade", b"proxy-authenticate"}
)  # fmt: skip


class _Passing(dict[bytes, bool]):
    """Whether a provider's header is given to the caller, by name; names of late are remembered."""

    def __missing__(self, name: bytes) -> bool:
        if len(self) >= 1_024:
            self.clear()
        passes = self[name] = name not in _DROPPED and not name.startswith(b"x-farthing")
        return passes


_PASSES: Final = _Passing()
TERMINALS = {
    "chat": OPENAI_TERMINALS,
    "completions": OPENAI_TERMINALS,
    "responses": RESPONSES_TERMINALS,
    "messages": MESSAGES_TERMINALS,
    "generate": (),  # Gemini's streams just end
    "converse": CONVERSE_TERMINALS,
}
"""The last events of a stream, by endpoint."""
_NO_CONTENT = 204
_EVENTS = (b"text/event-stream", FRAMES)
_KEPT_BYTES_MAX = 32 * 1024 * 1024
_TAIL_WAIT_S = 1.0


def deliver(call: Call, attempt: Attempt, http: HttpReply, reply: Reply) -> Awaitable[None]:
    """Gives the answer to the caller and books it. The books have it before the caller has its last byte."""
    if _streams(http, call.request.view.stream):
        return _deliver_stream(call, attempt, http, reply)
    return _deliver_whole(call, attempt, http, reply)


async def _deliver_stream(call: Call, attempt: Attempt, http: HttpReply, reply: Reply) -> None:
    try:
        await _Stream(call, attempt, http, reply).run()
    finally:
        http.close()


def _streams(http: HttpReply, asked: bool) -> bool:
    """Whether events come; a server that does not say what it sends is taken to send what was asked for."""
    for name, value in http.headers:
        if name == b"content-type":
            return _says_events(value) and http.status != _NO_CONTENT
    return asked and http.status != _NO_CONTENT


@lru_cache(maxsize=256)
def _says_events(content_type: bytes) -> bool:
    return content_type.lower().startswith(_EVENTS)


def _upstream_id(http: HttpReply) -> str:
    """The provider's own name for the call where its body has none (embeddings)."""
    found = next((value for name, value in http.headers if name in ID_HEADERS), b"")
    return found[:128].decode("ascii", "replace")


def answer_headers(call: Call, attempt: Attempt, http: HttpReply, *, cost: bool) -> Headers:
    """The provider's headers without connection matters, and Farthing's own."""
    translation = attempt.ask.translation
    if translation is None:
        headers = [pair for pair in http.headers if _PASSES[pair[0]]]
    else:
        headers = translation.headers(http, streams=not cost)
    target = attempt.target
    reason = "fallback" if target is not call.plan.targets[0] else call.plan.reason
    headers.append((b"x-farthing-request-id", call.request.id.encode()))
    headers += _routed(target.provider, target.model, reason)
    if cost:
        headers.append((b"x-farthing-cost-usd", _cost(call).encode()))
    elif attempt.ceiling.amount is not None:
        headers.append((b"x-farthing-cost-ceiling-usd", format_usd(attempt.ceiling.amount).encode()))
    return headers


@lru_cache(maxsize=1024)
def _routed(provider: str, model: str, reason: str) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that say who answers, and why."""
    return (
        (b"x-farthing-cache", b"bypass"),
        (b"x-farthing-route", f"{provider}/{model}".encode("latin-1", "replace")),
        (b"x-farthing-route-reason", reason.encode()),
    )


def _cost(call: Call) -> str:
    """The request's cost so far, in dollars."""
    cost = 0
    for entry in call.entries:
        if entry.charge.total is None:
            return "unpriced"
        cost += entry.charge.total
    return format_usd(cost)


async def _deliver_whole(call: Call, attempt: Attempt, http: HttpReply, reply: Reply) -> None:
    try:
        body = cast(ReadyReply, http).read_now() if hasattr(http, "read_now") else None
        if body is None:
            drains = call.services.policy.on_disconnect == "drain"
            body = await (http.read() if drains else _read_while_there(http, reply))
    except ProviderFailed as error:
        await _book_lost(call, attempt, error.code, gone=reply.gone, status=http.status)
        raise
    finally:
        http.close()
    if body is None:
        await _book_lost(call, attempt, "client_gone", gone=True, status=http.status)
        await call.finish(Ending(outcome="aborted", status=499, error="client_gone", latency_ms=call.elapsed_ms()))
        return
    attempt.ttft_ms = call.end(attempt) - attempt.started_ms
    ending = Ending(
        outcome="answered",
        status=http.status,
        latency_ms=max(0, attempt.ended_ms - call.request.received_at_ms),
        ttft_ms=attempt.ttft_ms,
        answer=body,
    )
    if call.request.view.endpoint in FREE_ENDPOINTS:
        await call.answered_free(attempt, ending)
    else:
        usage = attempt.upstream.codec.reader(attempt.ask.request).from_body(body)
        if usage.source != "reported":
            usage = filled_in(call, attempt, usage, answer_text(body))
        if not usage.upstream_id:
            usage = msgspec.structs.replace(usage, upstream_id=_upstream_id(http))
        await call.book(attempt, usage, ending, gone=reply.gone)
    if attempt.ask.translation is not None:
        body = attempt.ask.translation.answer(body)
    await reply.whole(http.status, answer_headers(call, attempt, http, cost=True), body)


async def _read_while_there(http: HttpReply, reply: Reply) -> bytes | None:
    """The whole body, or None when the caller hung up before it was there."""
    reading = asyncio.ensure_future(http.read())
    watching = asyncio.ensure_future(reply.wait_gone())
    try:
        await asyncio.wait({reading, watching}, return_when=asyncio.FIRST_COMPLETED)
        return reading.result() if reading.done() else None
    finally:
        for task in (reading, watching):
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError, ProviderFailed):
                    await task


async def _book_lost(call: Call, attempt: Attempt, error: str, *, gone: bool, status: int) -> None:
    if call.request.view.endpoint in FREE_ENDPOINTS:
        return
    await call.book_unknown(attempt, error, gone=gone, status=status)


def filled_in(call: Call, attempt: Attempt, usage: Usage, answer: bytes) -> Usage:
    """A complete answer that did not say all of its usage: the rest counted by Farthing and marked so."""
    if usage.source == "estimated":  # it is counted already, as in a log that is replayed
        return usage
    taken, given = tokens_of(usage)
    counted = call.likely_lines(attempt, answer)
    part = usage.parts[0] if usage.parts else UsagePart(lines=())
    more = tuple(line for line in counted if not (given if is_output(line[0]) else taken))
    lines = (*part.lines, *more)
    basis = sum(quantity for unit, quantity in lines if is_input(unit))
    part = msgspec.structs.replace(part, lines=lines, tier_basis=basis)
    return msgspec.structs.replace(usage, source="estimated", parts=(part, *usage.parts[1:]))


class _Stream:
    """One event stream on its way through."""

    def __init__(self, call: Call, attempt: Attempt, http: HttpReply, reply: Reply) -> None:
        self._call = call
        self._attempt = attempt
        self._http = http
        self._reply = reply
        self._reader = attempt.upstream.codec.reader(attempt.ask.request)
        translation = attempt.ask.translation
        self._back = translation.stream() if translation is not None else None
        meter = self._reader.meter()
        self._meter = meter
        self._tap = StreamTap(
            meter,
            marks=meter.marks,
            terminals=TERMINALS[attempt.ask.request.view.endpoint],
            strip_usage=attempt.ask.strips_usage,
        )
        self._kept: list[tuple[bytes, bool]] = []
        """(what came, whether it is an HTTP chunk as it stood on the wire)."""
        self._kept_bytes = 0
        self._cancels = call.services.policy.on_disconnect == "cancel"
        self._prompt = cast(PromptReply, reply)
        """The same, of those that are."""
        self._due = b""
        """What a lagging caller could not take at once."""

    async def run(self) -> None:
        call, attempt, reply = self._call, self._attempt, self._reply
        await reply.start(self._http.status, answer_headers(call, attempt, self._http, cost=False))
        translation = attempt.ask.translation
        chunks = self._http.chunks() if translation is None else translation.chunks(self._http)
        error = ""
        try:
            finished = await self._pass(chunks)
        except ProviderFailed as failure:
            await self._settle(complete=False, error=failure.code)
            raise
        except asyncio.CancelledError:
            await self._settle(complete=False, error="cancelled")
            raise
        if not finished:
            error = "client_gone"
        rest = b"" if self._tap.ended else self._tap.finish()
        await self._settle(complete=finished, error=error)
        last = rest + self._tap.held
        if self._back is not None:
            last = self._back.feed(last) + self._back.finish()
        await reply.end(last)
        if self._tap.ended and not getattr(self._http, "complete", False):
            await self._drain(chunks)

    async def _pass(self, chunks: AsyncIterator[bytes]) -> bool:
        """Forwards until the stream's end; False when the caller hung up and policy says to stop."""
        tap, reply = self._tap, self._reply
        upstream: object = self._http
        if chunks is upstream and hasattr(upstream, "pass_on") and hasattr(reply, "write_now"):
            framed = self._forward_chunk if self._back is None else None  # what is translated is read event by event
            while await cast(PushingReply, upstream).pass_on(self._forward, framed):
                if self._due:
                    due, self._due = self._due, b""
                    await reply.write(due)
                if tap.ended:
                    return True
                if self._cancels and reply.gone:
                    return False
            return True
        async for chunk in chunks:
            passed = self._take(chunk)
            if passed:  # also when the caller has gone: whoever keeps the answer for others wants all of it
                await reply.write(passed)
            if tap.ended:
                return True
            if self._cancels and reply.gone:
                return False
        return True

    def _forward(self, chunk: bytes) -> bool:
        """Gives a chunk to the caller where it is read: no task is woken for it. False: there is more to do."""
        passed = self._take(chunk)
        gone = self._reply.gone
        if passed and not self._prompt.write_now(passed):  # also when it has gone, see above
            self._due = passed
            return False
        return not self._tap.ended and not (gone and self._cancels)

    def _forward_chunk(self, chunk: bytes) -> bool:
        """Gives a chunk that says nothing about billing to the caller as it stands on the wire. False: it was not."""
        passed = self._tap.take_chunk(chunk)
        if not passed or not self._prompt.write_chunk(passed):
            return False
        if self._kept_bytes < _KEPT_BYTES_MAX:
            self._kept.append((chunk, True))
            self._kept_bytes += len(chunk)
        return True

    def _take(self, chunk: bytes) -> bytes:
        """What of a chunk the caller gets, once it is metered."""
        if self._kept_bytes < _KEPT_BYTES_MAX:
            self._kept.append((chunk, False))
            self._kept_bytes += len(chunk)
        passed = self._tap.feed(chunk)
        if passed and self._back is not None:
            passed = self._back.feed(passed)
        if passed and self._attempt.ttft_ms is None:
            now_ms = self._call.services.clock.now_ms()
            self._attempt.ttft_ms = max(0, now_ms - self._attempt.started_ms)
        return passed

    async def _settle(self, *, complete: bool, error: str) -> None:
        call, attempt = self._call, self._attempt
        call.end(attempt)
        usage = self._meter.usage(complete=complete)
        if usage.source in ("missing", "partial"):
            usage = self._with_estimate(usage, complete=complete)
        if not usage.upstream_id:
            usage = msgspec.structs.replace(usage, upstream_id=_upstream_id(self._http))
        answer = b"".join(self._answer()) if call.keeps_text else None
        ending = Ending(
            outcome="answered" if complete and not error else "aborted" if error == "client_gone" else "failed",
            status=self._http.status,
            error=error,
            latency_ms=max(0, attempt.ended_ms - call.request.received_at_ms),
            ttft_ms=attempt.ttft_ms,
            answer=answer,
        )
        await call.book(attempt, usage, ending, error=error, gone=self._reply.gone)

    def _with_estimate(self, usage: Usage, *, complete: bool) -> Usage:
        """Fills in what a stream without final usage consumed: counted prompt, counted text so far."""
        seen, said = tokens_of(usage)
        part = usage.parts[0] if usage.parts else UsagePart(lines=())
        lines = list(part.lines)
        if not seen:
            lines.extend(self._call.likely_lines(self._attempt, b""))
        output = self._call.tokens_for(self._text_bytes())
        if output > said:
            lines = [line for line in lines if not is_output(line[0])]
            lines.append(("output", output))
        basis = sum(quantity for unit, quantity in lines if is_input(unit))
        part = msgspec.structs.replace(part, lines=tuple(lines), tier_basis=basis)
        parts = (part, *usage.parts[1:])
        return msgspec.structs.replace(usage, parts=parts, source="estimated" if complete else "partial")

    def _text_bytes(self) -> int:
        """Bytes of answer text that arrived; read again from the start because the tap skips plain events."""
        again = SseMeter(self._reader.meter())
        for piece in self._answer():
            again.feed(piece)
        return again.text_bytes

    def _answer(self) -> list[bytes]:
        """What came, without what HTTP put around it."""
        return [data[data.index(10) + 1 : -2] if framed else data for data, framed in self._kept]

    async def _drain(self, chunks: AsyncIterator[bytes]) -> None:
        """Reads what follows the terminal event, so that the connection can be used again."""
        with suppress(ProviderFailed, TimeoutError):
            async with asyncio.timeout(_TAIL_WAIT_S):
                async for _ in chunks:
                    pass
