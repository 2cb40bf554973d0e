"""Similar questions in a replay: found where the log says that they were found.

The log keeps no text and no vectors, but every decision of the semantic cache with its evidence: how similar, how
risky, and the key of the answer. Under the policy that served, what was decided is decided again. Under another one
it is taken as likely, and the amount is an estimate; a question that the log has never compared is not known.
"""

from typing import Final

import msgspec

from farthing.core.types import Decision, Exchange, LedgerEntry, Usage
from farthing.engine.caching import stored_answer
from farthing.lab.replay_cache import made_answer
from farthing.lab.replay_provider import Flight, Provider
from farthing.ports.cache import Ask, Evidence, ExactCache, RecallHit, RecallMiss, Selector, StoredAnswer

_HEAD: Final = {"hit": 5, "miss": 2, "shadow": 2, "refresh": 2}
"""How much of a decision's evidence is the cache's own."""
_LAST: Final = 99_999
"""Comes after every act of a millisecond."""
_NEVER: Final = frozenset({"no_question", "too_long", "no_candidate"})
"""Whatever the risk, there was nothing to serve."""


class LoggedRecall:
    """The ``Recall`` port over a log."""

    def __init__(self, provider: Provider, answers: ExactCache, policy_ref: str) -> None:
        self._flights = provider.flights
        self._loop = provider.loop
        self._answers = answers
        self._policy_ref = policy_ref
        self._shadowed: dict[str, Ask] = {}
        """Questions that were answered by a similar one's answer while their provider may have been asked aside."""

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def forget(self, selector: Selector, *, now_ms: int) -> int:
        """Nothing is remembered."""
        return 0

    async def learn(
        self, ask: Ask, answer: StoredAnswer, outcome: RecallHit | RecallMiss, *, stored: bool, now_ms: int
    ) -> None:
        """The log has learned already."""

    async def recall(self, ask: Ask, *, now_ms: int) -> RecallHit | RecallMiss:
        """As it was decided."""
        flight = self._flights[ask.request.id]
        source = flight.logged.source
        said = decided(source)
        if said is None:
            if source.policy_ref != self._policy_ref:
                flight.unread = True
            return RecallMiss(reason="not_kept")
        evidence, asked = _evidence(said)
        answer = await self._answers.get(asked, now_ms=now_ms) if asked else None
        if answer is None and said.action == "hit":  # it came within this very millisecond
            await self._loop.until(self._loop.at(now_ms, _LAST))
            answer = await self._answers.get(asked, now_ms=now_ms)
        if source.policy_ref == self._policy_ref:
            return self._as_it_was(ask, flight, said, answer, now_ms)
        if said.reason in _NEVER:
            return RecallMiss(reason=said.reason, evidence=evidence)
        flight.similar = True
        serves = said.reason in ("semantic_hit", "shadow_mode", "refresh")
        if not serves or answer is None:
            return RecallMiss(reason="below_bound" if not serves else "forgotten", evidence=evidence)
        if ask.route.semantic.mode == "shadow":
            return RecallMiss(reason="shadow_mode", evidence=evidence, would_serve=answer)
        return RecallHit(answer=answer, evidence=evidence)

    async def shadowed(self, entry: LedgerEntry) -> None:
        """Keeps the answer that a provider gave aside, as that entry says."""
        ask = self._shadowed.pop(entry.request_id, None)
        if ask is None or entry.attempt == 0 or entry.error:
            return
        answer = stored_answer(
            ask,
            made_answer(ask.request.view.endpoint, entry.usage.finish_reason)[0],
            usage=entry.usage,
            charge=entry.charge.total,
            entry_id=entry.id,
            at_ms=entry.booked_at_ms,
            latency_ms=entry.latency_ms,
        )
        await self._answers.put(answer, now_ms=entry.booked_at_ms)

    def _as_it_was(
        self, ask: Ask, flight: Flight, said: Decision, answer: StoredAnswer | None, now_ms: int
    ) -> RecallHit | RecallMiss:
        evidence = _evidence(said)[0]
        if said.action == "hit":
            if flight.late:
                self._shadowed[ask.request.id] = ask
            return RecallHit(answer=answer or _found(ask, said, now_ms), evidence=evidence)
        return RecallMiss(
            reason=said.reason, evidence=evidence, would_serve=answer if said.action == "shadow" else None
        )


def decided(source: Exchange) -> Decision | None:
    """What the semantic cache said of a call; None: it was not asked."""
    for one in source.decisions:
        if one.stage == "cache" and one.action in _HEAD:
            compared = one.reason != "not_kept" and (one.action != "hit" or one.reason == "semantic_hit")
            return one if compared else None
    return None


def _found(ask: Ask, said: Decision, now_ms: int) -> StoredAnswer:
    """An answer that was there before the log began, or was given aside: of it only is known that it was served."""
    seen = dict(said.evidence)
    answer = stored_answer(
        ask,
        made_answer(ask.request.view.endpoint, "stop")[0],
        usage=Usage(),
        charge=None,
        entry_id=seen.get("source", ""),
        at_ms=now_ms - int(seen.get("age_ms", "0")),
        latency_ms=0,
    )
    return msgspec.structs.replace(answer, key=seen.get("key", answer.key))


def _evidence(said: Decision) -> tuple[Evidence, str]:
    """(the semantic cache's own evidence, the key of the answer that it found)."""
    found = tuple(pair for pair in said.evidence[_HEAD[said.action] :] if pair[0] != "asked")
    return found, dict(found).get("neighbour", "")
