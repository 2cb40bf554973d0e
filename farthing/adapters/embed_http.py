"""Vectors from an OpenAI-compatible embeddings endpoint; what they cost is reported with them."""

import array
import math
from collections.abc import Sequence

import msgspec

from farthing.core.errors import ProviderFailed, StoreUnavailable
from farthing.core.types import Target, Usage, UsagePart
from farthing.ports.embed import Embedded, Vector
from farthing.ports.provider import HttpRequest, Timeouts, Transport


class _Row(msgspec.Struct):
    index: int
    embedding: list[float]


class _Tokens(msgspec.Struct):
    prompt_tokens: int = 0


class _Answer(msgspec.Struct):
    data: list[_Row]
    usage: _Tokens = msgspec.field(default_factory=_Tokens)
    model: str = ""


class HttpEmbedder:
    """Asks one provider for vectors of one model."""

    def __init__(
        self,
        transport: Transport,
        target: Target,
        *,
        url: str,
        headers: tuple[tuple[bytes, bytes], ...],
        dimensions: int,
        timeouts: Timeouts | None = None,
    ) -> None:
        """``url`` is the endpoint's own; ``dimensions`` is what the model gives and every answer is checked for."""
        self._transport = transport
        self._target = target
        self._url = url
        self._headers = headers
        self._dimensions = dimensions
        self._timeouts = timeouts or Timeouts(connect_ms=2_000, first_byte_ms=5_000, idle_ms=5_000)

    @property
    def identity(self) -> str:
        """Provider and model: a provider that changes a model under its name has to be told apart by hand."""
        return f"{self._target.provider}/{self._target.model}@{self._dimensions}"

    @property
    def dimensions(self) -> int:
        """Numbers in a vector."""
        return self._dimensions

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """One call for all texts."""
        body = msgspec.json.encode({"model": self._target.model, "input": list(texts), "encoding_format": "float"})
        headers = (*self._headers, (b"content-type", b"application/json"))
        try:
            reply = await self._transport.send(
                HttpRequest(method="POST", url=self._url, headers=headers, body=body), timeouts=self._timeouts
            )
            try:
                answer = await reply.read()
            finally:
                reply.close()
        except ProviderFailed as error:
            raise StoreUnavailable(f"The embeddings endpoint failed: {error.message}") from None
        if reply.status != 200:
            raise StoreUnavailable(f"The embeddings endpoint answered {reply.status}.")
        return self._read(answer, len(texts))

    async def close(self) -> None:
        """The transport is its owner's."""

    def _read(self, answer: bytes, count: int) -> Embedded:
        try:
            found = msgspec.json.decode(answer, type=_Answer)
        except msgspec.DecodeError as error:
            raise StoreUnavailable(f"The embeddings endpoint's answer is unreadable: {error}") from None
        rows = sorted(found.data, key=lambda row: row.index)
        if [row.index for row in rows] != list(range(count)):
            raise StoreUnavailable("The embeddings endpoint did not answer for every text.")
        tokens = found.usage.prompt_tokens
        usage = Usage(
            source="reported" if tokens else "missing",
            parts=(UsagePart(lines=(("input", tokens),), tier_basis=tokens),) if tokens else (),
            model=found.model,
        )
        vectors = tuple(self._unit(row.embedding) for row in rows)
        return Embedded(vectors=vectors, usage=usage, target=self._target)

    def _unit(self, numbers: list[float]) -> Vector:
        length = math.sqrt(sum(number * number for number in numbers))
        if len(numbers) != self._dimensions or not length:
            raise StoreUnavailable(
                f"The embeddings endpoint gave {len(numbers)} numbers instead of {self._dimensions}."
            )
        return array.array("f", (number / length for number in numbers)).tobytes()
