"""Anthropic messages: the stream, read and written."""

from farthing.wire.canonical import (
    Began,
    CallBegan,
    CallPiece,
    Counted,
    Ended,
    Event,
    Failed,
    Failure,
    PartEnded,
    RefusalPiece,
    Stopped,
    TextPiece,
    ThinkingPiece,
    TokenCounts,
)
from farthing.wire.translate.answers import Frame, as_obj, as_text, event_fields, sse
from farthing.wire.translate.errors import error_body
from farthing.wire.translate.fields import Fields, dumps
from farthing.wire.translate.messages_answer import REASONS, STOPS, read_usage, written_usage

_STATUS = {
    "overloaded_error": 529,
    "rate_limit_error": 429,
    "api_error": 500,
    "invalid_request_error": 400,
    "timeout_error": 504,
}


class MessagesReader:
    """Events of one stream, in order."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}
        """Call number by block index."""
        self._silent: set[int] = set()
        """Blocks of calls that have said no arguments yet."""
        self._usage: Fields = {}

    def event(self, name: bytes, data: bytes) -> list[Event]:
        """What one event tells."""
        fields = event_fields(data)
        kind = fields.get("type")
        if kind == "message_start":
            message = as_obj(fields.get("message"))
            self._usage = dict(as_obj(message.get("usage")))
            usage = read_usage(self._usage)
            return [Began(id=as_text(message.get("id")), model=as_text(message.get("model")), usage=usage)]
        if kind == "content_block_start":
            return self._start(fields)
        if kind == "content_block_delta":
            return self._delta(fields)
        if kind == "content_block_stop":
            index = fields.get("index")
            if isinstance(index, int) and index in self._silent:
                return [CallPiece(index=self._calls[index], arguments="{}"), PartEnded()]
            return [PartEnded()]
        if kind == "message_delta":
            delta = as_obj(fields.get("delta"))
            said = {key: value for key, value in as_obj(fields.get("usage")).items() if value is not None}
            self._usage |= said
            usage = read_usage(self._usage) or TokenCounts()
            stop = STOPS.get(as_text(delta.get("stop_reason")), "stop")
            return [Stopped(stop=stop, stop_sequence=as_text(delta.get("stop_sequence"))), Counted(usage=usage)]
        if kind == "message_stop":
            return [Ended()]
        if kind == "error":
            error = as_obj(fields.get("error"))
            said_kind = as_text(error.get("type"))
            message_ = as_text(error.get("message")) or "The provider broke the stream off."
            status = _STATUS.get(said_kind, 500)
            return [Failed(failure=Failure(status=status, message=message_, kind=said_kind))]
        return []

    def finish(self) -> list[Event]:
        """The end of the bytes tells nothing: an answer ends with ``message_stop``."""
        return []

    def _start(self, fields: Fields) -> list[Event]:
        block, index = as_obj(fields.get("content_block")), fields.get("index")
        kind = block.get("type")
        if kind == "tool_use" and isinstance(index, int):
            number = self._calls[index] = len(self._calls)
            self._silent.add(index)
            return [CallBegan(index=number, id=as_text(block.get("id")), name=as_text(block.get("name")))]
        if kind == "redacted_thinking":
            return [ThinkingPiece(signature=as_text(block.get("data")), redacted=True, signer="anthropic")]
        said = as_text(block.get("text"))
        return [TextPiece(text=said)] if said else []

    def _delta(self, fields: Fields) -> list[Event]:
        delta, index = as_obj(fields.get("delta")), fields.get("index")
        kind = delta.get("type")
        if kind == "text_delta":
            return [TextPiece(text=as_text(delta.get("text")))]
        if kind == "input_json_delta" and isinstance(index, int) and index in self._calls:
            piece = as_text(delta.get("partial_json"))
            if not piece:
                return []
            self._silent.discard(index)
            return [CallPiece(index=self._calls[index], arguments=piece)]
        if kind == "thinking_delta":
            return [ThinkingPiece(text=as_text(delta.get("thinking")))]
        if kind == "signature_delta":
            return [ThinkingPiece(signature=as_text(delta.get("signature")), signer="anthropic")]
        return []


class MessagesWriter:
    """A stream as Anthropic's clients read it: blocks that begin, grow and stop, one after the other."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._open = ""
        """Kind of the block being told: ``text``, ``thinking``, ``call:N`` or nothing."""
        self._index = -1
        self._blocks: dict[int, int] = {}
        self._stop = Stopped(stop="stop")
        self._usage: TokenCounts | None = None

    def write(self, event: Event) -> bytes:
        """The bytes that tell one event."""
        if isinstance(event, Began):
            return self._begin(event)
        if isinstance(event, TextPiece | RefusalPiece):
            return self._into("text", {"type": "text", "text": ""}) + self._delta("text_delta", "text", event.text)
        if isinstance(event, ThinkingPiece):
            return self._thinking(event)
        if isinstance(event, CallBegan):
            block: Fields = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
            written = self._into(f"call:{event.index}", block)
            self._blocks[event.index] = self._index
            return written
        if isinstance(event, CallPiece):
            index = self._blocks.get(event.index, self._index)
            delta: Fields = {"type": "input_json_delta", "partial_json": event.arguments}
            return _event("content_block_delta", {"index": index, "delta": delta})
        if isinstance(event, PartEnded):
            return self._close()
        if isinstance(event, Stopped):
            self._stop = event
            return b""
        if isinstance(event, Counted):
            self._usage = event.usage
            return b""
        if isinstance(event, Failed):
            return sse(error_body("anthropic", event.failure), b"error")
        return self._end() if isinstance(event, Ended) else b""

    def _begin(self, event: Began) -> bytes:
        self._usage = event.usage
        message: Fields = {
            "id": event.id or self._frame.id,
            "type": "message",
            "role": "assistant",
            "model": event.model or self._frame.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": written_usage(event.usage or TokenCounts()),
        }
        return _event("message_start", {"message": message})

    def _thinking(self, event: ThinkingPiece) -> bytes:
        if event.redacted:
            block: Fields = {"type": "redacted_thinking", "data": event.signature}
            return self._close() + self._into("redacted", block) + self._close()
        written = self._into("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        if event.text:
            written += self._delta("thinking_delta", "thinking", event.text)
        if event.signature and event.signer == "anthropic":
            written += self._delta("signature_delta", "signature", event.signature)
        return written

    def _into(self, kind: str, block: Fields) -> bytes:
        """Opens a block of this kind unless one is being told."""
        if self._open == kind:
            return b""
        closed = self._close()
        self._open = kind
        self._index += 1
        return closed + _event("content_block_start", {"index": self._index, "content_block": block})

    def _delta(self, kind: str, key: str, text: str) -> bytes:
        return _event("content_block_delta", {"index": self._index, "delta": {"type": kind, key: text}})

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return _event("content_block_stop", {"index": self._index})

    def _end(self) -> bytes:
        closed = self._close()
        delta: Fields = {
            "stop_reason": REASONS[self._stop.stop],
            "stop_sequence": self._stop.stop_sequence or None,
        }
        usage = written_usage(self._usage or TokenCounts())
        return closed + _event("message_delta", {"delta": delta, "usage": usage}) + _event("message_stop", {})


def _event(kind: str, fields: Fields) -> bytes:
    return sse(dumps({"type": kind} | fields), kind.encode())
