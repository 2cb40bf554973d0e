"""Cheap first, verify, escalate: what the next step of a cascade is, from what is known so far. Pure.

A cascade is one operation: every call of it, cheap, peer, judge and strong, is paid for and counts in its latency.
The order of checks is fixed, cheapest and surest first; a check that cannot be made says nothing.
"""

from typing import Literal, NamedTuple

from farthing.core.cascade_checks import Answer, comparable, deterministic
from farthing.core.policy_routes import DETERMINISTIC, CascadeRules

StepKind = Literal["accept", "escalate", "peer", "judge", "self_check"]


class Step(NamedTuple):
    """What to do next, and why."""

    kind: StepKind
    reason: str
    """A documented slug: ``json_invalid``, ``logprob_high``, ``agreed``…"""
    evidence: tuple[tuple[str, str], ...] = ()


def next_step(
    rules: CascadeRules,
    answer: Answer,
    *,
    peer: Answer | None = None,
    mark: int | None = None,
    confident: bool | None = None,
    schema: str = "",
    tools: tuple[tuple[str, str], ...] = (),
) -> Step:
    """The next step after the cheap answer.

    ``peer`` is the second cheap model's answer, ``mark`` the judge's (0 to 10, −1 when it gave none), ``confident``
    the self-check's; each is asked for by a step before it is given here. ``tools`` are the (name, JSON schema) of
    the request's tools. A deterministic check can only refuse; it accepts when nothing else is to be asked.
    """
    if answer.finish not in ("stop", "tool_calls", "end_turn", "tool_use", "stop_sequence"):
        return Step("escalate", "unfinished", (("finish", answer.finish),))
    for check in rules.verify:
        if check in DETERMINISTIC:
            problem = deterministic(check, answer, schema=rules.schema or schema, pattern=rules.pattern, tools=tools)
            if problem:
                return Step("escalate", f"{check}_failed", (("problem", problem),))
    softer = [check for check in rules.verify if check not in DETERMINISTIC]
    if not softer:
        return Step("accept", "checked", (("checks", ",".join(rules.verify)),))
    for check in softer:
        step = _soft(check, rules, answer, peer, mark, confident)
        if step is not None:
            return step
    return Step("escalate", "unverified", (("checks", ",".join(rules.verify)),))


def _soft(
    check: str,
    rules: CascadeRules,
    answer: Answer,
    peer: Answer | None,
    mark: int | None,
    confident: bool | None,
) -> Step | None:
    """A step that one check decides; None: it has no opinion, the next is asked."""
    if check == "logprob":
        if answer.logprob is None or answer.logprob < rules.logprob_min:
            return None
        return Step("accept", "logprob_high", (("logprob", f"{answer.logprob:.3f}"),))
    if check == "agreement":
        if peer is None:
            return Step("peer", "ask_peer", (("model", rules.peer),))
        return Step("accept", "agreed", (("with", rules.peer),)) if agree(answer, peer) else None
    if check == "judge":
        if mark is None:
            return Step("judge", "ask_judge", (("model", rules.judge),))
        kind: StepKind = "accept" if mark >= rules.judge_min else "escalate"
        return Step(kind, "judged", (("mark", str(mark)), ("min", str(rules.judge_min))))
    if confident is None:
        return Step("self_check", "ask_itself")
    return Step("accept" if confident else "escalate", "self_checked", (("confident", str(confident).lower()),))


def agree(one: Answer, other: Answer) -> bool:
    """Both answers say the same: equal tool calls, JSON values, numbers or short texts, and both say something."""
    first = comparable(one)
    return bool(first) and first == comparable(other)


def worth_it(cheap: float, check: float, strong: float, escalated: float) -> bool:
    """It costs less than asking the strong model at once: ``e < 1 − (c_small + c_check) / c_large`` (C147)."""
    return strong > 0 and escalated < 1 - (cheap + check) / strong


def break_even(cheap: float, check: float, strong: float) -> float:
    """The share of escalations at which a cascade saves nothing; below 0 it never saves."""
    return 1 - (cheap + check) / strong


def judge_mark(text: str) -> int:
    """The mark of a judge who was asked for a whole number 0 to 10 alone on the first line; −1 for anything else."""
    lines = text.strip().splitlines()
    first = lines[0].strip().strip("*`.\"'").removesuffix("/10").strip() if lines else ""
    return int(first) if first.isascii() and first.isdigit() and int(first) <= 10 else -1


def self_confident(text: str) -> bool:
    """Only the whole word "high" is confidence; anything else escalates (C149: no search for fragments)."""
    return text.strip().strip("*`.\"'").lower() == "high"
