"""Billing facts from around a usage object: tier, region, batch processing."""

from collections.abc import Mapping
from typing import Final

from farthing.wire.usage.tally import Facts

_TIERS: Final = {"standard": "default", "on_demand": "default", "auto": ""}
"""Provider words for the ordinary tier; ``auto`` names a wish, not a tier that served."""

_FACETS: Final = ("speed", "traffic", "search_context", "latency", "deployment")
_REGIONS: Final = ("region", "vertex_location", "inference_geo")

CONTEXT: Final = frozenset(
    {"model", "service_tier", "batch", "processing", "finish_reason", "upstream_id", *_REGIONS, *_FACETS}
)
"""What :func:`apply_context` understands."""


def served_tier(value: str | None) -> str:
    """A provider's word for the tier it served, in Farthing's words; unknown words stay as they are."""
    if not value:
        return ""
    word = value.lower().removeprefix("service_tier_")
    return _TIERS.get(word, word)


def apply_context(facts: Facts, context: Mapping[str, object]) -> None:
    """Adds what the caller knows from around the usage; what the usage itself says goes first, except batches.

    Keys: ``model``, ``service_tier``, ``batch``/``processing``, ``region``/``vertex_location``/``inference_geo``,
    ``finish_reason``, ``upstream_id``, and the facets ``speed``, ``traffic``, ``search_context``, ``latency``,
    ``deployment``. Batch processing decides the tier even where the line inside the batch repeats the ordinary one.
    """
    facts.model = facts.model or _word(context, "model")
    facts.service_tier = facts.service_tier or served_tier(_word(context, "service_tier"))
    facts.finish_reason = facts.finish_reason or _word(context, "finish_reason")
    facts.upstream_id = facts.upstream_id or _word(context, "upstream_id")
    if _word(context, "batch").lower() in {"true", "1"} or _word(context, "processing").lower() == "batch":
        facts.service_tier = "batch"
    stated = facts.facets or {}
    around = next((word for key in _REGIONS if (word := _word(context, key))), "")
    facts.facet("region", stated.get("region") or around)
    for name in _FACETS:
        facts.facet(name, stated.get(name) or _word(context, name))


def _word(context: Mapping[str, object], key: str) -> str:
    value = context.get(key)
    return "" if value is None else str(value)
