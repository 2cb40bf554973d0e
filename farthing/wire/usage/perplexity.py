"""Perplexity: reasoning and citations beside the output, searches and request fees, and the cost itself."""

from decimal import Decimal
from typing import Final

import msgspec

from farthing.core.types import UsagePart
from farthing.wire.usage.openai import ChatReader
from farthing.wire.usage.openai_responses import ResponsesReader
from farthing.wire.usage.openai_tokens import TokenUsage, Totals, token_part
from farthing.wire.usage.reading import Count, Notes, read
from farthing.wire.usage.tally import Facts, Lines, part_of, pusd


class Cost(msgspec.Struct, frozen=True, gc=False):
    """Perplexity's own bill, in dollars."""

    total_cost: Decimal | None = None
    request_cost: Decimal | None = None


class SonarUsage(msgspec.Struct, frozen=True, gc=False):
    """What Perplexity adds to the OpenAI usage object."""

    citation_tokens: Count | None = None
    num_search_queries: Count | None = None
    search_context_size: str | None = None
    cost: Cost | None = None


_USAGE: Final = msgspec.json.Decoder(SonarUsage)


class SonarReader(ChatReader):
    """Sonar chat. ``total_tokens`` is prompt + completion; reasoning and citations are neither."""

    def part(self, usage: TokenUsage, totals: Totals, notes: Notes) -> UsagePart:
        """Prompt and completion stand; reasoning is added as its own line."""
        reasoning = usage.reasoning_tokens or 0
        shown = msgspec.structs.replace(usage, reasoning_tokens=None)
        part = token_part(shown, totals, notes)
        return part_of({**dict(part.lines), "output_reasoning": reasoning}, tier_basis=part.tier_basis)

    def extras(self, raw: bytes, facts: Facts, notes: Notes) -> Lines:
        """Citations, searches, and the request fee where one is charged."""
        usage = read(_USAGE, raw, notes)
        if usage is None:
            return {}
        facts.facet("search_context", usage.search_context_size)
        _state_cost(usage.cost, facts, notes)
        lines = {
            "output_citation": usage.citation_tokens or 0,
            "web_search": usage.num_search_queries or 0,
            "request": 1 if _has_request_fee(usage) else 0,
        }
        return {unit: quantity for unit, quantity in lines.items() if quantity}


class AgentReader(ResponsesReader):
    """The Agent API, which answers in the Responses format and states its cost."""

    def extras(self, raw: bytes, facts: Facts, notes: Notes) -> Lines:
        """The stated cost; no further lines."""
        usage = read(_USAGE, raw, notes)
        if usage is not None:
            _state_cost(usage.cost, facts, notes)
        return {}


def _state_cost(cost: Cost | None, facts: Facts, notes: Notes) -> None:
    if cost is not None:
        facts.stated_pusd = pusd(cost.total_cost, "cost.total_cost", notes)


def _has_request_fee(usage: SonarUsage) -> bool:
    """The stated cost decides; without it, answers that name a search context size pay a fee by that size."""
    if usage.cost is not None and usage.cost.total_cost is not None:
        return usage.cost.request_cost is not None and usage.cost.request_cost > 0
    return bool(usage.search_context_size)
