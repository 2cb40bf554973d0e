"""Gemini through the endpoint that speaks OpenAI's language: thoughts stand in the grand total only."""

import msgspec

from farthing.core.types import UsagePart
from farthing.wire.usage.openai import ChatReader
from farthing.wire.usage.openai_tokens import TokenUsage, Totals, token_part
from farthing.wire.usage.reading import Notes


class GoogleChatReader(ChatReader):
    """Chat of Gemini models. What the total has beyond prompt and completion was thought, and is billed as output."""

    def part(self, usage: TokenUsage, totals: Totals, notes: Notes) -> UsagePart:
        """The token lines."""
        beyond = (usage.total_tokens or 0) - totals.input - totals.output
        details = usage.completion_tokens_details
        told = usage.reasoning_tokens or (details is not None and details.reasoning_tokens)
        if beyond <= 0 or told:
            return super().part(usage, totals, notes)
        notes.append(f"thoughts_in_total_only:{beyond}")
        thought = msgspec.structs.replace(usage, reasoning_tokens=beyond)
        if details is not None:
            thought = msgspec.structs.replace(
                thought, completion_tokens_details=msgspec.structs.replace(details, reasoning_tokens=None)
            )
        return token_part(thought, totals, notes, reasoning_beside=True)
