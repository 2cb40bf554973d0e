"""The routes of batches: both providers' APIs, and calls that wait for one."""

from starlette.routing import Route

from farthing.server.batch_answers import BatchRoom
from farthing.server.batches_anthropic import AnthropicBatches
from farthing.server.batches_deferred import DeferredApi
from farthing.server.batches_openai import OpenAIBatches


def batch_routes(room: BatchRoom) -> list[Route]:
    """For the gateway's application."""
    return [*OpenAIBatches(room).routes(), *AnthropicBatches(room).routes(), *DeferredApi(room).routes()]
