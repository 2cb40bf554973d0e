"""OpenRouter: OpenAI's shape plus what the call cost, and the second bill of callers who bring their own key."""

from decimal import Decimal
from typing import Final

import msgspec

from farthing.wire.usage.openai import ChatReader
from farthing.wire.usage.reading import Count, Notes, read
from farthing.wire.usage.tally import Facts, Lines, pusd


class CostDetails(msgspec.Struct, frozen=True, gc=False):
    """What the upstream provider charges on the caller's own key."""

    upstream_inference_cost: Decimal | None = None


class ServerTools(msgspec.Struct, frozen=True, gc=False):
    """Hosted tools."""

    web_search_requests: Count | None = None


class RouterUsage(msgspec.Struct, frozen=True, gc=False):
    """What OpenRouter adds to the OpenAI usage object."""

    cost: Decimal | None = None
    is_byok: bool | None = None
    cost_details: CostDetails | None = None
    server_tool_use: ServerTools | None = None


_USAGE: Final = msgspec.json.Decoder(RouterUsage)


class OpenRouterReader(ChatReader):
    """Chat through OpenRouter.

    ``stated_pusd`` is what OpenRouter charges. With the caller's own key the inference itself is billed by the
    upstream provider: the facets ``byok`` and ``byok_upstream_pusd`` carry that second bill, and the anomaly
    ``second_bill`` keeps it from going unseen.
    """

    def extras(self, raw: bytes, facts: Facts, notes: Notes) -> Lines:
        """The charge, the second bill, and web searches."""
        usage = read(_USAGE, raw, notes)
        if usage is None:
            return {}
        facts.stated_pusd = pusd(usage.cost, "cost", notes)
        if usage.is_byok:
            facts.facet("byok", "true")
            details = usage.cost_details or CostDetails()
            upstream = pusd(details.upstream_inference_cost, "cost_details.upstream_inference_cost", notes)
            if upstream is not None:
                facts.facet("byok_upstream_pusd", str(upstream))
                notes.append(f"second_bill:upstream_inference_cost={details.upstream_inference_cost}")
        searches = usage.server_tool_use.web_search_requests if usage.server_tool_use is not None else None
        return {"web_search": searches} if searches else {}
