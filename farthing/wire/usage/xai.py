"""xAI: reasoning beside the output in chat, hosted tools counted in the usage, and the bill itself in ticks."""

from decimal import Decimal
from typing import Final

import msgspec

from farthing.wire.usage.openai import ChatReader
from farthing.wire.usage.openai_responses import ResponsesReader
from farthing.wire.usage.reading import Count, Notes, read
from farthing.wire.usage.tally import Facts, Lines, pusd

PUSD_PER_TICK: Final = 100
"""A tick is 10⁻¹⁰ USD."""


class ToolCalls(msgspec.Struct, frozen=True, gc=False):
    """Successful calls of hosted tools."""

    web_search_calls: Count | None = None
    x_search_calls: Count | None = None
    code_interpreter_calls: Count | None = None
    code_execution_calls: Count | None = None
    file_search_calls: Count | None = None
    collections_search_calls: Count | None = None
    document_search_calls: Count | None = None
    mcp_calls: Count | None = None


class XaiUsage(msgspec.Struct, frozen=True, gc=False):
    """What xAI adds to the OpenAI usage object."""

    cost_in_usd_ticks: Decimal | None = None
    num_sources_used: Count | None = None
    server_side_tool_usage_details: ToolCalls | None = None


_USAGE: Final = msgspec.json.Decoder(XaiUsage)


def xai_extras(raw: bytes, facts: Facts, notes: Notes) -> Lines:
    """Hosted tool calls as lines, the stated bill as a fact. Calls of the caller's own MCP servers are free."""
    usage = read(_USAGE, raw, notes)
    if usage is None:
        return {}
    facts.stated_pusd = pusd(usage.cost_in_usd_ticks, "cost_in_usd_ticks", notes, scale=PUSD_PER_TICK)
    calls = usage.server_side_tool_usage_details or ToolCalls()
    lines = {
        "search_unit": usage.num_sources_used or 0,
        "web_search": (calls.web_search_calls or 0) + (calls.x_search_calls or 0),
        "file_search": (calls.file_search_calls or 0)
        + (calls.collections_search_calls or 0)
        + (calls.document_search_calls or 0),
        "tool_call": (calls.code_interpreter_calls or 0) + (calls.code_execution_calls or 0),
    }
    return {unit: quantity for unit, quantity in lines.items() if quantity}


class XaiChatReader(ChatReader):
    """Chat: ``total = prompt + completion + reasoning``, and ``text_tokens`` counts images too."""

    reasoning_beside = True
    text_is_all = True

    def extras(self, raw: bytes, facts: Facts, notes: Notes) -> Lines:
        """See :func:`xai_extras`."""
        return xai_extras(raw, facts, notes)


class XaiResponsesReader(ResponsesReader):
    """Responses: reasoning is inside the output. Hosted calls come from the usage where it counts them."""

    def extras(self, raw: bytes, facts: Facts, notes: Notes) -> Lines:
        """See :func:`xai_extras`."""
        return xai_extras(raw, facts, notes)
