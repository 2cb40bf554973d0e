"""From a kept answer to a caller: as one body, or as a stream in the caller's own API."""

from typing import Final

from farthing.core.money import format_usd
from farthing.engine.caching_memo import BODY_MAX, Known
from farthing.engine.call import Call
from farthing.ports.cache import StoredAnswer
from farthing.ports.reply import Headers, Reply
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
    headers = _headers(call, answer, word, at_ms)
    if events is None:
        headers.append(_JSON)
        await reply.whole(answer.status, headers, answer.body)
        return
    headers.append(_EVENTS)
    await reply.start(answer.status, headers)
    if not reply.gone:
        await reply.write(events[0])
    await reply.end(events[1])


def _headers(call: Call, answer: StoredAnswer, word: bytes, at_ms: int) -> Headers:
    age_s = max(0, at_ms - answer.created_at_ms) // 1000
    route = f"{answer.target.provider}/{answer.target.model}"
    return [
        (b"x-farthing-request-id", call.request.id.encode()),
        (b"x-farthing-cache", word),
        (b"x-farthing-cache-age", str(age_s).encode()),
        (b"x-farthing-cache-key", answer.key.encode()),
        (b"x-farthing-route", route.encode("latin-1", "replace")),
        _REASON,
        _COST,
    ]
