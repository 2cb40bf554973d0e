"""Errors in words: what a refusal says, and which class a failure belongs to."""

from datetime import UTC, datetime
from typing import Final

from farthing.core.budget import Violation
from farthing.core.errors import BudgetExceeded, Overloaded, ProviderFailed, RateLimited, TimedOut
from farthing.core.money import format_usd
from farthing.core.policy import ErrorClass
from farthing.core.types import Decision, Denied

_HINTS: Final = {
    "tool_calls": "Stop the agent and see why it keeps calling tools, begin a new session, or raise the cap; "
    "retrying will not help.",
    "requests": "Wait until the limit begins anew, or raise the budget; retrying at once will not help.",
}


def amount_text(unit: str, amount: int) -> str:
    """An amount in a budget's unit: dollars exactly, other units as counts with their name."""
    if unit == "usd":
        return f"${format_usd(amount)}"
    name = unit.replace("_", " ")
    return f"{amount:,} {name.removesuffix('s') if amount == 1 else name}"


def budget_exceeded(denied: Denied, now_ms: int) -> BudgetExceeded:
    """The refusal of a call that does not fit: which budget, what is left, when it resets."""
    hold = denied.hold
    left = max(0, denied.left)
    resets = "it never resets by itself"
    if hold.resets_at_ms is not None:
        at = datetime.fromtimestamp(hold.resets_at_ms / 1000, UTC)
        when = f"{at:%Y-%m-%dT%H:%M:%SZ} (in {_span(hold.resets_at_ms - now_ms)})"
        resets = f"it frees as use grows old, the last of it at {when}" if hold.also else f"it resets at {when}"
    hint = _HINTS.get(
        hold.unit,
        "Lower max_tokens, shorten the prompt, use a cheaper model or raise the budget; retrying will not help.",
    )
    if hold.unit == "requests" and hold.resets_at_ms is None:
        hint = "Add credit or raise the budget; retrying will not help."
    return BudgetExceeded(
        f"Budget '{hold.budget or hold.counter}' ({hold.counter}, {hold.window}) has "
        f"{amount_text(hold.unit, left)} of {amount_text(hold.unit, hold.limit)} left, and this call can need "
        f"{amount_text(hold.unit, hold.amount)}; {resets}.",
        hint=hint,
        budget=hold.budget or hold.counter,
        left=amount_text(hold.unit, left),
        limit=amount_text(hold.unit, hold.limit),
        resets_at_ms=hold.resets_at_ms,
    )


def refusal(error: BudgetExceeded) -> Decision:
    """Why a call was refused, for ``farthing budget explain``."""
    evidence = (("budget", error.budget), ("left", error.left), ("limit", error.limit), ("why", error.message))
    return Decision(stage="budget", action="refuse", reason=error.code, evidence=evidence)


def would_refuse(denied: Denied) -> Decision:
    """A soft limit that this call passes: what it would have done were it hard."""
    hold = denied.hold
    evidence = (
        ("budget", hold.budget),
        ("counter", hold.counter),
        ("window", hold.window),
        ("left", amount_text(hold.unit, denied.left)),
        ("limit", amount_text(hold.unit, hold.limit)),
        ("needed", amount_text(hold.unit, hold.amount)),
    )
    return Decision(stage="budget", action="shadow", reason="would_have_refused", evidence=evidence)


def request_limit_exceeded(violation: Violation, *, session: str = "") -> BudgetExceeded:
    """The refusal of a call that by itself passes a limit on single calls."""
    name = violation.budget.name
    if violation.unit == "turns_without_human":
        where = f"session '{session}'" if session else "this conversation"
        return BudgetExceeded(
            f"This would be turn {violation.needed} of the model in {where} since a human last spoke; the budget "
            f"'{name}' allows {violation.limit}.",
            hint="Let a person look at what the agent is doing and answer it, or raise the cap. "
            "Retrying will not help.",
            budget=name,
            left="0 turns",
            limit=f"{violation.limit} turns without a human",
            resets_at_ms=None,
        )
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
