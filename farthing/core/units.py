"""Billable units: the names of usage lines, and how they add up.

A unit names a *disjoint* leaf, ``<direction>[_<kind>][_<cache or part>]``: ``input`` is uncached text input,
``input_cache_read`` text read from the prompt cache, ``output`` visible text, ``output_reasoning`` hidden text.
The sum of a usage's lines is what the provider bills; no line is part of another.
"""

from typing import Final

INPUT: Final = "input"
INPUT_CACHE_READ: Final = "input_cache_read"
INPUT_CACHE_WRITE: Final = "input_cache_write"
INPUT_CACHE_WRITE_5M: Final = "input_cache_write_5m"
INPUT_CACHE_WRITE_30M: Final = "input_cache_write_30m"
INPUT_CACHE_WRITE_1H: Final = "input_cache_write_1h"
INPUT_CACHE_WRITE_12H: Final = "input_cache_write_12h"
OUTPUT: Final = "output"
OUTPUT_REASONING: Final = "output_reasoning"

TOKEN_UNITS: Final[frozenset[str]] = frozenset(
    {
        INPUT,
        INPUT_CACHE_READ,
        INPUT_CACHE_WRITE,
        INPUT_CACHE_WRITE_5M,
        INPUT_CACHE_WRITE_30M,
        INPUT_CACHE_WRITE_1H,
        INPUT_CACHE_WRITE_12H,
        "input_tool",
        "input_audio",
        "input_audio_cache_read",
        "input_image",
        "input_image_cache_read",
        "input_video",
        "input_video_cache_read",
        "input_document",
        "input_document_cache_read",
        OUTPUT,
        OUTPUT_REASONING,
        "output_prediction_rejected",
        "output_audio",
        "output_image",
        "output_video",
        "output_citation",
    }
)
"""Units counted in tokens."""

OTHER_UNITS: Final[frozenset[str]] = frozenset(
    {
        "request",
        "web_search",
        "web_fetch",
        "file_search",
        "code_session",
        "grounding",
        "maps_grounding",
        "search_unit",
        "image",
        "page",
        "character",
        "input_audio_ms",
        "output_audio_ms",
        "output_video_ms",
        "cache_storage_token_hour",
        "tool_call",
    }
)
"""Units counted in pieces or milliseconds."""

UNITS: Final[frozenset[str]] = TOKEN_UNITS | OTHER_UNITS


INPUT_UNITS: Final[frozenset[str]] = frozenset(unit for unit in TOKEN_UNITS if unit.startswith("input"))
"""Token units on the input side, whatever their cache state."""

OUTPUT_UNITS: Final[frozenset[str]] = frozenset(unit for unit in TOKEN_UNITS if unit.startswith("output"))
"""Token units on the output side, reasoning included."""


def is_input(unit: str) -> bool:
    """True for token units on the input side, whatever their cache state."""
    return unit in INPUT_UNITS


def is_output(unit: str) -> bool:
    """True for token units on the output side, reasoning included."""
    return unit in OUTPUT_UNITS


def is_cache_read(unit: str) -> bool:
    """True for input tokens that a provider's prompt cache served."""
    return unit.endswith("_cache_read")


def is_cache_write(unit: str) -> bool:
    """True for input tokens that were written to a provider's prompt cache."""
    return "_cache_write" in unit
