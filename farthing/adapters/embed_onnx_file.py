"""Writes ONNX models: the few protobuf messages that a graph of our own needs, and nothing more.

ONNX Runtime reads the result; the ``onnx`` package (and protobuf's compiler) would be a dependency for one command.
Field numbers are those of ``onnx.proto3``.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Attribute = int | float

_TENSOR_TYPES: Final = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}
_IR_VERSION: Final = 8


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One operation; ``domain`` is empty for standard operators."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Attribute], ...] = ()
    domain: str = ""


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output of the graph; named dimensions are free."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def model_bytes(
    nodes: Sequence[Node],
    weights: Mapping[str, Array],
    *,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    opsets: Mapping[str, int],
) -> bytes:
    """A complete ONNX model file."""
    graph = b"".join(
        [
            *(_message(1, _node(node)) for node in nodes),
            _text(2, "farthing"),
            *(_message(5, _tensor(name, array)) for name, array in weights.items()),
            *(_message(11, _port(port)) for port in inputs),
            *(_message(12, _port(port)) for port in outputs),
        ]
    )
    imports = (_text(1, domain) + _number(2, version) for domain, version in opsets.items())
    return b"".join(
        [
            _number(1, _IR_VERSION),
            _text(2, "farthing"),
            _message(7, graph),
            *(_message(8, one) for one in imports),
        ]
    )


def _node(node: Node) -> bytes:
    return b"".join(
        [
            *(_text(1, name) for name in node.inputs),
            *(_text(2, name) for name in node.outputs),
            _text(4, node.op),
            *(_message(5, _attribute(name, value)) for name, value in node.attributes),
            _text(7, node.domain),
        ]
    )


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, float):
        number = np.float32(value).tobytes()
        return _text(1, name) + _key(2, 5) + number + _number(20, 1)
    return _text(1, name) + _number(3, value) + _number(20, 2)


def _tensor(name: str, array: Array) -> bytes:
    dims = b"".join(_number(1, size) for size in array.shape)
    kind = _number(2, _TENSOR_TYPES[array.dtype.name])
    return dims + kind + _text(8, name) + _message(9, np.ascontiguousarray(array).tobytes())


def _port(port: Port) -> bytes:
    dims = b"".join(_message(1, _text(2, size) if isinstance(size, str) else _number(1, size)) for size in port.shape)
    tensor = _number(1, _TENSOR_TYPES[port.dtype]) + _message(2, dims)
    return _text(1, port.name) + _message(2, _message(1, tensor))


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _number(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, body: bytes) -> bytes:
    return _key(field, 2) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers take ten bytes, as protobuf says
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
