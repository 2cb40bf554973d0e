"""The pricing vectors' usages: every one normalises without anomaly to lines that sum to what was reported."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from farthing.core.units import is_input, is_output
from farthing.wire.usage import reader_for

FOLDER = os.environ.get("FARTHING_DATA", "")
VECTORS = Path(FOLDER) / "pricing_vectors.json"


def totals(usage: dict[str, Any]) -> tuple[int, int]:
    """Input and output as each provider's own documentation adds them up."""
    if "promptTokenCount" in usage:
        prompt = usage["promptTokenCount"] + usage.get("toolUsePromptTokenCount", 0)
        return prompt, usage.get("candidatesTokenCount", 0) + usage.get("thoughtsTokenCount", 0)
    if "inputTokens" in usage:
        cached = usage["cacheReadInputTokens"] + usage["cacheWriteInputTokens"]
        return usage["inputTokens"] + cached, usage["outputTokens"]
    if "cache_read_input_tokens" in usage:
        cached = usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"]
        return usage["input_tokens"] + cached, usage["output_tokens"]
    if "input_tokens" in usage:
        return usage["input_tokens"], usage["output_tokens"]
    beside = usage.get("reasoning_tokens", 0) + usage.get("citation_tokens", 0)
    shown = usage["total_tokens"] - usage["prompt_tokens"]
    return usage["prompt_tokens"], shown + beside


@pytest.mark.skipif(not FOLDER or not VECTORS.exists(), reason="FARTHING_DATA has no pricing_vectors.json")
def test_every_vector_normalises_to_lines_that_sum_to_its_totals() -> None:
    vectors = json.loads(VECTORS.read_text())
    assert vectors
    for vector in vectors:
        found = reader_for(vector["provider"], vector["api_flavor"])
        usage = found.from_usage(vector["usage"], context=vector["context"])
        lines = [line for part in usage.parts for line in part.lines]
        summed = (
            sum(quantity for unit, quantity in lines if is_input(unit)),
            sum(quantity for unit, quantity in lines if is_output(unit)),
        )
        assert summed == totals(vector["usage"]), vector["id"]
        assert (usage.source, usage.anomalies) == ("reported", ()), vector["id"]
        if vector["context"].get("batch"):
            assert usage.service_tier == "batch", vector["id"]
