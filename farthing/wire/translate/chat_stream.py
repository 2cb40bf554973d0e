"""OpenAI chat completions: the stream, read and written."""

from farthing.wire.canonical import (
    Began,
    CallBegan,
    CallPiece,
    Counted,
    Ended,
    Event,
    Failed,
    RefusalPiece,
    Stopped,
    StopReason,
    TextPiece,
    ThinkingPiece,
    TokenCounts,
)
from farthing.wire.translate.answers import (
    Frame,
    as_count,
    as_list,
    as_obj,
    as_text,
    event_fields,
    failure_from,
    sse,
)
from farthing.wire.translate.chat_answer import FINISH, STOPS, read_usage, written_usage
from farthing.wire.translate.errors import error_body
from farthing.wire.translate.fields import Fields, dumps


class ChatReader:
    """Events of one stream, in order."""

    def __init__(self) -> None:
        self._began = False
        self._stopped = False
        self._ended = False
        self._declined = False
        self._calls: set[int] = set()

    def event(self, name: bytes, data: bytes) -> list[Event]:
        """What one event tells."""
        if data == b"[DONE]":
            self._ended = True
            return [Ended()]
        fields = event_fields(data)
        failure = failure_from(fields) if "error" in fields else None
        if failure is not None:
            return [Failed(failure=failure)]
        found: list[Event] = []
        if not self._began:
            self._began = True
            found.append(
                Began(
                    id=as_text(fields.get("id")),
                    model=as_text(fields.get("model")),
                    created=as_count(fields.get("created")),
                )
            )
        for choice in as_list(fields.get("choices"))[:1]:
            found.extend(self._choice(as_obj(choice)))
        usage = read_usage(fields.get("usage"))
        if usage is not None:
            found.append(Counted(usage=usage))
        return found

    def finish(self) -> list[Event]:
        """What the end of the bytes tells: servers that never say ``[DONE]`` end so."""
        if self._stopped and not self._ended:
            return [Ended()]
        return []

    def _choice(self, choice: Fields) -> list[Event]:
        found: list[Event] = []
        delta = as_obj(choice.get("delta"))
        thought = as_text(delta.get("reasoning_content")) or as_text(delta.get("reasoning"))
        if thought:
            found.append(ThinkingPiece(text=thought))
        said = as_text(delta.get("content"))
        if said:
            found.append(TextPiece(text=said))
        declined = as_text(delta.get("refusal"))
        if declined:
            self._declined = True
            found.append(RefusalPiece(text=declined))
        for item in as_list(delta.get("tool_calls")):
            found.extend(self._call(as_obj(item)))
        finish = as_text(choice.get("finish_reason"))
        if finish:
            self._stopped = True
            stop: StopReason = "refusal" if self._declined else STOPS.get(finish, "stop")
            found.append(Stopped(stop=stop))
        return found

    def _call(self, call: Fields) -> list[Event]:
        found: list[Event] = []
        index = call.get("index")
        index = index if isinstance(index, int) else len(self._calls)
        function = as_obj(call.get("function"))
        if index not in self._calls:
            self._calls.add(index)
            found.append(CallBegan(index=index, id=as_text(call.get("id")), name=as_text(function.get("name"))))
        arguments = as_text(function.get("arguments"))
        if arguments:
            found.append(CallPiece(index=index, arguments=arguments))
        return found


class ChatWriter:
    """A stream as OpenAI's chat clients read it."""

    def __init__(self, frame: Frame, *, include_usage: bool) -> None:
        self._frame = frame
        self._with_usage = include_usage
        self._head: Fields = {}
        self._usage: TokenCounts | None = None
        self._declined = False
        self._stop = ""

    def write(self, event: Event) -> bytes:
        """The bytes that tell one event."""
        if isinstance(event, Began):
            return self._begin(event)
        if isinstance(event, TextPiece):
            return self._delta({"content": event.text})
        if isinstance(event, RefusalPiece):
            self._declined = True
            return self._delta({"refusal": event.text})
        if isinstance(event, ThinkingPiece):
            return self._delta({"reasoning_content": event.text}) if event.text else b""
        if isinstance(event, CallBegan):
            function: Fields = {"name": event.name, "arguments": ""}
            call: Fields = {"index": event.index, "id": event.id, "type": "function", "function": function}
            return self._delta({"tool_calls": [call]})
        if isinstance(event, CallPiece):
            piece: Fields = {"index": event.index, "function": {"arguments": event.arguments}}
            return self._delta({"tool_calls": [piece]})
        if isinstance(event, Stopped):
            declined = self._declined and event.stop == "refusal"
            self._stop = "stop" if declined else FINISH[event.stop]
            return self._delta({}, self._stop)
        if isinstance(event, Counted):
            self._usage = event.usage
            return b""
        if isinstance(event, Failed):
            return sse(error_body("openai", event.failure))
        return self._end() if isinstance(event, Ended) else b""

    def _begin(self, event: Began) -> bytes:
        self._head = {
            "id": event.id or self._frame.id,
            "object": "chat.completion.chunk",
            "created": event.created or self._frame.now_s,
            "model": event.model or self._frame.model,
        }
        self._usage = event.usage
        return self._delta({"role": "assistant", "content": "", "refusal": None})

    def _delta(self, delta: Fields, finish: str | None = None) -> bytes:
        choice: Fields = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._chunk({"choices": [choice]} | ({"usage": None} if self._with_usage else {}))

    def _chunk(self, rest: Fields) -> bytes:
        return sse(dumps(self._head | rest))

    def _end(self) -> bytes:
        last = b""
        if self._with_usage and self._usage is not None:
            last = self._chunk({"choices": [], "usage": written_usage(self._usage)})
        return last + sse(b"[DONE]")
