"""OpenAI chat completions and legacy completions: streams to answers and back."""

from collections.abc import Callable, Iterator
from typing import Final

from farthing.wire.replay_json import Json, Unreplayable, data, joined, objects, pieces, whole

_Merge = Callable[[Json, Json], None]
_DONE: Final = b"data: [DONE]\n\n"
_TEXTS: Final = ("content", "refusal", "reasoning_content", "reasoning")
"""Fields of a delta that are continued by the next one."""
_PER_CHUNK: Final = ("choices", "usage", "object", "obfuscation")


def collect_chat(chunks: list[Json]) -> Json:
    """One chat completion from its chunks. Raises :class:`Unreplayable`."""
    return _collect(chunks, "chat.completion", _merge_message)


def collect_completion(chunks: list[Json]) -> Json:
    """One legacy completion from its chunks. Raises :class:`Unreplayable`."""
    return _collect(chunks, "text_completion", _merge_text)


def _collect(chunks: list[Json], kind: str, merge: _Merge) -> Json:
    answer: Json = {}
    choices: dict[int, Json] = {}
    usage: object = None
    for chunk in chunks:
        if chunk.get("error"):
            raise Unreplayable("error")
        for name, value in chunk.items():
            if name not in _PER_CHUNK and (value is not None or name not in answer):
                answer[name] = value
        usage = chunk.get("usage") or usage
        for part in objects(chunk.get("choices") or []):
            index = part.get("index")
            if not isinstance(index, int):
                raise Unreplayable("unreadable")
            merge(choices.setdefault(index, {"index": index}), part)
    if not choices or any(choice.get("finish_reason") is None for choice in choices.values()):
        raise Unreplayable("unfinished")
    made = {"id": answer.pop("id", ""), "object": kind, **answer}
    made["choices"] = [choices[index] for index in sorted(choices)]
    if usage is not None:
        made["usage"] = usage
    return made


def _merge_message(choice: Json, part: Json) -> None:
    message = choice.setdefault("message", {"role": "assistant", "content": None, "refusal": None})
    choice.setdefault("logprobs", None)
    for name, value in (part.get("delta") or {}).items():
        if value is None:
            message.setdefault(name, None)
        elif name in _TEXTS:
            joined(message, name, value)
        elif name == "role":
            message["role"] = value
        elif name == "tool_calls":
            _merge_calls(message.setdefault("tool_calls", []), objects(value))
        elif name == "function_call":
            _merge_function(message.setdefault("function_call", {}), value)
        elif name == "annotations":
            message.setdefault("annotations", []).extend(objects(value))
        else:
            raise Unreplayable("unknown_delta")
    if part.get("logprobs"):
        _merge_lists(choice, part["logprobs"])
    if part.get("finish_reason") is not None:
        choice["finish_reason"] = part["finish_reason"]
        for call in message.get("tool_calls", ()):
            call.pop("index", None)


def _merge_text(choice: Json, part: Json) -> None:
    choice.setdefault("logprobs", None)
    joined(choice, "text", part.get("text") or "")
    if part.get("logprobs"):
        _merge_lists(choice, part["logprobs"])
    if part.get("finish_reason") is not None:
        choice["finish_reason"] = part["finish_reason"]


def _merge_calls(calls: list[Json], parts: list[Json]) -> None:
    for part in parts:
        index = part.get("index")
        call = next((one for one in calls if one.get("index") == index), None)
        if call is None:
            call = {"index": index, "function": {}}
            calls.append(call)
        for name, value in part.items():
            if name == "function":
                _merge_function(call["function"], value)
            elif name != "index" and value is not None:
                call[name] = value


def _merge_function(function: Json, part: object) -> None:
    if not isinstance(part, dict):
        raise Unreplayable("unreadable")
    for name, value in part.items():
        if value is not None:
            joined(function, name, value)


def _merge_lists(choice: Json, more: Json) -> None:
    """Log probabilities: lists that grow from chunk to chunk."""
    found = choice["logprobs"]
    if found is None:
        found = choice["logprobs"] = {}
    for name, value in more.items():
        if isinstance(value, list) and isinstance(found.get(name), list):
            found[name] = [*found[name], *value]
        elif found.get(name) is None:
            found[name] = value


def stream_chat(answer: Json, *, include_usage: bool) -> tuple[bytes, bytes]:
    """The chunks of a chat completion, ``[DONE]`` apart."""
    base = _base(answer, "chat.completion.chunk")
    deltas = ((choice, part) for choice in objects(answer.get("choices")) for part in _deltas(choice))
    return whole(_chunks(answer, base, deltas, include_usage=include_usage))


def stream_completion(answer: Json, *, include_usage: bool) -> tuple[bytes, bytes]:
    """The chunks of a legacy completion, ``[DONE]`` apart."""
    base = _base(answer, "text_completion")
    parts = ((choice, part) for choice in objects(answer.get("choices")) for part in _texts(choice))
    return whole(_chunks(answer, base, parts, include_usage=include_usage))


def _base(answer: Json, kind: str) -> Json:
    plain = {name: value for name, value in answer.items() if name not in ("choices", "usage")}
    return plain | {"object": kind}


def _chunks(answer: Json, base: Json, parts: Iterator[tuple[Json, Json]], *, include_usage: bool) -> Iterator[bytes]:
    tail = {"usage": None} if include_usage else {}
    for choice, part in parts:
        yield data({**base, "choices": [{"index": choice.get("index", 0), **part}], **tail})
    if include_usage:
        yield data({**base, "choices": [], "usage": answer.get("usage")})
    yield _DONE


def _deltas(choice: Json) -> Iterator[Json]:
    message = dict(choice.get("message") or {})
    content, calls = message.pop("content", None), message.pop("tool_calls", None) or []
    role, refusal = message.pop("role", "assistant"), message.pop("refusal", None)
    opening: Json = {"role": role, "content": None if calls and not content else "", "refusal": None}
    yield _delta(opening)
    for name in ("reasoning_content", "reasoning"):
        text = message.pop(name, None)
        if isinstance(text, str):
            for piece in pieces(text):
                yield _delta({name: piece})
    probabilities = choice.get("logprobs")
    if isinstance(content, str) and content:
        if probabilities:
            yield _delta({"content": content}, probabilities)
        else:
            for piece in pieces(content):
                yield _delta({"content": piece})
    elif content:
        raise Unreplayable("content")
    if isinstance(refusal, str) and refusal:
        yield _delta({"refusal": refusal})
    for index, call in enumerate(objects(calls)):
        yield from _call(index, call)
    rest = {name: value for name, value in message.items() if value}
    if rest:
        yield _delta(rest)
    yield {"delta": {}, "logprobs": None, "finish_reason": choice.get("finish_reason")}


def _call(index: int, call: Json) -> Iterator[Json]:
    function = dict(call.get("function") or {})
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        function["arguments"] = ""
    yield _delta({"tool_calls": [{"index": index, **call, "function": function}]})
    for piece in pieces(arguments) if isinstance(arguments, str) else ():
        yield _delta({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})


def _delta(delta: Json, logprobs: object = None) -> Json:
    return {"delta": delta, "logprobs": logprobs, "finish_reason": None}


def _texts(choice: Json) -> Iterator[Json]:
    text = choice.get("text")
    if not isinstance(text, str):
        raise Unreplayable("content")
    probabilities = choice.get("logprobs")
    for piece in [text] if probabilities else pieces(text):
        yield {"text": piece, "logprobs": probabilities, "finish_reason": None}
    yield {"text": "", "logprobs": None, "finish_reason": choice.get("finish_reason")}
