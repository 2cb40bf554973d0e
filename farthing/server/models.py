"""``GET /v1/models``: what the configured providers offer, in the dialect that asked."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote

import msgspec

from farthing.core.errors import ProviderFailed, UnknownModel
from farthing.core.routing import Routes
from farthing.core.types import Dialect, KeyRecord
from farthing.ports.clock import Clock
from farthing.ports.provider import HttpRequest, Timeouts, Transport

_FRESH_MS = 60_000
_PAGES_MAX = 256
_TIMEOUTS = Timeouts(connect_ms=5_000, first_byte_ms=15_000, idle_ms=15_000)


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """Where one provider lists its models."""

    name: str
    dialect: Dialect
    url: str
    headers: tuple[tuple[bytes, bytes], ...]
    passes_credentials: bool


class Models:
    """Asks the providers, at most once a minute each where the answer does not depend on the caller."""

    def __init__(
        self, catalogues: Sequence[Catalogue], transports: Mapping[str, Transport], routes: Routes, clock: Clock
    ) -> None:
        self._catalogues = tuple(catalogues)
        self._transports = transports
        self._routes = routes
        self._clock = clock
        self._fresh: dict[tuple[str, str], tuple[int, int, bytes]] = {}

    async def listing(
        self, dialect: Dialect, headers: list[tuple[bytes, bytes]], record: KeyRecord, query: str = ""
    ) -> tuple[int, bytes]:
        """(status, body): one provider's own listing as it came, or several merged; limited to the key's models.

        ``query`` pages through one provider's listing; a merged one is always whole.
        """
        able = [catalogue for catalogue in self._catalogues if catalogue.dialect == dialect]
        if len(able) == 1 and not record.models:
            return await self._list(able[0], headers, record, query)
        whole = "limit=1000" if dialect == "anthropic" else ""
        answers = [await self._list(catalogue, headers, record, whole) for catalogue in able]
        rows: dict[str, Any] = {}
        for status, body in answers:
            if status < 400:
                for row in _rows(body):
                    rows.setdefault(str(row.get("id")), row)
        allowed = [row for name, row in rows.items() if _allowed(record, name)]
        shape: dict[str, Any] = {"object": "list", "data": allowed}
        if dialect == "anthropic":
            ends = (allowed[0].get("id"), allowed[-1].get("id")) if allowed else (None, None)
            shape = {"data": allowed, "has_more": False, "first_id": ends[0], "last_id": ends[1]}
        return 200, msgspec.json.encode(shape)

    async def one(
        self, model: str, dialect: Dialect, headers: list[tuple[bytes, bytes]], record: KeyRecord
    ) -> tuple[int, bytes]:
        """(status, body) of one model. Raises :class:`UnknownModel`."""
        target = self._routes.targets(model, dialect)[0]
        catalogue = next((one for one in self._catalogues if one.name == target.provider), None)
        if catalogue is None or not _allowed(record, model):
            raise UnknownModel(f"The model '{model[:200]}' is not offered here.", param="model")
        address, _, own_query = catalogue.url.partition("?")
        url = f"{address}/{quote(target.model, safe='')}" + (f"?{own_query}" if own_query else "")
        return await self._get(catalogue, url, headers, record)

    async def _list(
        self, catalogue: Catalogue, headers: list[tuple[bytes, bytes]], record: KeyRecord, query: str
    ) -> tuple[int, bytes]:
        now_ms = self._clock.now_ms()
        known = self._fresh.get((catalogue.name, query))
        if known and now_ms - known[0] < _FRESH_MS:
            return known[1], known[2]
        url = f"{catalogue.url}{'&' if '?' in catalogue.url else '?'}{query}" if query else catalogue.url
        status, body = await self._get(catalogue, url, headers, record)
        if status < 400 and not catalogue.passes_credentials:
            if len(self._fresh) >= _PAGES_MAX:
                self._fresh.clear()
            self._fresh[catalogue.name, query] = (now_ms, status, body)
        return status, body

    async def _get(
        self, catalogue: Catalogue, url: str, headers: list[tuple[bytes, bytes]], record: KeyRecord
    ) -> tuple[int, bytes]:
        """A caller's own credentials pass on only when they are the provider's, never a Farthing key."""
        passes = catalogue.passes_credentials and not record.id
        credentials = (b"authorization", b"x-api-key", b"api-key") if passes else ()
        sent = [pair for pair in headers if pair[0] in (*credentials, b"anthropic-version", b"anthropic-beta")]
        request = HttpRequest(method="GET", url=url, headers=(*sent, *catalogue.headers))
        try:
            reply = await self._transports[catalogue.name].send(request, timeouts=_TIMEOUTS)
            try:
                body = await reply.read()
            finally:
                reply.close()
        except ProviderFailed as error:
            text = {"error": {"message": str(error), "type": "api_error", "param": None, "code": error.code}}
            return error.http_status, msgspec.json.encode(text)
        return reply.status, body


def _rows(body: bytes) -> list[dict[str, Any]]:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []
    rows = found.get("data") if isinstance(found, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _allowed(record: KeyRecord, model: str) -> bool:
    return not record.models or any(fnmatchcase(model, pattern) for pattern in record.models)
