"""OpenAI responses: the stream, read and written."""

from farthing.wire.canonical import (
    Answer,
    Began,
    CallBegan,
    CallPiece,
    Counted,
    Ended,
    Event,
    Failed,
    Failure,
    Part,
    PartEnded,
    Refusal,
    RefusalPiece,
    Stopped,
    Text,
    TextPiece,
    Thinking,
    ThinkingPiece,
    TokenCounts,
    ToolCall,
)
from farthing.wire.translate.answers import Frame, as_count, as_obj, as_text, event_fields, failure_from, sse
from farthing.wire.translate.fields import Fields, dumps
from farthing.wire.translate.responses_answer import (
    call_item,
    content_of,
    ending,
    head_of,
    message_item,
    output_items,
    read_fields,
)
from farthing.wire.translate.responses_request import reasoning_fields, reasoning_of


class ResponsesReader:
    """Events of one stream, in order."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}
        """Call number by output index."""

    def event(self, name: bytes, data: bytes) -> list[Event]:
        """What one event tells."""
        fields = event_fields(data)
        kind = as_text(fields.get("type"))
        index = fields.get("output_index")
        if kind == "response.created":
            one = as_obj(fields.get("response"))
            created = as_count(one.get("created_at"))
            return [Began(id=as_text(one.get("id")), model=as_text(one.get("model")), created=created)]
        if kind == "response.output_text.delta":
            return [TextPiece(text=as_text(fields.get("delta")))]
        if kind == "response.refusal.delta":
            return [RefusalPiece(text=as_text(fields.get("delta")))]
        if kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            return [ThinkingPiece(text=as_text(fields.get("delta")))]
        if kind == "response.output_item.added" and isinstance(index, int):
            return self._added(as_obj(fields.get("item")), index)
        if kind == "response.function_call_arguments.delta" and isinstance(index, int) and index in self._calls:
            return [CallPiece(index=self._calls[index], arguments=as_text(fields.get("delta")))]
        if kind == "response.output_item.done":
            return self._done(as_obj(fields.get("item")))
        if kind in ("response.completed", "response.incomplete"):
            answer = read_fields(as_obj(fields.get("response")))
            counted: list[Event] = [Counted(usage=answer.usage)] if answer.usage is not None else []
            return [Stopped(stop=answer.stop), *counted, Ended()]
        if kind in ("response.failed", "error"):
            failure = failure_from(as_obj(fields.get("response")) or fields)
            return [Failed(failure=failure or Failure(status=500, message="The provider broke the stream off."))]
        return []

    def finish(self) -> list[Event]:
        """The end of the bytes tells nothing: a response says itself that it is complete."""
        return []

    def _added(self, item: Fields, index: int) -> list[Event]:
        if item.get("type") != "function_call":
            return []
        number = self._calls[index] = len(self._calls)
        return [CallBegan(index=number, id=as_text(item.get("call_id")), name=as_text(item.get("name")))]

    def _done(self, item: Fields) -> list[Event]:
        if item.get("type") != "reasoning":
            return [PartEnded()]
        seal = reasoning_of({"encrypted_content": item.get("encrypted_content")}, "output")
        if not seal.signature:
            return [PartEnded()]
        return [ThinkingPiece(signature=seal.signature, redacted=seal.redacted, signer=seal.signer), PartEnded()]


class ResponsesWriter:
    """A stream as OpenAI's responses clients read it: items that are added, grow and are done."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._identity = frame.id
        self._head: Fields = {}
        self._sequence = 0
        self._parts: list[Part] = []
        self._open: Part | None = None
        self._places: dict[int, int] = {}
        """Place in ``_parts`` by number of the call."""
        self._stop = Stopped(stop="stop")
        self._usage: TokenCounts | None = None

    def write(self, event: Event) -> bytes:
        """The bytes that tell one event."""
        if isinstance(event, Began):
            return self._begin(event)
        if isinstance(event, TextPiece):
            return self._said(Text(text=event.text), "response.output_text.delta")
        if isinstance(event, RefusalPiece):
            return self._said(Refusal(text=event.text), "response.refusal.delta")
        if isinstance(event, ThinkingPiece):
            return self._thought(event)
        if isinstance(event, CallBegan):
            return self._close() + self._call(event)
        if isinstance(event, CallPiece):
            return self._argued(event)
        if isinstance(event, PartEnded):
            return self._close()
        if isinstance(event, Stopped):
            self._stop = event
        elif isinstance(event, Counted):
            self._usage = event.usage
        elif isinstance(event, Failed):
            said = event.failure
            return self._tell("error", {"code": said.code or said.kind, "message": said.message, "param": None})
        elif isinstance(event, Ended):
            return self._end()
        return b""

    def _begin(self, event: Began) -> bytes:
        self._identity = event.id or self._frame.id
        model = event.model or self._frame.model
        self._head = head_of(self._identity, model, event.created or self._frame.now_s)
        self._usage = event.usage
        told = self._tell("response.created", {"response": self._head})
        return told + self._tell("response.in_progress", {"response": self._head})

    # -- words

    def _said(self, piece: Text | Refusal, kind: str) -> bytes:
        opened = b""
        if not isinstance(self._open, type(piece)):
            opened = self._close() + self._open_message(piece)
        assert isinstance(self._open, Text | Refusal)
        self._grow(type(piece)(text=self._open.text + piece.text))
        place = self._place
        fields: Fields = {"item_id": self._id("msg"), "output_index": place, "content_index": 0, "delta": piece.text}
        if isinstance(piece, Text):
            fields["logprobs"] = []
        return opened + self._tell(kind, fields)

    def _open_message(self, piece: Text | Refusal) -> bytes:
        self._add(type(piece)(text=""))
        item = message_item([], self._id("msg"), "in_progress")
        told = self._tell("response.output_item.added", {"output_index": self._place, "item": item})
        return told + self._tell("response.content_part.added", self._part_fields(type(piece)(text="")))

    def _part_fields(self, part: Text | Refusal) -> Fields:
        place = {"item_id": self._id("msg"), "output_index": self._place, "content_index": 0}
        return {**place, "part": content_of(part)}

    # -- reasoning

    def _thought(self, piece: ThinkingPiece) -> bytes:
        opened = b""
        if not isinstance(self._open, Thinking):
            opened = self._close()
            self._add(Thinking())
            item: Fields = {"id": self._id("rs"), "type": "reasoning", "summary": []}
            opened += self._tell("response.output_item.added", {"output_index": self._place, "item": item})
        open_ = self._open
        assert isinstance(open_, Thinking)
        if piece.text and not open_.text:
            part: Fields = {"type": "summary_text", "text": ""}
            opened += self._tell("response.reasoning_summary_part.added", self._summary({"part": part}))
        self._grow(
            Thinking(
                text=open_.text + piece.text,
                signature=open_.signature + piece.signature,
                redacted=piece.redacted or open_.redacted,
                signer=piece.signer or open_.signer,
            )
        )
        if not piece.text:
            return opened
        return opened + self._tell("response.reasoning_summary_text.delta", self._summary({"delta": piece.text}))

    def _summary(self, rest: Fields) -> Fields:
        return {"item_id": self._id("rs"), "output_index": self._place, "summary_index": 0, **rest}

    # -- calls

    def _call(self, event: CallBegan) -> bytes:
        self._add(ToolCall(id=event.id, name=event.name, arguments=""))
        self._places[event.index] = self._place
        assert isinstance(self._open, ToolCall)
        item = call_item(self._open, self._id("fc"), "in_progress")
        return self._tell("response.output_item.added", {"output_index": self._place, "item": item})

    def _argued(self, event: CallPiece) -> bytes:
        place = self._places.get(event.index, self._place)
        call = self._parts[place]
        if not isinstance(call, ToolCall):
            return b""
        grown = ToolCall(id=call.id, name=call.name, arguments=call.arguments + event.arguments)
        self._parts[place] = grown
        if place == self._place and self._open is not None:
            self._open = grown
        fields: Fields = {"item_id": f"fc_{self._identity}_{place}", "output_index": place, "delta": event.arguments}
        return self._tell("response.function_call_arguments.delta", fields)

    # -- ends

    def _close(self) -> bytes:
        part, self._open = self._open, None
        if part is None:
            return b""
        if isinstance(part, Text | Refusal):
            return self._close_message(part)
        if isinstance(part, Thinking):
            told = b""
            if part.text:
                told = self._tell("response.reasoning_summary_text.done", self._summary({"text": part.text}))
                whole: Fields = {"part": {"type": "summary_text", "text": part.text}}
                told += self._tell("response.reasoning_summary_part.done", self._summary(whole))
            item = {"id": self._id("rs"), "type": "reasoning", **reasoning_fields(part)}
            return told + self._tell("response.output_item.done", {"output_index": self._place, "item": item})
        assert isinstance(part, ToolCall)
        identity = self._id("fc")
        fields: Fields = {"item_id": identity, "output_index": self._place, "arguments": part.arguments}
        fields["name"] = part.name
        told = self._tell("response.function_call_arguments.done", fields)
        item = call_item(part, identity, "completed")
        return told + self._tell("response.output_item.done", {"output_index": self._place, "item": item})

    def _close_message(self, part: Text | Refusal) -> bytes:
        identity = self._id("msg")
        fields: Fields = {"item_id": identity, "output_index": self._place, "content_index": 0}
        if isinstance(part, Text):
            told = self._tell("response.output_text.done", fields | {"text": part.text, "logprobs": []})
        else:
            told = self._tell("response.refusal.done", fields | {"refusal": part.text})
        told += self._tell("response.content_part.done", self._part_fields(part))
        item = message_item([content_of(part)], identity, "completed")
        return told + self._tell("response.output_item.done", {"output_index": self._place, "item": item})

    def _end(self) -> bytes:
        closed = self._close()
        answer = Answer(parts=tuple(self._parts), stop=self._stop.stop, usage=self._usage)
        last = ending(answer)
        items: list[Fields] = []
        for place, part in enumerate(self._parts):
            items.extend(_item(part, self._identity, place))
        response = self._head | last | {"output": items}
        return closed + self._tell(f"response.{last['status']}", {"response": response})

    # -- bookkeeping

    @property
    def _place(self) -> int:
        return len(self._parts) - 1

    def _id(self, kind: str) -> str:
        return f"{kind}_{self._identity}_{self._place}"

    def _add(self, part: Part) -> None:
        self._parts.append(part)
        self._open = part

    def _grow(self, part: Part) -> None:
        self._parts[-1] = self._open = part

    def _tell(self, kind: str, fields: Fields) -> bytes:
        told = {"type": kind, "sequence_number": self._sequence} | fields
        self._sequence += 1
        return sse(dumps(told), kind.encode())


def _item(part: Part, identity: str, place: int) -> list[Fields]:
    """One item under the id it was streamed with."""
    (item,) = output_items((part,), identity)
    kind = str(item["id"]).partition("_")[0]
    return [item | {"id": f"{kind}_{identity}_{place}"}]
