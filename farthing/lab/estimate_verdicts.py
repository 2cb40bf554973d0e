"""What verdicts that were drawn, because the log has none, add to the error of a bill.

So many calls escalate that their cost is the expected one: chance is in the truth. The share of escalations, which
comes from verdicts in the log, errs for all calls together. Before a verdict was seen any share was possible
(Jeffreys), so that after so many it is one from a beta distribution, and what is predicted is beta-binomial: no
variance was estimated, and no Student's t is due.
"""

import msgspec

from farthing.lab.estimate_error import Chance, Error, Sample
from farthing.lab.replay_provider import Drawn

QUESTIONS_MAX = 1_000_000
"""Questions that are told apart."""
_SURE = 1e9
"""Degrees of freedom: a share says how much it varies itself."""


class _Sums(msgspec.Struct):
    chance: float
    sample: int
    cost: float = 0.0
    """Nano-USD of the strong model, had every call escalated."""
    cost2: float = 0.0
    cost3: float = 0.0
    """The same squared and cubed by question: equal questions have equal verdicts."""


class Drawings:
    """The verdicts drawn in one replay."""

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}
        self._asked: dict[tuple[str, str], float] = {}

    def add(self, drawn: Drawn, digest: str) -> None:
        """One verdict on the question of this digest."""
        sums = self._sums.setdefault(drawn.kind, _Sums(chance=drawn.chance, sample=drawn.sample))
        cost = float(drawn.strong_nusd)
        before = 0.0
        if digest:
            before = self._asked.get((drawn.kind, digest), 0.0)
            if len(self._asked) >= QUESTIONS_MAX:
                self._asked.clear()
            self._asked[(drawn.kind, digest)] = before + cost
        sums.cost += cost
        sums.cost2 += cost * (2 * before + cost)
        sums.cost3 += (before + cost) ** 3 - before**3

    def into(self, error: Error) -> None:
        """Adds what they may be wrong by."""
        for kind, sums in self._sums.items():
            chance, size = sums.chance, max(2, sums.sample)
            one = chance * (1 - chance)
            skew = one * (1 - 2 * chance)
            name = f"verdicts on {kind}"
            error.rests_on(name, Sample(size + 2, one, skew, freedom=_SURE), sums.cost)
            known = (size + 1) / (size + 2)
            error.varies_with(name, Chance(one * known * sums.cost2, skew * known * sums.cost3))
