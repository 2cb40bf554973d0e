"""A sentence encoder small enough to make in a test: random word vectors, averaged; more shared words, more alike."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace

from farthing.adapters.embed_convert import BertShape, bert_to_onnx
from farthing.adapters.embed_onnx_file import Array

_TOKENS = 64


def tiny_weights(words: int, *, width: int = 32, layers: int = 0, inner: int = 64, seed: int = 1) -> dict[str, Array]:
    """The tensors of a random BERT encoder under their usual names."""
    rng = np.random.default_rng(seed)

    def some(*shape: int, scale: float = 0.1) -> Array:
        return rng.normal(0, scale, shape).astype(np.float32)

    tensors: dict[str, Array] = {
        "embeddings.word_embeddings.weight": some(words, width, scale=1.0),
        "embeddings.position_embeddings.weight": np.zeros((_TOKENS, width), dtype=np.float32),
        "embeddings.token_type_embeddings.weight": np.zeros((2, width), dtype=np.float32),
        "embeddings.LayerNorm.weight": np.ones(width, dtype=np.float32),
        "embeddings.LayerNorm.bias": np.zeros(width, dtype=np.float32),
    }
    for layer in range(layers):
        base = f"encoder.layer.{layer}"
        squares = [f"attention.self.{part}" for part in ("query", "key", "value")] + ["attention.output.dense"]
        for name, shape in [
            *((name, (width, width)) for name in squares),
            ("intermediate.dense", (inner, width)),
            ("output.dense", (width, inner)),
        ]:
            tensors[f"{base}.{name}.weight"] = some(*shape)
            tensors[f"{base}.{name}.bias"] = some(shape[0])
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors[f"{base}.{name}.weight"] = 1 + some(width)
            tensors[f"{base}.{name}.bias"] = some(width)
    return tensors


def make_tiny_embedder(folder: Path, texts: Iterable[str]) -> Path:
    """Writes the encoder for the words of these texts; others are one unknown word. Returns ``folder``."""
    words = sorted({word for text in texts for word in _split(text)})
    vocabulary = {word: number for number, word in enumerate(["[UNK]", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    shape = BertShape(num_hidden_layers=0, num_attention_heads=1, hidden_size=32)
    model = bert_to_onnx(tiny_weights(len(vocabulary)), shape, bits=32, tokens_max=_TOKENS)
    (folder / "model.onnx").write_bytes(model)
    (folder / "embedder.json").write_text(f'{{"tokens_max": {_TOKENS}}}', encoding="utf-8")
    return folder


def _split(text: str) -> list[str]:
    return [word for word, _ in Whitespace().pre_tokenize_str(text.lower())]
