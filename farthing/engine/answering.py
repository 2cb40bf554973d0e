"""One upstream is asked, and what its failure means."""

from collections.abc import Awaitable

from farthing.core.errors import Overloaded, ProviderFailed, RateLimited
from farthing.engine.attempt import Attempt
from farthing.engine.services import Services
from farthing.ports.provider import HttpReply
from farthing.wire.headers import RETRY_AFTER_MS_MAX, retry_at_ms


def send(services: Services, attempt: Attempt) -> Awaitable[HttpReply]:
    """The answer to one try, of which only the head will have arrived. Raises :class:`ProviderFailed`."""
    wire = attempt.upstream.codec.encode(attempt.ask.request, attempt.target, attempt.body)
    attempt.sent = True
    return attempt.upstream.transport.send(wire, timeouts=services.timeouts)


async def failure_of(services: Services, attempt: Attempt, reply: HttpReply) -> ProviderFailed:
    """What a refusal means; it means the same where its words never arrived."""
    try:
        body = await reply.read()
    except ProviderFailed:
        body = b""
    finally:
        reply.close()
    failure = attempt.upstream.codec.failure(reply.status, reply.headers, body)
    if isinstance(failure, RateLimited | Overloaded) and failure.retry_after_ms is None:
        at_ms = retry_at_ms(reply.headers)
        if at_ms is not None:
            failure.retry_after_ms = min(max(0, at_ms - services.clock.now_ms()), RETRY_AFTER_MS_MAX)
    translation = attempt.ask.translation
    return failure if translation is None else translation.failure(failure)
