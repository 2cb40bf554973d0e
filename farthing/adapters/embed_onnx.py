"""A sentence encoder from a folder, on ONNX Runtime: one thread of its own, short texts in batches.

The folder holds ``model.onnx`` and ``tokenizer.json``; ``embedder.json`` (written by ``farthing embedder fetch``) or
``sentence_bert_config.json`` may say more. Models give either one vector a text or one a token; of the latter the
mean over real tokens is taken, as sentence encoders are trained.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from farthing.core.errors import ConfigError, StoreUnavailable
from farthing.ports.embed import Embedded, Vector

_BATCH = 16
_WAITING_MAX = 512
_TOKENS_MAX = 256
_CHARS_PER_TOKEN_MAX = 32
"""Texts are cut to this many characters a token before they are tokenised: what is cut would not be read."""


class Card(msgspec.Struct, kw_only=True):
    """What a model's folder says about it."""

    name: str = ""
    tokens_max: int = 0
    max_seq_length: int = 0
    """The same, as sentence-transformers calls it."""


class OnnxEmbedder:
    """See the module. Loading takes a moment and happens here, not at the first request."""

    def __init__(self, folder: Path) -> None:
        """Raises :class:`ConfigError` when the folder holds no usable model."""
        model, words = folder / "model.onnx", folder / "tokenizer.json"
        if not model.is_file() or not words.is_file():
            raise ConfigError([f"{folder} has no model.onnx and tokenizer.json"], source="embedder")
        card = _card(folder)
        self._tokens_max = card.tokens_max or card.max_seq_length or _TOKENS_MAX
        try:
            self._tokenizer = Tokenizer.from_file(str(words))
            self._session = onnxruntime.InferenceSession(str(model), _options(), providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - both libraries raise bare Exception for a file they cannot read
            raise ConfigError([f"{folder} cannot be loaded: {error}"], source="embedder") from None
        self._tokenizer.no_padding()  # some models' files pad every text to a fixed length
        self._tokenizer.enable_truncation(self._tokens_max)
        self._inputs = {port.name for port in self._session.get_inputs()}
        outputs = self._session.get_outputs()
        flat = [port for port in outputs if len(port.shape) == 2]
        self._output = (flat or outputs)[0].name
        digest = hashlib.sha256(model.read_bytes() + words.read_bytes()).hexdigest()
        self._identity = f"{card.name or folder.name}@{digest[:16]}"
        self._dimensions = int(self._encode(["a"]).shape[1])
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="farthing-embed")
        self._waiting: list[tuple[str, asyncio.Future[Vector]]] = []
        self._working: asyncio.Task[None] | None = None

    @property
    def identity(self) -> str:
        """The folder's or card's name and a hash over model and tokenizer."""
        return self._identity

    @property
    def dimensions(self) -> int:
        """Numbers in a vector."""
        return self._dimensions

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Vectors, made with whatever else waits now."""
        if len(self._waiting) + len(texts) > _WAITING_MAX:
            raise StoreUnavailable("Too many texts wait for the embedder.")
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Vector]] = [loop.create_future() for _ in texts]
        self._waiting.extend(zip(texts, futures, strict=True))
        if self._working is None or self._working.done():
            self._working = loop.create_task(self._work())
        return Embedded(vectors=tuple(await asyncio.gather(*futures)))

    def embed_now(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The same, blocking, for tools and measurements: one row a text."""
        rows = np.zeros((len(texts), self._dimensions), dtype=np.float32)
        by_length = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for start in range(0, len(texts), _BATCH):
            part = by_length[start : start + _BATCH]
            rows[part] = self._encode([texts[place] for place in part])
        return rows

    async def close(self) -> None:
        """Lets the batch in work end."""
        if self._working is not None:
            await asyncio.gather(self._working, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = [one for one in self._waiting[:_BATCH] if not one[1].done()]
            del self._waiting[:_BATCH]
            if not batch:
                continue
            try:
                rows = await loop.run_in_executor(self._thread, self._encode, [text for text, _ in batch])
            except Exception as error:  # noqa: BLE001 - ONNX Runtime raises bare Exception; callers must not wait for ever
                failure = StoreUnavailable(f"The embedder failed: {error}")
                for _, future in batch:
                    if not future.done():
                        future.set_exception(failure)
                continue
            for (_, future), row in zip(batch, rows, strict=True):
                if not future.done():
                    future.set_result(row.astype("<f4").tobytes())

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        most = self._tokens_max * _CHARS_PER_TOKEN_MAX
        encoded = [one.ids for one in self._tokenizer.encode_batch([text[:most] for text in texts])]
        width = max(1, max(map(len, encoded)))
        ids = np.zeros((len(encoded), width), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, one in enumerate(encoded):
            ids[row, : len(one)] = one
            mask[row, : len(one)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        found = self._session.run([self._output], {name: feed[name] for name in self._inputs if name in feed})[0]
        values = np.asarray(found, dtype=np.float32)
        if values.ndim == 3:
            weights = mask[:, :, None].astype(np.float32)
            values = (values * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)
        length = np.linalg.norm(values, axis=1, keepdims=True)
        return np.asarray(values / np.maximum(length, 1e-12), dtype=np.float32)


def _card(folder: Path) -> Card:
    for name in ("embedder.json", "sentence_bert_config.json"):
        path = folder / name
        if path.is_file():
            try:
                return msgspec.json.decode(path.read_bytes(), type=Card)
            except msgspec.DecodeError as error:
                raise ConfigError([f"{path}: {error}"], source="embedder") from None
    return Card()


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    return options
