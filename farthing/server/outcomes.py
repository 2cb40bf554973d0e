"""``POST /api/v1/outcomes``: programs report what calls were good for, with the key that they call with."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from typing import Final

import msgspec
from starlette.requests import Request as HttpAsk
from starlette.responses import Response
from starlette.routing import Route

from farthing.core.errors import BadRequest, TooLong
from farthing.insight.outcome_rows import outcome
from farthing.ports.clock import Clock
from farthing.ports.outcomes import Outcome, Outcomes
from farthing.server.auth import Doorman, secret_of

PATH: Final = "/api/v1/outcomes"
MOST: Final = 1_000
BYTES_MAX: Final = 1024 * 1024


class OutcomesApi:
    """The route; the store is opened for each report, which is rare beside calls."""

    def __init__(self, doorman: Doorman, opener: Callable[[], Outcomes], clock: Clock) -> None:
        self._doorman = doorman
        self._opener = opener
        self._clock = clock

    def routes(self) -> list[Route]:
        """For the gateway's application."""
        return [Route(PATH, self.report, methods=["POST"])]

    async def report(self, ask: HttpAsk) -> Response:
        """One outcome or a list of them, all or none; ``{"new": 1, "known": 0}``."""
        self._doorman.key(secret_of(ask.headers.raw))
        rows = _rows(await _body(ask))
        found, problems = [], []
        for place, row in enumerate(rows):
            try:
                found.append(outcome(row, now_ms=self._clock.now_ms()))
            except ValueError as error:
                problems.append(f"[{place}] {error}")
        if problems:
            raise BadRequest(f"{len(problems)} of {len(rows)} outcomes cannot be read: {' | '.join(problems[:10])}.")
        new, known = await asyncio.to_thread(self._add, found)
        body = msgspec.json.encode({"new": new, "known": known})
        return Response(body, 201 if new else 200, media_type="application/json")

    def _add(self, found: list[Outcome]) -> tuple[int, int]:
        with closing(self._opener()) as store:
            return store.add(found)


async def _body(ask: HttpAsk) -> bytes:
    chunks, size = [], 0
    async for chunk in ask.stream():
        size += len(chunk)
        if size > BYTES_MAX:
            raise TooLong(f"The report is larger than {BYTES_MAX:,} bytes.", hint=f"Send at most {MOST} at a time.")
        chunks.append(chunk)
    return b"".join(chunks)


def _rows(body: bytes) -> list[dict[str, object]]:
    try:
        found = msgspec.json.decode(body, type=dict[str, object] | list[dict[str, object]])
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(
            f"The body is not an outcome or a list of them: {error}.",
            hint='Send {"id": …, "kind": "ticket_resolved", "session": …, "value_usd": "12.50", "success": true}.',
        ) from error
    rows = found if isinstance(found, list) else [found]
    if not 1 <= len(rows) <= MOST:
        raise BadRequest(f"{len(rows)} outcomes were sent; 1 to {MOST} are taken at a time.")
    return rows
