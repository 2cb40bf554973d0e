"""Calls that were answered from memory before, straight from their bytes to the answer."""

from farthing.core.types import KeyRecord
from farthing.engine.caching_repeats import Repeat, Repeats
from farthing.engine.services import Services
from farthing.server.auth import check_model, scope_of
from farthing.server.direct import Caller, Route
from farthing.server.head import Head


class Repeating:
    """The short way in. What it does not know, or no longer, takes the long way and is answered the same."""

    def __init__(self, services: Services, repeats: Repeats) -> None:
        self._services = services
        self._repeats = repeats

    async def serve(
        self, record: KeyRecord, route: Route, head: Head, body: bytes, *, request_id: str, at_ms: int, reply: Caller
    ) -> bool:
        """Answers if it can. Raises what the long way raises for a hit."""
        key = record.scope.key or record.id
        if not key:  # only its credential says whose call it is: the long way looks at that
            return False
        repeat = self._repeats.find(self._services, (key, *route, head.deciding, body), at_ms)
        if repeat is None or (record is not repeat.record and not _is_same(repeat, record, head)):
            return False
        scope = repeat.entry.scope
        if (head.traces or repeat.traces) and "tags" in record.refine:
            scope = scope_of(record, head.listed, repeat.exchange.view)
        await self._repeats.serve(self._services, repeat, scope, request_id, at_ms, reply)
        return True


def repeating(services: Services) -> Repeating | None:
    """None where nothing is cached."""
    return Repeating(services, services.caching.repeats) if services.caching is not None else None


def _is_same(repeat: Repeat, record: KeyRecord, head: Head) -> bool:
    """The repeat is one of this key: it leads to the same scope. Raises ``Forbidden`` where it may not be asked."""
    if record != repeat.record:
        view = repeat.exchange.view
        check_model(record, view.model)
        others = [pair for pair in head.listed if pair not in head.traces]
        if scope_of(record, [*others, *repeat.traces], view) != repeat.entry.scope:
            return False
    repeat.record = record
    return True
