"""The OpenAI Responses API: usage in the terminal event, hosted tools counted apart from it."""

from collections.abc import Mapping
from typing import Final

import msgspec

from farthing.core.types import Usage, UsagePart, UsageSource
from farthing.wire.usage.context import apply_context, served_tier
from farthing.wire.usage.openai_tokens import TOKEN_USAGE, TokenUsage, source_of, token_part, totals_of
from farthing.wire.usage.reading import EMPTY, Count, Notes, as_json, is_given, read
from farthing.wire.usage.tally import Facts, Lines, assemble, missing, part_of
from farthing.wire.usage.text_size import text_size

IMAGE_TOOL_MODEL: Final = "image_generation"
"""Model of a part that hosted image generation consumed when the answer does not name the image model."""


class Action(msgspec.Struct, frozen=True, gc=False):
    """What a web search call did."""

    type: str | None = None


class Item(msgspec.Struct, frozen=True, gc=False):
    """An output item; only hosted tool calls matter."""

    id: str | None = None
    type: str | None = None
    action: Action | None = None
    container_id: str | None = None


class WebSearches(msgspec.Struct, frozen=True, gc=False):
    """Billable searches."""

    num_requests: Count | None = None


class ToolUsage(msgspec.Struct, frozen=True, gc=False):
    """What hosted tools consumed, apart from the model's own usage."""

    web_search: WebSearches | None = None
    image_gen: TokenUsage | None = None


class Incomplete(msgspec.Struct, frozen=True, gc=False):
    """Why an answer is incomplete."""

    reason: str | None = None


class Tool(msgspec.Struct, frozen=True, gc=False):
    """A tool as the answer repeats it; image generation may name its model."""

    type: str | None = None
    model: str | None = None


class Response(msgspec.Struct, frozen=True, gc=False):
    """What metering needs of a response object."""

    id: str | None = None
    model: str | None = None
    status: str | None = None
    service_tier: str | None = None
    incomplete_details: Incomplete | None = None
    output: list[Item] | None = None
    tools: list[Tool] | None = None
    tool_usage: ToolUsage | None = None
    usage: msgspec.Raw = EMPTY


class Event(msgspec.Struct, frozen=True, gc=False):
    """A stream event of any type."""

    type: str | None = None
    response: msgspec.Raw = EMPTY
    item: Item | None = None
    delta: msgspec.Raw = EMPTY


_RESPONSE: Final = msgspec.json.Decoder(Response)
_EVENT: Final = msgspec.json.Decoder(Event)
_TERMINAL: Final = frozenset({"response.completed", "response.incomplete", "response.failed", "response.done"})
_TEXT_DELTAS: Final = ("text.delta", "arguments.delta", "refusal.delta", "input.delta", "code.delta")
_FREE_ACTIONS: Final = frozenset({"open_page", "find_in_page", "find"})
"""Web search actions that are not billed as searches."""


class ResponsesReader:
    """Reads the Responses API."""

    reasoning_beside: bool = False

    def __init__(self, flavour: str) -> None:
        self.flavour = flavour

    def from_body(self, body: bytes) -> Usage:
        """Usage of a complete response object; never raises."""
        notes: Notes = []
        response = read(_RESPONSE, body, notes)
        if response is None:
            return Usage(source="missing", anomalies=("body_not_json",))
        return self.from_response(response, response.output or [], Facts(), notes, complete=True)

    def from_usage(self, usage: Mapping[str, object], *, context: Mapping[str, str]) -> Usage:
        """Usage from a bare usage object and what is known around it; never raises."""
        notes: Notes = []
        facts = Facts()
        apply_context(facts, context)
        response = Response(usage=msgspec.Raw(as_json(usage, notes)))
        return self.from_response(response, [], facts, notes, complete=True)

    def meter(self) -> "ResponsesMeter":
        """A meter for one stream."""
        return ResponsesMeter(self)

    def from_response(
        self, response: Response, items: list[Item], facts: Facts, notes: Notes, *, complete: bool
    ) -> Usage:
        """Usage of a response object whose hosted tool calls are ``items``."""
        facts.model = response.model or facts.model
        facts.upstream_id = response.id or facts.upstream_id
        facts.service_tier = served_tier(response.service_tier) or facts.service_tier
        why = response.incomplete_details.reason if response.incomplete_details is not None else None
        facts.finish_reason = why or response.status or facts.finish_reason
        tools = tool_lines(response, items)
        others = _image_parts(response, notes)
        if not is_given(response.usage):
            parts = [part_of(tools, tier_basis=0), *others]
            absent: UsageSource = "missing" if complete else "partial"
            return assemble(parts, source=absent, facts=facts, notes=notes)
        verbatim = bytes(response.usage)
        usage = read(TOKEN_USAGE, verbatim, notes)
        if usage is None:
            notes.append("usage_not_an_object")
            return missing(facts, notes, complete=complete, raw=verbatim)
        totals = totals_of(usage, notes)
        if not totals.stated:
            notes.append("usage_without_totals")
        part = token_part(usage, totals, notes, reasoning_beside=self.reasoning_beside)
        if tools:
            part = part_of(dict(part.lines) | tools, tier_basis=part.tier_basis)
        extra = self.extras(verbatim, facts, notes)
        if extra:
            part = part_of(dict(part.lines) | extra, tier_basis=part.tier_basis)
        source = source_of(totals, complete=complete)
        return assemble((part, *others), source=source, facts=facts, notes=notes, raw=verbatim)

    def extras(self, raw: bytes, facts: Facts, notes: Notes) -> Lines:
        """Further lines and facts that a provider puts into its usage; none for OpenAI."""
        return {}


def tool_lines(response: Response, items: list[Item]) -> Lines:
    """Hosted tool calls that are billed by the piece."""
    stated = response.tool_usage.web_search if response.tool_usage is not None else None
    if stated is not None and stated.num_requests is not None:
        searches = stated.num_requests
    else:
        searches = sum(1 for item in items if item.type == "web_search_call" and not _is_free(item))
    lines = {
        "web_search": searches,
        "file_search": sum(1 for item in items if item.type == "file_search_call"),
        "code_session": _sessions(items),
    }
    return {unit: quantity for unit, quantity in lines.items() if quantity}


def _is_free(item: Item) -> bool:
    return item.action is not None and item.action.type in _FREE_ACTIONS


def _sessions(items: list[Item]) -> int:
    """Containers used by code interpreter calls; calls that do not name theirs share one."""
    return len({item.container_id for item in items if item.type == "code_interpreter_call"})


def _image_parts(response: Response, notes: Notes) -> list[UsagePart]:
    """What hosted image generation consumed, rated by its own model."""
    used = response.tool_usage.image_gen if response.tool_usage is not None else None
    if used is None:
        return []
    totals = totals_of(used, notes)
    named = (tool.model for tool in response.tools or () if tool.type == "image_generation" and tool.model)
    part = token_part(used, totals, notes, model=next(named, IMAGE_TOOL_MODEL))
    return [part] if part.lines else []


class ResponsesMeter:
    """Learns the usage of one Responses stream.

    The terminal event carries the whole response with its usage. Until then only finished hosted tool calls are
    known. Skipping events without a mark loses ``text_bytes`` and nothing that is billed, provided that the first
    event (model and id) is fed.
    """

    marks: tuple[bytes, ...] = (
        b'_tokens"',
        b'_call"',
        b"response.created",
        b"response.completed",
        b"response.incomplete",
        b"response.failed",
    )

    def __init__(self, reader: ResponsesReader) -> None:
        self.text_bytes = 0
        self.ended = False
        """The stream's own terminal event was seen."""
        self._reader = reader
        self._response = Response()
        self._items: list[Item] = []
        self._notes: Notes = []

    def event(self, data: bytes) -> None:
        """Takes one event's payload; anything that is no response event is ignored."""
        event = read(_EVENT, data, [])
        if event is None or event.type is None:
            return
        if event.type.endswith(_TEXT_DELTAS):
            self.text_bytes += text_size(event.delta)
        elif event.type == "response.output_item.done":
            if event.item is not None:
                self._items.append(event.item)
        elif is_given(event.response):
            self._take(event.type, event.response)

    def usage(self, *, complete: bool) -> Usage:
        """What was consumed; ``reported`` once the terminal event was seen, even if the stream broke after it."""
        items = self._response.output if self.ended and self._response.output else self._items
        notes = list(self._notes)
        return self._reader.from_response(self._response, items, Facts(), notes, complete=complete or self.ended)

    def _take(self, event_type: str, raw: msgspec.Raw) -> None:
        terminal = event_type in _TERMINAL
        notes: Notes = []
        response = read(_RESPONSE, raw, notes)
        if response is None or (self.ended and not terminal):
            return
        self._notes = notes
        self.ended = self.ended or terminal
        tier = response.service_tier if terminal else None
        self._response = msgspec.structs.replace(response, service_tier=tier, usage=response.usage.copy())
