"""From a kept answer to a caller: as one body, or as a stream in the caller's own API."""

from typing import Final

from farthing.core.money import format_usd
from farthing.engine.caching_memo import BODY_MAX, Known
from farthing.engine.call import Call
from farthing.ports.cache import StoredAnswer
from farthing.ports.reply import Fixed, Headers, Reply
from farthing.wire.replay import streamed

_JSON: Final = (b"content-type", b"application/json")
_EVENTS: Final = (b"content-type", b"text/event-stream; charset=utf-8")
_REASON: Final = (b"x-farthing-route-reason", b"cache")
_COST: Final = (b"x-farthing-cost-usd", format_usd(0).encode())


def events_of(call: Call, answer: StoredAnswer, known: Known | None) -> tuple[bytes, bytes]:
    """The answer as an event stream, its last event apart. Raises ``Unreplayable``."""
    if known is not None and known.answer is answer and known.events is not None:
        return known.events
    view = call.request.view
    events = streamed(view.endpoint, answer.body, include_usage=view.include_usage)
    if known is not None and len(answer.body) <= BODY_MAX:
        known.saves(call, answer)
        known.events = events
    return events


async def replay(
    call: Call,
    reply: Reply,
    answer: StoredAnswer,
    events: tuple[bytes, bytes] | None,
    *,
    word: bytes,
    at_ms: int,
) -> None:
    """Gives the answer to the caller; ``word`` says which cache it is from, ``at_ms`` what its age is counted to."""
    await give(reply, changing(call.request.id, answer, at_ms), fixed_of(answer, events, word=word))


async def give(reply: Reply, headers: Headers, fixed: Fixed) -> None:
    """Sends an answer: ``headers`` and what stands fast."""
    headers = headers + fixed.headers
    if fixed.events is None:
        await reply.whole(fixed.status, headers, fixed.body)
        return
    await reply.start(fixed.status, headers)
    if not reply.gone:
        await reply.write(fixed.events[0])
    await reply.end(fixed.events[1])


def changing(request_id: str, answer: StoredAnswer, at_ms: int) -> Headers:
    """The headers that differ from hit to hit."""
    age_s = max(0, at_ms - answer.created_at_ms) // 1000
    return [(b"x-farthing-request-id", request_id.encode()), (b"x-farthing-cache-age", b"%d" % age_s)]


def fixed_of(answer: StoredAnswer, events: tuple[bytes, bytes] | None, *, word: bytes) -> Fixed:
    """What stands fast of every hit on one answer; ``word`` says which cache it is from."""
    route = f"{answer.target.provider}/{answer.target.model}"
    headers: Headers = [
        (b"x-farthing-cache", word),
        (b"x-farthing-cache-key", answer.key.encode()),
        (b"x-farthing-route", route.encode("latin-1", "replace")),
        _REASON,
        _COST,
        _JSON if events is None else _EVENTS,
    ]
    return Fixed(status=answer.status, headers=headers, body=answer.body, events=events)
