"""Everything beside the metered paths: health, metrics, models, the API's description, the dashboard."""

from collections.abc import Callable

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request as HttpAsk
from starlette.responses import Response
from starlette.routing import Route

from farthing import __version__
from farthing.core.errors import FarthingError, NotFound
from farthing.core.types import Dialect
from farthing.server.auth import Doorman, secret_of
from farthing.server.batch_answers import BatchRoom
from farthing.server.batches import batch_routes
from farthing.server.dialects import error_answer
from farthing.server.metrics import Metrics
from farthing.server.models import Models
from farthing.server.openapi import document
from farthing.server.outcomes import OutcomesApi
from farthing.server.pages.api import api_paths
from farthing.server.pages.site import Dashboard
from farthing.wire import anthropic, openai


class Admin:
    """The slow paths of one gateway."""

    def __init__(
        self,
        *,
        doorman: Doorman,
        metrics: Metrics,
        models: Models,
        ready: Callable[[], list[str]],
        dashboard: Dashboard,
        outcomes: OutcomesApi | None = None,
        batches: BatchRoom | None = None,
    ) -> None:
        """``ready`` lists why the gateway should get no traffic now; empty: it is ready."""
        self._doorman = doorman
        self._metrics = metrics
        self._models = models
        self._ready = ready
        self._dashboard = dashboard
        self._outcomes = outcomes
        self._batches = batches

    def app(self) -> Starlette:
        """The Starlette application."""
        routes = [
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.metrics),
            Route("/openapi.json", self.openapi),
            Route("/v1/models", self.models),
            Route("/v1/models/{model:path}", self.model),
            *(self._outcomes.routes() if self._outcomes is not None else ()),
            *(batch_routes(self._batches) if self._batches is not None else ()),
            *self._dashboard.routes(),
        ]
        handlers = {404: self._not_found, 405: self._not_found, FarthingError: _failed}
        return Starlette(routes=routes, exception_handlers=handlers)

    async def healthz(self, ask: HttpAsk) -> Response:
        """The process is alive."""
        return _json({"status": "ok", "version": __version__})

    async def readyz(self, ask: HttpAsk) -> Response:
        """The process can serve: its ledger takes entries and it is not stopping."""
        problems = self._ready()
        return _json({"status": "not ready" if problems else "ready", "problems": problems}, 503 if problems else 200)

    async def metrics(self, ask: HttpAsk) -> Response:
        return Response(self._metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, ask: HttpAsk) -> Response:
        return _json(document(api_paths()))

    async def models(self, ask: HttpAsk) -> Response:
        """The models that the configured providers offer, in the caller's dialect."""
        record = self._doorman.key(secret_of(ask.headers.raw))
        status, body = await self._models.listing(_dialect(ask), ask.headers.raw, record, ask.url.query)
        return Response(body, status, media_type="application/json")

    async def model(self, ask: HttpAsk) -> Response:
        record = self._doorman.key(secret_of(ask.headers.raw))
        name = ask.path_params["model"]
        status, body = await self._models.one(name, _dialect(ask), ask.headers.raw, record)
        return Response(body, status, media_type="application/json")

    async def _not_found(self, ask: HttpAsk, error: Exception) -> Response:
        path = ask.url.path
        if "text/html" in ask.headers.get("accept", "") and not path.startswith("/v1/"):
            return self._dashboard.failed(ask, NotFound(f"There is no page at {path[:200]}.", hint="See the menu."))
        hint = "OpenAI clients use base_url '…/v1', Anthropic clients the address without '/v1'."
        if path in openai.PATHS or path in anthropic.PATHS:
            hint = "Use POST."
        return await _failed(ask, NotFound(f"Farthing serves nothing at {ask.method} {path[:200]}.", hint=hint))


def _dialect(ask: HttpAsk) -> Dialect:
    return "anthropic" if "anthropic-version" in ask.headers else "openai"


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _failed(ask: HttpAsk, error: Exception) -> Response:
    known = error if isinstance(error, FarthingError) else FarthingError("Farthing failed on this request.")
    status, headers, body = error_answer(known, _dialect(ask), "")
    answer = Response(body, status)
    for name, value in headers:
        answer.headers[name.decode()] = value.decode("latin-1")
    return answer
