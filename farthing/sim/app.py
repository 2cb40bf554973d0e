"""The simulated provider as an ASGI application: one table of routes, one place where errors take their shape."""

from collections.abc import Awaitable, Callable

from farthing.sim import (
    admin,
    anthropic_batches,
    anthropic_messages,
    anthropic_reports,
    anthropic_wire,
    bedrock,
    gemini,
    openai_batches,
    openai_chat,
    openai_files,
    openai_other,
    openai_reports,
    openai_responses,
    openai_wire,
)
from farthing.sim.account import Account
from farthing.sim.errors import ApiError
from farthing.sim.http import JSON, Headers, Receive, Scope, Send, Wire
from farthing.sim.settings import SimSettings

Endpoint = Callable[[Account, Wire], Awaitable[None]]

ROUTES: dict[tuple[str, str], Endpoint] = {
    ("POST", "/v1/chat/completions"): openai_chat.chat_completions,
    ("POST", "/v1/messages"): anthropic_messages.messages,
    ("POST", "/v1/messages/count_tokens"): anthropic_messages.count_tokens,
    ("POST", "/v1/completions"): openai_other.completions,
    ("POST", "/v1/embeddings"): openai_other.embeddings,
    ("GET", "/v1/models"): openai_other.models,
    ("POST", "/v1/responses"): openai_responses.responses,
    ("POST", "/v1/files"): openai_files.files,
    ("GET", "/v1/files"): openai_files.files,
    ("POST", "/v1/batches"): openai_batches.batches,
    ("GET", "/v1/batches"): openai_batches.batches,
    ("POST", anthropic_batches.PATH): anthropic_batches.batches,
    ("GET", anthropic_batches.PATH): anthropic_batches.batches,
    ("GET", "/v1/organization/usage/completions"): openai_reports.usage_completions,
    ("GET", "/v1/organization/usage/embeddings"): openai_reports.usage_embeddings,
    ("GET", "/v1/organization/costs"): openai_reports.costs,
    ("GET", "/v1/organizations/usage_report/messages"): anthropic_reports.usage_messages,
    ("GET", "/v1/organizations/cost_report"): anthropic_reports.cost_report,
    ("GET", "/sim/invoice"): admin.invoice,
    ("GET", "/sim/state"): admin.state,
    ("POST", "/sim/reset"): admin.reset,
    ("POST", "/sim/faults"): admin.faults,
}
_PATHS = {path for _, path in ROUTES}


class SimApp:
    """The ASGI application; ``account`` is its state."""

    def __init__(self, account: Account) -> None:
        self.account = account
        account.endpoints = ROUTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP exchange, or the server's lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"the simulator speaks HTTP only, not {scope['type']}")
        wire = Wire(scope, receive, send)
        endpoint = ROUTES.get((scope["method"], scope["path"]))
        try:
            await (endpoint or _elsewhere(scope))(self.account, wire)
        except ApiError as error:
            await self._refuse(wire, error)

    async def _refuse(self, wire: Wire, error: ApiError) -> None:
        self.account.refused += 1
        path = wire.scope["path"]
        headers: Headers
        if path.startswith(gemini.PATH):
            payload, headers = gemini.error_payload(error), []
        elif path.startswith(bedrock.PATH):
            payload, headers = bedrock.error_payload(error), bedrock.error_headers(self.account, error)
        elif path.startswith(("/v1/messages", "/v1/organizations/")) or b"anthropic-version" in wire.headers:
            request_id = self.account.next_id("req_")
            payload = anthropic_wire.error_payload(error, request_id)
            headers = anthropic_wire.error_headers(error, request_id)
        else:
            payload, headers = openai_wire.error_payload(error), openai_wire.error_headers(self.account, error)
        await wire.reply(error.status, payload, [JSON, *headers])

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self.account.invoice.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _elsewhere(scope: Scope) -> Endpoint:
    """A path with a parameter, or the 404 or 405 of any other request."""
    method, path = scope["method"], scope["path"]
    if method == "GET" and path.startswith("/v1/models/"):
        return openai_other.models
    found = _batch_path(method, path)
    if found is not None:
        return found
    if method == "POST" and path.startswith(gemini.PATH):
        return gemini.generate
    if method == "POST" and path.startswith(bedrock.PATH):
        return bedrock.converse
    if path in _PATHS:
        raise ApiError(405, f"Not allowed to {method} on {path}.", code="method_not_allowed")
    message = f"Invalid URL ({method} {path})"
    raise ApiError(404, message, kind="not_found_error", code="unknown_url")


def _batch_path(method: str, path: str) -> Endpoint | None:
    if method in ("GET", "DELETE") and path.startswith("/v1/files/"):
        return openai_files.file
    if method in ("GET", "POST") and path.startswith("/v1/batches/"):
        return openai_batches.batch
    return anthropic_batches.batch if path.startswith(anthropic_batches.PATH + "/") else None


def create_app(settings: SimSettings | None = None) -> SimApp:
    """A simulated provider, with its own state."""
    return SimApp(Account(settings or SimSettings()))
