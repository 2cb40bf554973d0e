"""Errors in words: what a refusal says, and which class a failure belongs to."""

from datetime import UTC, datetime

from farthing.core.budget import Violation
from farthing.core.errors import BudgetExceeded, Overloaded, ProviderFailed, RateLimited, TimedOut
from farthing.core.money import format_usd
from farthing.core.policy import ErrorClass
from farthing.core.types import Denied


def amount_text(unit: str, amount: int) -> str:
    """An amount in a budget's unit: dollars exactly, other units as counts with their name."""
    if unit == "usd":
        return f"${format_usd(amount)}"
    return f"{amount:,} {unit.replace('_', ' ')}"


def budget_exceeded(denied: Denied, now_ms: int) -> BudgetExceeded:
    """The refusal of a call that does not fit: which budget, what is left, when it resets."""
    hold = denied.hold
    left = max(0, denied.left)
    resets = "it never resets by itself"
    if hold.resets_at_ms is not None:
        at = datetime.fromtimestamp(hold.resets_at_ms / 1000, UTC)
        resets = f"it resets at {at:%Y-%m-%dT%H:%M:%SZ} (in {_span(hold.resets_at_ms - now_ms)})"
    return BudgetExceeded(
        f"Budget '{hold.budget or hold.counter}' ({hold.counter}, {hold.window}) has "
        f"{amount_text(hold.unit, left)} of {amount_text(hold.unit, hold.limit)} left, and this call can need "
        f"{amount_text(hold.unit, hold.amount)}; {resets}.",
        hint="Lower max_tokens, shorten the prompt, use a cheaper model or raise the budget; retrying will not help.",
        budget=hold.budget or hold.counter,
        left=amount_text(hold.unit, left),
        limit=amount_text(hold.unit, hold.limit),
        resets_at_ms=hold.resets_at_ms,
    )


def request_limit_exceeded(violation: Violation) -> BudgetExceeded:
    """The refusal of a call that is by itself larger than a per-request limit."""
    name = violation.budget.name
    needed = amount_text(violation.unit, violation.needed)
    limit = amount_text(violation.unit, violation.limit)
    return BudgetExceeded(
        f"This call can need {needed}, more than the {limit} that the budget '{name}' allows per request.",
        hint="Lower max_tokens or shorten the prompt. Retrying will not help.",
        budget=name,
        left=limit,
        limit=limit,
        resets_at_ms=None,
    )


def _span(span_ms: int) -> str:
    seconds = max(0, span_ms // 1000)
    for size, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds // size} {name}"
    return f"{seconds} seconds"


def error_class(error: ProviderFailed) -> ErrorClass | None:
    """The class by which policies name a failure; None for failures that no policy retries."""
    if isinstance(error, RateLimited):
        return "rate_limited"
    if isinstance(error, TimedOut):
        return "timed_out"
    if isinstance(error, Overloaded):
        return "connection" if error.status is None else "overloaded"
    if error.status == 404:
        return "model_not_found"
    return None
