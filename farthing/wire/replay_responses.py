"""OpenAI responses: streams to answers and back. The last event of a stream carries the whole answer."""

from collections.abc import Iterator

from farthing.wire.replay_json import Json, Unreplayable, named, objects, pieces, whole


def collect(events: list[Json]) -> Json:
    """The answer of the stream's last event. Raises :class:`Unreplayable`."""
    for event in reversed(events):
        if event.get("type") == "response.completed" and isinstance(event.get("response"), dict):
            return dict(event["response"])
        if event.get("type") in ("response.incomplete", "response.failed", "error"):
            raise Unreplayable("unfinished")
    raise Unreplayable("unfinished")


def stream(answer: Json) -> tuple[bytes, bytes]:
    """The events of a response, ``response.completed`` apart."""
    numbered = ({**event, "sequence_number": number} for number, event in enumerate(_events(answer)))
    return whole(named(event) for event in numbered)


def _events(answer: Json) -> Iterator[Json]:
    opening = {**answer, "status": "in_progress", "output": [], "usage": None}
    opening.pop("completed_at", None)
    yield {"type": "response.created", "response": opening}
    yield {"type": "response.in_progress", "response": opening}
    for index, item in enumerate(objects(answer.get("output"))):
        where = {"output_index": index, "item_id": item.get("id", "")}
        begun = {**item, "status": "in_progress"} if "status" in item else dict(item)
        for name, empty in (("content", []), ("summary", []), ("arguments", "")):
            if name in begun:
                begun[name] = empty
        yield {"type": "response.output_item.added", "output_index": index, "item": begun}
        yield from _inner(where, item)
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    yield {"type": "response.completed", "response": answer}


def _inner(where: Json, item: Json) -> Iterator[Json]:
    kind = item.get("type")
    if kind == "message":
        for place, part in enumerate(objects(item.get("content") or [])):
            yield from _part({**where, "content_index": place}, part)
    elif kind == "function_call" and isinstance(item.get("arguments"), str):
        for piece in pieces(item["arguments"]):
            yield {"type": "response.function_call_arguments.delta", **where, "delta": piece}
        done = {"name": item.get("name", ""), "arguments": item["arguments"]}
        yield {"type": "response.function_call_arguments.done", **where, **done}
    elif kind == "reasoning":
        for place, part in enumerate(objects(item.get("summary") or [])):
            yield from _summary({**where, "summary_index": place}, part)


def _part(where: Json, part: Json) -> Iterator[Json]:
    if part.get("type") == "output_text":
        name, kind, extra = "text", "output_text", {"logprobs": part.get("logprobs") or []}
        empty = {**part, "text": "", "annotations": []}
    elif part.get("type") == "refusal":
        name, kind, extra = "refusal", "refusal", {}
        empty = {**part, "refusal": ""}
    else:
        raise Unreplayable("content")
    text = str(part.get(name) or "")
    yield {"type": "response.content_part.added", **where, "part": empty}
    for piece in pieces(text):
        yield {"type": f"response.{kind}.delta", **where, "delta": piece, **({"logprobs": []} if extra else {})}
    for place, note in enumerate(part.get("annotations") or []):
        added = {"annotation_index": place, "annotation": note}
        yield {"type": "response.output_text.annotation.added", **where, **added}
    yield {"type": f"response.{kind}.done", **where, name: text, **extra}
    yield {"type": "response.content_part.done", **where, "part": part}


def _summary(where: Json, part: Json) -> Iterator[Json]:
    text = str(part.get("text") or "")
    yield {"type": "response.reasoning_summary_part.added", **where, "part": {**part, "text": ""}}
    for piece in pieces(text):
        yield {"type": "response.reasoning_summary_text.delta", **where, "delta": piece}
    yield {"type": "response.reasoning_summary_text.done", **where, "text": text}
    yield {"type": "response.reasoning_summary_part.done", **where, "part": part}
