"""From a BERT encoder's weights to one ONNX graph: tokens in, one unit vector a text out.

The graph is built by hand from the safetensors file, so neither torch nor an exporter is needed. ``bits=8`` keeps
matrices as 8-bit blocks of 128 with a scale each and the word table as 8-bit rows: a quarter of the size, cosines
within a few thousandths of the float graph's.
"""

import json
from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from farthing.adapters.embed_onnx_file import Array, Attribute, Node, Port, model_bytes
from farthing.core.errors import ConfigError

Floats = NDArray[np.float32]

_BLOCK: Final = 128
_OPSETS: Final = {"": 17, "com.microsoft": 1}
_SAFETENSORS_TYPES: Final = {"F32": "<f4", "F16": "<f2", "I64": "<i8"}


class BertShape(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes that a BERT ``config.json`` names and the graph needs."""

    num_hidden_layers: int
    num_attention_heads: int
    hidden_size: int
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    model_type: str = "bert"


def read_safetensors(data: bytes) -> dict[str, Array]:
    """The tensors of a safetensors file, by name. Raises :class:`ConfigError` for a malformed one."""
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        body = memoryview(data)[8 + size :]
        tensors: dict[str, Array] = {}
        for name, one in header.items():
            if name == "__metadata__":
                continue
            start, end = one["data_offsets"]
            kind = _SAFETENSORS_TYPES[one["dtype"]]
            tensors[name] = np.frombuffer(body[start:end], dtype=kind).reshape(one["shape"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError([f"not a readable safetensors file: {error!r}"], source="embedder") from None
    return tensors


class _Graph:
    """Nodes and weights under construction."""

    def __init__(self, *, bits: int) -> None:
        self.nodes: list[Node] = []
        self.weights: dict[str, Array] = {}
        self._bits = bits

    def weight(self, name: str, array: Array) -> str:
        self.weights[name] = array
        return name

    def add(self, op: str, *inputs: str, to: str, domain: str = "", **attributes: Attribute) -> str:
        pairs = tuple(sorted(attributes.items()))
        self.nodes.append(Node(op=op, inputs=inputs, outputs=(to,), attributes=pairs, domain=domain))
        return to

    def matmul(self, value: str, matrix: Floats, *, to: str) -> str:
        """``value @ matrix.T``; ``matrix`` has one row per output, as torch keeps it."""
        if self._bits == 32:
            return self.add("MatMul", value, self.weight(f"{to}.w", np.ascontiguousarray(matrix.T)), to=to)
        rows, columns = matrix.shape
        blocks = -(-columns // _BLOCK)
        padded = np.zeros((rows, blocks * _BLOCK), dtype=np.float32)
        padded[:, :columns] = matrix
        padded = padded.reshape(rows, blocks, _BLOCK)
        scales = np.maximum(np.abs(padded).max(axis=2), 1e-12) / 127
        packed = (np.rint(padded / scales[:, :, None]) + 128).astype(np.uint8)
        return self.add(
            "MatMulNBits",
            value,
            self.weight(f"{to}.w", packed),
            self.weight(f"{to}.s", scales.astype(np.float32).reshape(-1)),
            to=to,
            domain="com.microsoft",
            K=columns,
            N=rows,
            bits=8,
            block_size=_BLOCK,
            accuracy_level=4,
        )

    def words(self, ids: str, table: Floats) -> str:
        """Rows of the word table."""
        if self._bits == 32:
            return self.add("Gather", self.weight("words.w", table), ids, to="words")
        scales = np.maximum(np.abs(table).max(axis=1, keepdims=True), 1e-12) / 127
        rows = self.weight("words.w", np.rint(table / scales).astype(np.int8))
        small = self.add("Gather", rows, ids, to="words.q")
        scale = self.add("Gather", self.weight("words.s", scales.astype(np.float32)), ids, to="words.scale")
        return self.add("Mul", self.add("Cast", small, to="words.f", to_=1), scale, to="words")


def bert_to_onnx(tensors: dict[str, Array], shape: BertShape, *, bits: int = 8, tokens_max: int = 256) -> bytes:
    """The encoder with mean pooling and unit length: ``input_ids``, ``attention_mask`` → ``embedding``."""
    if shape.model_type != "bert" or shape.hidden_act != "gelu" or bits not in (8, 32):
        raise ConfigError(["only BERT encoders with gelu, in 8 or 32 bits, can be converted"], source="embedder")
    tensors = {name.removeprefix("bert."): array for name, array in tensors.items()}
    try:
        return _build(tensors, shape, bits, tokens_max)
    except KeyError as error:
        raise ConfigError([f"the weights have no tensor {error}"], source="embedder") from None


def _build(tensors: dict[str, Array], shape: BertShape, bits: int, tokens_max: int) -> bytes:
    def get(name: str) -> Floats:
        return np.ascontiguousarray(tensors[name], dtype=np.float32)

    graph = _Graph(bits=bits)
    hidden = _embeddings(graph, get("embeddings.word_embeddings.weight"), tensors, shape, tokens_max)
    graph.add("Cast", "attention_mask", to="mask32", to_=6)
    for layer in range(shape.num_hidden_layers):
        hidden = _layer(graph, hidden, tensors, shape, layer)
    _pool(graph, hidden)
    free = ("batch", "tokens")
    nodes = [_renamed(node) for node in graph.nodes]
    return model_bytes(
        nodes,
        graph.weights,
        inputs=[
            Port(name="input_ids", dtype="int64", shape=free),
            Port(name="attention_mask", dtype="int64", shape=free),
        ],
        outputs=[Port(name="embedding", dtype="float32", shape=("batch", shape.hidden_size))],
        opsets=_OPSETS,
    )


def _renamed(node: Node) -> Node:
    """``to_`` stands for Cast's attribute ``to``, which is a keyword of :meth:`_Graph.add`."""
    pairs = tuple((name.removesuffix("_"), value) for name, value in node.attributes)
    return msgspec.structs.replace(node, attributes=pairs)


def _embeddings(graph: _Graph, words: Floats, tensors: dict[str, Array], shape: BertShape, tokens_max: int) -> str:
    positions = np.asarray(tensors["embeddings.position_embeddings.weight"], dtype=np.float32)[:tokens_max]
    kinds = np.asarray(tensors["embeddings.token_type_embeddings.weight"], dtype=np.float32)
    table = graph.weight("positions.w", positions + kinds[0])
    zero = graph.weight("zero", np.array([0], dtype=np.int64))
    sizes = graph.add("Shape", "input_ids", to="sizes")
    length = graph.add("Gather", sizes, graph.weight("one", np.array([1], dtype=np.int64)), to="length")
    rows = graph.add("Slice", table, zero, length, zero, to="positions")
    total = graph.add("Add", graph.words("input_ids", words), rows, to="embedded")
    return _norm(graph, total, tensors, "embeddings.LayerNorm", shape, to="layer.in")


def _norm(graph: _Graph, value: str, tensors: dict[str, Array], name: str, shape: BertShape, *, to: str) -> str:
    gamma = graph.weight(f"{to}.gamma", np.asarray(tensors[f"{name}.weight"], dtype=np.float32))
    beta = graph.weight(f"{to}.beta", np.asarray(tensors[f"{name}.bias"], dtype=np.float32))
    eps = float(shape.layer_norm_eps)
    return graph.add("LayerNormalization", value, gamma, beta, to=to, axis=-1, epsilon=eps)


def _layer(graph: _Graph, hidden: str, tensors: dict[str, Array], shape: BertShape, layer: int) -> str:
    base, prefix = f"encoder.layer.{layer}", f"l{layer}"

    def get(name: str) -> Floats:
        return np.asarray(tensors[f"{base}.{name}"], dtype=np.float32)

    parts = ("query", "key", "value")
    together = np.concatenate([get(f"attention.self.{part}.weight") for part in parts])
    bias = np.concatenate([get(f"attention.self.{part}.bias") for part in parts])
    mixed = graph.matmul(hidden, together, to=f"{prefix}.qkv")
    mixed = graph.add("Add", mixed, graph.weight(f"{prefix}.qkv.b", bias), to=f"{prefix}.qkvb")
    names = tuple(f"{prefix}.{part}" for part in parts)
    sizes = graph.weight(f"{prefix}.split", np.full(3, shape.hidden_size, dtype=np.int64))
    split = Node(op="Split", inputs=(mixed, sizes), outputs=names, attributes=(("axis", -1),))
    graph.nodes.append(split)
    heads = shape.num_attention_heads
    seen = graph.add(
        "MultiHeadAttention", *names, "", "mask32", to=f"{prefix}.seen", domain="com.microsoft", num_heads=heads
    )
    out = graph.matmul(seen, get("attention.output.dense.weight"), to=f"{prefix}.out")
    hidden = _residual(graph, out, hidden, get, "attention.output", shape, to=f"{prefix}.mid")
    wide = graph.matmul(hidden, get("intermediate.dense.weight"), to=f"{prefix}.wide")
    wide_bias = graph.weight(f"{prefix}.wide.b", get("intermediate.dense.bias"))
    wide = graph.add("BiasGelu", wide, wide_bias, to=f"{prefix}.gelu", domain="com.microsoft")
    narrow = graph.matmul(wide, get("output.dense.weight"), to=f"{prefix}.narrow")
    return _residual(graph, narrow, hidden, get, "output", shape, to=f"{prefix}.end")


def _residual(
    graph: _Graph, value: str, skip: str, get: Callable[[str], Floats], name: str, shape: BertShape, *, to: str
) -> str:
    """LayerNorm(value + bias + skip) in one operation."""
    return graph.add(
        "SkipLayerNormalization",
        value,
        skip,
        graph.weight(f"{to}.gamma", get(f"{name}.LayerNorm.weight")),
        graph.weight(f"{to}.beta", get(f"{name}.LayerNorm.bias")),
        graph.weight(f"{to}.bias", get(f"{name}.dense.bias")),
        to=to,
        domain="com.microsoft",
        epsilon=float(shape.layer_norm_eps),
    )


def _pool(graph: _Graph, hidden: str) -> None:
    """Mean over real tokens, then unit length."""
    mask = graph.add("Cast", "attention_mask", to="maskf", to_=1)
    last = graph.weight("last", np.array([-1], dtype=np.int64))
    axis = graph.weight("axis", np.array([1], dtype=np.int64))
    wide = graph.add("Unsqueeze", mask, last, to="mask3")
    total = graph.add("ReduceSum", graph.add("Mul", hidden, wide, to="masked"), axis, to="total", keepdims=0)
    count = graph.add("ReduceSum", mask, axis, to="count", keepdims=1)
    mean = graph.add("Div", total, count, to="mean")
    squares = graph.add("ReduceSum", graph.add("Mul", mean, mean, to="square"), axis, to="squares", keepdims=1)
    graph.add("Div", mean, graph.add("Sqrt", squares, to="norm"), to="embedding")
