"""What comes back: answers, streams and failures of one format in the words of another."""

from collections.abc import Callable
from typing import Final, Protocol

from farthing.core.errors import RequestError, StreamBroken
from farthing.core.types import Dialect
from farthing.wire.canonical import Answer, Event, Format
from farthing.wire.sse import SseEvent, SseSplitter
from farthing.wire.translate import (
    chat_answer,
    converse_answer,
    gemini_answer,
    messages_answer,
    responses_answer,
)
from farthing.wire.translate.answers import Frame, failure_of
from farthing.wire.translate.chat_stream import ChatReader, ChatWriter
from farthing.wire.translate.errors import error_body, status_for
from farthing.wire.translate.messages_stream import MessagesReader, MessagesWriter
from farthing.wire.translate.responses_stream import ResponsesReader, ResponsesWriter

READERS: Final[dict[Format, Callable[[bytes], Answer]]] = {
    "chat": chat_answer.read,
    "responses": responses_answer.read,
    "messages": messages_answer.read,
    "gemini": gemini_answer.read,
    "converse": converse_answer.read,
}
WRITERS: Final[dict[Format, Callable[[Answer, Frame], bytes]]] = {
    "chat": chat_answer.write,
    "responses": responses_answer.write,
    "messages": messages_answer.write,
}


class StreamReader(Protocol):
    """Learns events of one stream."""

    def event(self, name: bytes, data: bytes) -> list[Event]: ...

    def finish(self) -> list[Event]: ...


class StreamWriter(Protocol):
    """Tells events of one stream."""

    def write(self, event: Event) -> bytes: ...


STREAM_READERS: Final[dict[Format, Callable[[], StreamReader]]] = {
    "chat": ChatReader,
    "responses": ResponsesReader,
    "messages": MessagesReader,
    "gemini": gemini_answer.GeminiReader,
    "converse": converse_answer.ConverseReader,
}


def stream_writer(form: Format, frame: Frame, *, include_usage: bool) -> StreamWriter:
    """A writer of one of the callers' formats."""
    if form == "chat":
        return ChatWriter(frame, include_usage=include_usage)
    return MessagesWriter(frame) if form == "messages" else ResponsesWriter(frame)


def translate_answer(body: bytes, *, source: Format, target: Format, frame: Frame) -> bytes:
    """A whole answer in another format. Raises :class:`StreamBroken` when it cannot be read."""
    try:
        return WRITERS[target](READERS[source](body), frame)
    except RequestError as error:
        raise StreamBroken(f"The provider's answer cannot be translated: {error.message}") from None


def failure_for(dialect: Dialect, status: int, body: bytes, request_id: str = "") -> tuple[int, bytes]:
    """(status, body) of a provider's error in a caller's dialect."""
    failure = failure_of(status_for(dialect, status), body)
    return failure.status, error_body(dialect, failure, request_id)


class StreamTranslator:
    """One stream on its way back: events of one format in, bytes of another out, as they come."""

    def __init__(self, *, source: Format, target: Format, frame: Frame, include_usage: bool) -> None:
        """``include_usage`` is what a chat caller asked for."""
        self._splitter = SseSplitter()
        self._reader = STREAM_READERS[source]()
        self._writer = stream_writer(target, frame, include_usage=include_usage)

    def feed(self, chunk: bytes) -> bytes:
        """What the caller gets for these bytes of the provider. Raises :class:`StreamBroken`."""
        return self._told(self._splitter.feed(chunk))

    def finish(self) -> bytes:
        """What the caller gets once the provider has said all."""
        told = self._told(self._splitter.finish())
        return told + b"".join(self._writer.write(event) for event in self._reader.finish())

    def _told(self, events: list[SseEvent]) -> bytes:
        reader, writer = self._reader, self._writer
        try:
            return b"".join(writer.write(event) for raw in events for event in reader.event(raw.name, raw.data))
        except RequestError as error:
            raise StreamBroken(f"The provider's stream cannot be translated: {error.message}") from None
