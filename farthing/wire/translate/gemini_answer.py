"""Gemini's ``generateContent``: the answer and the stream, read."""

from typing import Final

from farthing.wire.canonical import (
    Answer,
    Began,
    CallBegan,
    CallPiece,
    Counted,
    Ended,
    Event,
    Failed,
    Part,
    PartEnded,
    Stopped,
    StopReason,
    Text,
    TextPiece,
    Thinking,
    ThinkingPiece,
    TokenCounts,
    ToolCall,
)
from farthing.wire.translate.answers import (
    answer_fields,
    as_count,
    as_list,
    as_obj,
    as_text,
    event_fields,
    failure_from,
)
from farthing.wire.translate.fields import Fields, dumps

_STOPS: Final[dict[str, StopReason]] = {"STOP": "stop", "MAX_TOKENS": "length"}
_FILTERED: Final = frozenset(
    {"SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY",
     "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR", "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL",
     "TOO_MANY_TOOL_CALLS", "OTHER"}
)  # fmt: skip


def read_usage(value: object) -> TokenCounts | None:
    """``usageMetadata``: cached tokens are parts of the prompt's, thoughts stand beside the candidates."""
    if not isinstance(value, dict):
        return None
    prompt = as_count(value.get("promptTokenCount")) + as_count(value.get("toolUsePromptTokenCount"))
    cached = min(as_count(value.get("cachedContentTokenCount")), prompt)
    thought = as_count(value.get("thoughtsTokenCount"))
    said = as_count(value.get("candidatesTokenCount"))
    return TokenCounts(input=prompt - cached, cache_read=cached, output=said + thought, reasoning=thought)


def _stop(reason: str, blocked: str, *, calls: bool) -> StopReason:
    if blocked or reason in _FILTERED:
        return "content_filter"
    found = _STOPS.get(reason, "stop")
    return "tool" if calls and found == "stop" else found


def read(body: bytes) -> Answer:
    """The answer in the body of ``generateContent``. Raises :class:`StreamBroken`."""
    fields = answer_fields(body)
    reader = GeminiReader()
    parts: list[Part] = []
    texts: list[str] = []
    thoughts: list[str] = []
    answer_parts = reader.parts_of(fields)
    for part in answer_parts:
        if isinstance(part, Text):
            texts.append(part.text)
        elif isinstance(part, Thinking):
            thoughts.append(part.text)
    if thoughts:
        parts.append(Thinking(text="".join(thoughts)))
    if texts:
        parts.append(Text(text="".join(texts)))
    calls = [part for part in answer_parts if isinstance(part, ToolCall)]
    candidate = as_obj(next(iter(as_list(fields.get("candidates"))), None))
    blocked = as_text(as_obj(fields.get("promptFeedback")).get("blockReason"))
    return Answer(
        id=as_text(fields.get("responseId")),
        model=as_text(fields.get("modelVersion")),
        parts=(*parts, *calls),
        stop=_stop(as_text(candidate.get("finishReason")), blocked, calls=bool(calls)),
        usage=read_usage(fields.get("usageMetadata")),
    )


class GeminiReader:
    """Events of one stream, in order: every event is a whole answer with the pieces since the last."""

    def __init__(self) -> None:
        self._began = False
        self._calls = 0
        self._told_calls = 0
        self._reason = ""
        self._blocked = ""

    def event(self, name: bytes, data: bytes) -> list[Event]:
        """What one event tells."""
        fields = event_fields(data)
        failure = failure_from(fields) if "error" in fields else None
        if failure is not None:
            return [Failed(failure=failure)]
        found: list[Event] = []
        if not self._began:
            self._began = True
            found.append(Began(id=as_text(fields.get("responseId")), model=as_text(fields.get("modelVersion"))))
        for part in self.parts_of(fields):
            found.extend(self._told(part))
        candidate = as_obj(next(iter(as_list(fields.get("candidates"))), None))
        self._reason = as_text(candidate.get("finishReason")) or self._reason
        self._blocked = as_text(as_obj(fields.get("promptFeedback")).get("blockReason")) or self._blocked
        usage = read_usage(fields.get("usageMetadata"))
        if usage is not None:
            found.append(Counted(usage=usage))
        return found

    def finish(self) -> list[Event]:
        """The end of the bytes: the answer is whole when a reason for its end was said."""
        if not self._reason and not self._blocked:
            return []
        return [Stopped(stop=_stop(self._reason, self._blocked, calls=self._calls > 0)), Ended()]

    def parts_of(self, fields: Fields) -> list[Part]:
        """The parts of the first candidate; calls that Gemini gave no id are named after the answer."""
        candidate = as_obj(next(iter(as_list(fields.get("candidates"))), None))
        found: list[Part] = []
        for item in as_list(as_obj(candidate.get("content")).get("parts")):
            part = as_obj(item)
            said = as_text(part.get("text"))
            call = as_obj(part.get("functionCall"))
            if call:
                named = as_text(call.get("id")) or f"call_{as_text(fields.get('responseId'))}_{self._calls}"
                self._calls += 1
                found.append(
                    ToolCall(
                        id=named,
                        name=as_text(call.get("name")),
                        arguments=dumps(as_obj(call.get("args"))).decode(),
                        signature=as_text(part.get("thoughtSignature")),
                    )
                )
            elif said:
                found.append(Thinking(text=said) if part.get("thought") else Text(text=said))
        return found

    def _told(self, part: Part) -> list[Event]:
        if isinstance(part, Text):
            return [TextPiece(text=part.text)]
        if isinstance(part, Thinking):
            return [ThinkingPiece(text=part.text)]
        if isinstance(part, ToolCall):
            index = self._told_calls
            self._told_calls += 1
            began = CallBegan(index=index, id=part.id, name=part.name, signature=part.signature)
            return [began, CallPiece(index=index, arguments=part.arguments), PartEnded()]
        return []
