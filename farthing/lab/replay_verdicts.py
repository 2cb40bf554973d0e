"""What cascades of a log found, and what other rules would have made of it."""

from typing import Final

import msgspec

from farthing.core.policy_routes import CascadeRules
from farthing.core.types import Decision, Exchange

LEVER: Final = "cascade"
VERDICTS_MIN: Final = 10
"""Verdicts on a model below which nothing is said about the next one."""
ALWAYS: Final = frozenset({"unfinished", "unreadable", "no_answer"})
"""Reasons that any cascade may give."""
DECIDES: Final = {
    "logprob_high": "logprob",
    "agreed": "agreement",
    "judged": "judge",
    "self_checked": "self_check",
}


class Counts(msgspec.Struct):
    """Verdicts of one kind."""

    all: int = 0
    escalated: int = 0

    @property
    def share(self) -> float:
        """Of escalations; never quite none or all, which no sample shows (Jeffreys)."""
        return (self.escalated + 0.5) / (self.all + 1)


class Verdicts:
    """What cascades of a log found, by what they looked at."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str, str, str], int] = {}
        """How often, by (model, action, reason, mark, checks)."""

    def learn(self, exchange: Exchange) -> None:
        """Takes in what the log says of one call."""
        said = verdict_of(exchange)
        if said is not None:
            seen = dict(said.evidence)
            key = (seen.get("model", ""), said.action, said.reason, seen.get("mark", ""), seen.get("checks", ""))
            self._found[key] = self._found.get(key, 0) + 1

    def of(self, model: str, rules: CascadeRules) -> Counts:
        """Verdicts on a model's answers as these rules would give them; none where they look at something else."""
        counts = Counts()
        for (by, action, reason, mark, checks), count in self._found.items():
            if by != model:
                continue
            escalates = again(action, reason, mark, checks, rules)
            if escalates is None:
                return Counts()
            counts.all += count
            counts.escalated += count * escalates
        return counts


def verdict_of(exchange: Exchange) -> Decision | None:
    """The verdict of the cascade that served a call; None: none did."""
    for one in exchange.decisions:
        if one.stage == LEVER and one.action in ("accept", "escalate"):
            return one
    return None


def again(action: str, reason: str, mark: str, checks: str, rules: CascadeRules) -> bool | None:
    """Whether these rules escalate what was judged so; None: they look at something else."""
    if reason in ALWAYS:
        return True
    if reason == "judged" and "judge" in rules.verify and mark.lstrip("-").isdigit():
        return int(mark) < rules.judge_min
    if checks:  # every check was made, and named
        return action == "escalate" if checks == ",".join(rules.verify) else None
    if reason.endswith("_failed"):
        return True if reason.removesuffix("_failed") in rules.verify else None
    return action == "escalate" if DECIDES.get(reason, "") in rules.verify else None
