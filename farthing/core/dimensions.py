"""Dimensions: the names by which spend can be grouped, filtered, budgeted and reported."""

from typing import Final

from farthing.core.types import Exchange, LedgerEntry, Scope

SCOPE_DIMENSIONS: Final = ("org", "team", "project", "user", "feature", "customer", "session", "key")
"""Who: set by keys and headers."""

ENTRY_DIMENSIONS: Final = (
    "provider",
    "model",
    "model_requested",
    "endpoint",
    "dialect",
    "service_tier",
    "source",
    "state",
    "reason",
    "kind",
    "policy",
    "price_book",
    "status",
)
"""What: facts of the entry itself."""

TIME_DIMENSIONS: Final = ("hour", "day", "week", "month")
"""When, in UTC: ``2026-11-21T14``, ``2026-11-21``, ``2026-W47``, ``2026-11``."""

SHORT_NAMES: Final = {name: f"tag:{name}" for name in ("trace", "span", "agent", "step")}
"""Tags that agents' calls carry (``trace`` and ``span`` from ``traceparent``), grouped by like dimensions."""


def full_name(name: str) -> str:
    """The dimension that a short name means: ``trace`` is ``tag:trace``."""
    return SHORT_NAMES.get(name, name)


def is_dimension(name: str) -> bool:
    """True for any name that reports can group by; ``tag:<name>`` groups by a tag."""
    known = name in SCOPE_DIMENSIONS or name in ENTRY_DIMENSIONS or name in TIME_DIMENSIONS
    return known or (name.startswith("tag:") and len(name) > 4)


def scope_value(scope: Scope, dimension: str) -> str:
    """The scope's value of one dimension; "" when it was not said or is not a scope dimension."""
    if dimension.startswith("tag:"):
        wanted = dimension[4:]
        return next((value for name, value in scope.tags if name == wanted), "")
    return str(getattr(scope, dimension)) if dimension in SCOPE_DIMENSIONS else ""


def entry_value(entry: LedgerEntry, dimension: str) -> str:
    """The entry's value of one scope or entry dimension."""
    match dimension:
        case "provider" | "model" | "model_requested" | "endpoint" | "dialect" | "kind":
            return str(getattr(entry, dimension))
        case "service_tier":
            return entry.usage.service_tier
        case "source":
            return entry.usage.source
        case "state":
            return entry.charge.state
        case "reason":
            return entry.charge.reason
        case "policy":
            return entry.policy_ref
        case "price_book":
            return entry.charge.price_ref
        case "status":
            return str(entry.status)
        case _:
            return scope_value(entry.scope, dimension)


def exchange_value(exchange: Exchange, dimension: str) -> str:
    """The traffic log's value of a dimension, as far as a call without any entry has one: whose it was and what was
    asked for; "" for facts that only billed tries have."""
    match dimension:
        case "model" | "model_requested":
            return exchange.view.model
        case "endpoint":
            return exchange.view.endpoint
        case "dialect":
            return exchange.dialect
        case "status":
            return str(exchange.status)
        case "policy":
            return exchange.policy_ref
        case _:
            return scope_value(exchange.scope, dimension)
