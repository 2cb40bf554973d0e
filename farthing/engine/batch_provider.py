"""One provider's batch API over the gateway's own transport and with the provider's own key."""

from farthing.core.errors import BadRequest, ProviderFailed
from farthing.engine.services import Services
from farthing.ports.batches import BatchWire
from farthing.wire.batches import form, id_of


class BatchProvider:
    """Asks whole questions and gets whole answers. Everything raises :class:`ProviderFailed`."""

    def __init__(self, services: Services, wires: dict[str, BatchWire]) -> None:
        """``wires``: of the providers that have a batch API and a key."""
        self.able = frozenset(wires)
        self._services = services
        self._wires = wires

    async def ask(
        self,
        provider: str,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        kind: str = "application/json",
        beta: tuple[bytes, ...] = (),
    ) -> bytes:
        """The body of a good answer."""
        wire = self._wires.get(provider)
        upstream = self._services.upstreams.get(provider)
        if wire is None or upstream is None:
            raise BadRequest(
                f"The provider '{provider}' of this batch is not configured any more.",
                hint="Put it back into farthing.toml, with its key.",
            )
        request = wire.request(method, path, body=body, content_type=kind if body else "", beta=beta)
        reply = await upstream.transport.send(request, timeouts=self._services.timeouts)
        try:
            data = await reply.read()
        finally:
            reply.close()
        if reply.status >= 300:
            raise upstream.codec.failure(reply.status, reply.headers, data)
        return data

    async def upload(self, provider: str, fields: tuple[tuple[str, str], ...], name: str, data: bytes) -> bytes:
        """OpenAI: a new file; its object."""
        kind, body = form(fields, name, data)
        shown = await self.ask(provider, "POST", "/files", body=body, kind=kind)
        object_id(shown, provider)
        return shown


def object_id(shown: bytes, provider: str) -> str:
    """The id of what the provider has made. Raises :class:`ProviderFailed` when it says none."""
    try:
        return id_of(shown)
    except ValueError:
        raise ProviderFailed(f"{provider} answered something that is no object of its batch API.") from None
