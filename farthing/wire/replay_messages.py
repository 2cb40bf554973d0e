"""Anthropic messages: streams to answers and back."""

from collections.abc import Iterator
from typing import Final

import msgspec

from farthing.wire.replay_json import Json, Unreplayable, encode, joined, named, objects, pieces, whole

_TEXT_DELTAS: Final = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
_OUTPUT: Final = "output_tokens"


def collect(events: list[Json]) -> Json:
    """One message from its events. Raises :class:`Unreplayable`."""
    message: Json | None = None
    blocks: dict[int, Json] = {}
    inputs: dict[int, str] = {}
    ended = False
    for event in events:
        kind = event.get("type")
        if kind == "message_start":
            message = dict(event.get("message") or {})
        elif kind == "content_block_start":
            blocks[_index(event)] = dict(event.get("content_block") or {})
        elif kind == "content_block_delta":
            _grow(blocks, inputs, _index(event), event.get("delta") or {})
        elif kind == "message_delta" and message is not None:
            message.update(event.get("delta") or {})
            more = {name: value for name, value in (event.get("usage") or {}).items() if value is not None}
            message["usage"] = {**(message.get("usage") or {}), **more}
        elif kind == "message_stop":
            ended = True
        elif kind == "error":
            raise Unreplayable("error")
        elif kind not in ("ping", "content_block_stop"):
            raise Unreplayable("unknown_event")
    if message is None or not ended:
        raise Unreplayable("unfinished")
    for index, text in inputs.items():
        try:
            blocks[index]["input"] = msgspec.json.decode(text) if text else {}
        except msgspec.DecodeError as error:
            raise Unreplayable("unreadable") from error
    message["content"] = [blocks[index] for index in sorted(blocks)]
    return message


def _index(event: Json) -> int:
    index = event.get("index")
    if not isinstance(index, int):
        raise Unreplayable("unreadable")
    return index


def _grow(blocks: dict[int, Json], inputs: dict[int, str], index: int, delta: Json) -> None:
    block = blocks.get(index)
    kind = str(delta.get("type"))
    if block is None:
        raise Unreplayable("unreadable")
    if kind in _TEXT_DELTAS:
        joined(block, _TEXT_DELTAS[kind], delta.get(_TEXT_DELTAS[kind]))
    elif kind == "input_json_delta":
        inputs[index] = inputs.get(index, "") + str(delta.get("partial_json") or "")
    elif kind == "citations_delta":
        block["citations"] = [*(block.get("citations") or []), delta.get("citation")]
    else:
        raise Unreplayable("unknown_delta")


def stream(answer: Json) -> tuple[bytes, bytes]:
    """The events of a message, ``message_stop`` apart."""
    return whole(_events(answer))


def _events(answer: Json) -> Iterator[bytes]:
    usage = answer.get("usage") or {}
    opening = {**answer, "content": [], "stop_reason": None, "stop_sequence": None, "usage": {**usage, _OUTPUT: 0}}
    yield named({"type": "message_start", "message": opening})
    yield named({"type": "ping"})
    for index, block in enumerate(objects(answer.get("content"))):
        yield from _block(index, block)
    counted = {name: value for name, value in usage.items() if name.endswith("_tokens") or name == "server_tool_use"}
    delta = {"stop_reason": answer.get("stop_reason"), "stop_sequence": answer.get("stop_sequence")}
    yield named({"type": "message_delta", "delta": delta, "usage": {_OUTPUT: 0, **counted}})
    yield named({"type": "message_stop"})


def _block(index: int, block: Json) -> Iterator[bytes]:
    opening = dict(block)
    deltas: list[Json] = []
    for citation in opening.pop("citations", None) or []:
        deltas.append({"type": "citations_delta", "citation": citation})
    for kind, name in _TEXT_DELTAS.items():
        text = opening.get(name)
        if isinstance(text, str):
            opening[name] = ""
            deltas += [{"type": kind, name: piece} for piece in pieces(text)]
    if str(opening.get("type", "")).endswith("tool_use"):
        deltas += [{"type": "input_json_delta", "partial_json": part} for part in pieces(_text(opening.get("input")))]
        opening["input"] = {}
    yield named({"type": "content_block_start", "index": index, "content_block": opening})
    for delta in deltas:
        yield named({"type": "content_block_delta", "index": index, "delta": delta})
    yield named({"type": "content_block_stop", "index": index})


def _text(value: object) -> str:
    return encode(value).decode() if value else ""
