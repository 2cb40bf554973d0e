"""The levers that a policy may name, as one type."""

from farthing.core.lever import Facts
from farthing.core.levers import (
    cache_breakpoints,
    cap_output,
    compact_json,
    dedupe_blocks,
    extractive_pruning,
    history_summary,
    max_tool_calls,
    prune_tools,
    service_tier,
    trim_history,
)
from farthing.core.levers.cache_breakpoints import CacheBreakpoints
from farthing.core.levers.cap_output import CapOutput
from farthing.core.levers.compact_json import CompactJson
from farthing.core.levers.dedupe_blocks import DedupeBlocks
from farthing.core.levers.extractive_pruning import ExtractivePruning
from farthing.core.levers.history_summary import HistorySummary
from farthing.core.levers.max_tool_calls import MaxToolCalls
from farthing.core.levers.prune_tools import PruneTools
from farthing.core.levers.service_tier import ServiceTier
from farthing.core.levers.trim_history import TrimHistory

AnyLever = (
    PruneTools
    | HistorySummary
    | TrimHistory
    | ExtractivePruning
    | DedupeBlocks
    | CompactJson
    | MaxToolCalls
    | CapOutput
    | ServiceTier
    | CacheBreakpoints
)


def apply(lever: AnyLever, body: bytes, facts: Facts) -> bytes:
    """One lever on one body; the same object when it changes nothing."""
    match lever:
        case CacheBreakpoints():
            return cache_breakpoints.apply(lever, body, facts)
        case TrimHistory():
            return trim_history.apply(lever, body, facts)
        case HistorySummary():
            return history_summary.apply(lever, body, facts)
        case ExtractivePruning():
            return extractive_pruning.apply(lever, body, facts)
        case CompactJson():
            return compact_json.apply(lever, body, facts)
        case DedupeBlocks():
            return dedupe_blocks.apply(lever, body, facts)
        case PruneTools():
            return prune_tools.apply(lever, body, facts)
        case MaxToolCalls():
            return max_tool_calls.apply(lever, body, facts)
        case CapOutput():
            return cap_output.apply(lever, body, facts)
        case ServiceTier():
            return service_tier.apply(lever, body, facts)


def kind_of(lever: AnyLever) -> str:
    """The lever's kind, as the settings name it."""
    return str(lever.__struct_config__.tag)
