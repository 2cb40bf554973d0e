"""The semantic cache: serves the answer to a similar question where the promised risk allows it, and learns.

``recall`` decides (partition, neighbours, learned risk, lexical guards); ``learn`` compares what the provider said
with what the cache would have said, off the request's path. Both treat every failure as a miss.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from farthing.core.errors import StoreFailed
from farthing.core.guards import Reading, differences, overlap, read
from farthing.core.money import Nusd
from farthing.core.semantic import Candidate, Neighbour, candidate, rivals
from farthing.core.semantic_question import Question, question_of, semantic_partition
from farthing.core.semantic_risk import Verdict
from farthing.engine.caching_books import book_lever
from farthing.engine.semantic_families import Families, Family
from farthing.engine.semantic_judge import Judge
from farthing.engine.semantic_partitions import Partition, Partitions, SearchedPartition
from farthing.engine.services import Services
from farthing.ports.cache import Ask, Evidence, ExactCache, RecallHit, RecallMiss, Selector, StoredAnswer
from farthing.ports.embed import Embedder, Vector
from farthing.ports.semantic import Comparison, Remembered, SemanticStore
from farthing.wire.body import answer_text

_LOG = logging.getLogger("farthing.semantic")
_LEARNING_MAX: Final = 256
_REMEMBERED_HITS_MAX: Final = 4_096
_APPEAL_BELOW: Final = 0.15
"""A judge's "different" that the model did not expect is asked twice."""
_RIVALS: Final = 2
_SHOWN: Final = 4_000


@dataclass(frozen=True, slots=True)
class Found:
    """What a question's neighbourhood looked like when it was asked."""

    question: Question
    reading: Reading
    vector: Vector
    partition: Partition | SearchedPartition
    family: Family
    neighbours: tuple[Neighbour, ...]
    candidate: Candidate | None
    verdict: Verdict | None
    entry: str = ""
    """Key of the answer that was, or would have been, served."""
    draw: float = 1.0


class SemanticRecall:
    """The ``Recall`` port."""

    def __init__(
        self,
        services: Services,
        answers: ExactCache,
        *,
        embedder: Embedder,
        store: SemanticStore,
        partitions: Partitions,
        families: Families,
        judge: Judge,
    ) -> None:
        self._services = services
        self._answers = answers
        self._embedder = embedder
        self._store = store
        self._partitions = partitions
        self._families = families
        self._judge = judge
        self._hits: OrderedDict[str, Found] = OrderedDict()
        self._learning: set[asyncio.Task[None]] = set()
        self.failures = 0
        self.unlearned = 0
        """Answers not learned from because too much was being learned."""

    async def start(self) -> None:
        """Opens the store. Raises ``StoreUnavailable``."""
        await self._store.start()

    async def close(self) -> None:
        """Finishes learning and keeps what was learned."""
        if self._learning:
            await asyncio.wait(list(self._learning), timeout=10)
        try:
            await self._families.keep_all(now_ms=self._services.clock.now_ms())
        except StoreFailed as error:
            _LOG.warning("what the semantic cache learned could not be kept: %s", error)
        await self._embedder.close()
        await self._store.close()

    def gauges(self) -> dict[str, float]:
        """For metrics."""
        found = {
            "semantic_entries": float(self._partitions.entries),
            "semantic_failures": float(self.failures),
            "semantic_unlearned": float(self.unlearned),
        }
        return found | self._families.gauges()

    async def recall(self, ask: Ask, *, now_ms: int) -> RecallHit | RecallMiss:
        """Decides; never raises."""
        try:
            return await self._recall(ask, now_ms)
        except StoreFailed as error:
            self.failures += 1
            return RecallMiss(reason="failed", evidence=(("error", error.code),))
        except Exception:  # noqa: BLE001 - whatever goes wrong in here must not cost the caller an answer
            self.failures += 1
            _LOG.exception("a semantic lookup failed; the provider is asked")
            return RecallMiss(reason="failed")

    async def learn(
        self, ask: Ask, answer: StoredAnswer, outcome: RecallHit | RecallMiss, *, stored: bool, now_ms: int
    ) -> None:
        """Learns in the background; drops and counts when too much is being learned."""
        found = outcome.token if isinstance(outcome, RecallMiss) else self._hits.pop(ask.request.id, None)
        if not isinstance(found, Found):
            return
        if len(self._learning) >= _LEARNING_MAX:
            self.unlearned += 1
            return
        hit = isinstance(outcome, RecallHit)
        task = asyncio.get_running_loop().create_task(self._learn(ask, answer, found, stored, hit, now_ms))
        self._learning.add(task)
        task.add_done_callback(self._learning.discard)

    async def forget(self, selector: Selector, *, now_ms: int) -> int:
        """Forgets questions; their answers are the exact cache's to forget."""
        return await self._partitions.forget(selector)

    async def settled(self) -> None:
        """Returns once everything learned so far is known; for tests and shutdown."""
        while self._learning:
            await asyncio.wait(list(self._learning))

    # -- deciding

    async def _recall(self, ask: Ask, now_ms: int) -> RecallHit | RecallMiss:
        rules = ask.route.semantic
        question = question_of(ask.request.view.endpoint, ask.fields, turns=rules.turns)
        if question is None:
            return RecallMiss(reason="no_question")
        if len(question.text) > rules.prompt_chars_max:
            return RecallMiss(reason="too_long")
        family = await self._families.get(ask, self._embedder.identity, now_ms=now_ms)
        vector = await self._vector(ask, question.text, family)
        name = semantic_partition(ask.partition, question, self._embedder.identity)
        partition = await self._partitions.get(name, now_ms=now_ms)
        near = await partition.near(vector, rules.neighbours, now_ms=now_ms)
        chosen = candidate(near)
        verdict = family.verdict(chosen, rules) if chosen is not None else None
        found = Found(
            question=question,
            reading=read(question.text),
            vector=vector,
            partition=partition,
            family=family,
            neighbours=near,
            candidate=chosen,
            verdict=verdict,
            draw=_draw(ask.request.id),
        )
        if chosen is None or verdict is None:
            return RecallMiss(reason="no_candidate", token=found)
        return await self._decided(ask, found, chosen, verdict, now_ms)

    async def _decided(
        self, ask: Ask, found: Found, chosen: Candidate, verdict: Verdict, now_ms: int
    ) -> RecallHit | RecallMiss:
        rules, family = ask.route.semantic, found.family
        seen: Evidence = (
            ("similarity", f"{chosen.similarity:.4f}"),
            ("risk", f"{verdict.risk:.4f}"),
            ("limit", f"{verdict.limit:.4f}"),
            ("neighbours", str(len(found.neighbours))),
        )
        if not verdict.serve:
            reason = "below_bound" if verdict.limit > 0 else "cold"
            return RecallMiss(reason=reason, evidence=seen, token=found)
        key, guards = self._unguarded(found, chosen, ask)
        if not key:
            return RecallMiss(reason="guard", evidence=(*seen, ("guards", ",".join(guards))), token=found)
        answer = await self._answers.get(key, now_ms=now_ms)
        if answer is None:
            found.partition.drop(key)
            return RecallMiss(reason="forgotten", evidence=seen, token=found)
        found = replace(found, entry=key)
        seen = (*seen, ("neighbour", key))
        if ask.refreshes:
            return RecallMiss(reason="refresh", evidence=seen, token=found)
        if rules.mode == "shadow":
            return RecallMiss(reason="shadow_mode", evidence=seen, would_serve=answer, token=found)
        shadow = found.draw < verdict.shadow_share and family.affords(rules, now_ms=now_ms)
        if shadow:
            self._hits[ask.request.id] = found
            while len(self._hits) > _REMEMBERED_HITS_MAX:
                self._hits.popitem(last=False)
        else:
            family.served(chosen)
            await self._families.keep_if_due(family, now_ms=now_ms)
        return RecallHit(answer=answer, evidence=seen, shadow=shadow)

    def _unguarded(self, found: Found, chosen: Candidate, ask: Ask) -> tuple[str, tuple[str, ...]]:
        """The nearest member of the cluster that no guard forbids, or what forbids the nearest of all."""
        guards = ask.route.semantic.guards
        first: tuple[str, ...] = ()
        for key in chosen.keys:
            other = found.partition.reading(key)
            if other is None:
                continue
            differs: tuple[str, ...] = differences(found.reading, other, guards)
            if not differs and not overlap(found.reading, other):
                differs = ("overlap",)
            if not differs:
                return key, ()
            first = first or differs
        return "", first

    async def _vector(self, ask: Ask, text: str, family: Family) -> Vector:
        made = await self._embedder.embed([text])
        if made.usage is not None and made.target is not None:
            entry = await book_lever(
                self._services,
                ask.request,
                lever="cache",
                act="embed",
                number=0,
                target=made.target,
                endpoint="embeddings",
                usage=made.usage,
            )
            family.spend(Nusd(entry.charge.total or 0), now_ms=ask.request.received_at_ms)
        return made.vectors[0]

    # -- learning

    async def _learn(
        self, ask: Ask, answer: StoredAnswer, found: Found, stored: bool, hit: bool, now_ms: int
    ) -> None:
        try:
            cluster, compared = await self._compared(ask, answer, found, hit, now_ms)
            if stored:
                await self._partitions.add(self._question(ask, answer, found, cluster, compared))
            await self._families.keep_if_due(found.family, now_ms=now_ms)
        except StoreFailed:
            self.failures += 1
        except Exception:  # noqa: BLE001 - a background task has nobody to raise to
            self.failures += 1
            _LOG.exception("the semantic cache could not learn from an answer")

    async def _compared(
        self, ask: Ask, answer: StoredAnswer, found: Found, hit: bool, now_ms: int
    ) -> tuple[str, bool]:
        """Compares the new answer with the candidate's, learns, and says which cluster it belongs to."""
        family, chosen, verdict, rules = found.family, found.candidate, found.verdict, ask.route.semantic
        if hit:
            family.spend(Nusd(answer.charge or 0), now_ms=now_ms)
        if chosen is None or verdict is None:
            return answer.key, True
        if not hit and (
            _draw(f"{ask.request.id}:judge") >= rules.judge_share or not family.affords(rules, now_ms=now_ms)
        ):
            family.missed(chosen, None)
            return answer.key, False
        key = found.entry or chosen.keys[0]
        same, other = await self._same(ask, found, answer, key, 0, now_ms, appeal=verdict.risk < _APPEAL_BELOW)
        if same is None:
            if hit:
                family.served(chosen)
            else:
                family.missed(chosen, None)
            return answer.key, False
        if hit:
            family.shadowed(chosen, wrong=not same, share=verdict.shadow_share)
        else:
            family.missed(chosen, wrong=not same)
        await self._note(ask, answer, other, found, key, same=same, hit=hit, now_ms=now_ms)
        if same:
            return chosen.cluster, True
        for turn, rival in enumerate(rivals(found.neighbours, chosen.cluster, most=_RIVALS), 2):
            like, _ = await self._same(ask, found, answer, rival.key, turn, now_ms, appeal=False)
            if like:
                return rival.cluster, True
        return answer.key, True

    async def _same(
        self, ask: Ask, found: Found, answer: StoredAnswer, key: str, turn: int, now_ms: int, *, appeal: bool
    ) -> tuple[bool | None, bytes]:
        other = await self._answers.get(key, now_ms=now_ms)
        if other is None:
            found.partition.drop(key)
            return None, b""
        model, number = ask.route.semantic.judge, 2 * turn
        judged = await self._judge.compare(
            ask.request, found.question.text, answer.body, other.body, model=model, number=number
        )
        found.family.judged(judged.calls, judged.cost, now_ms=now_ms)
        if judged.same is False and appeal and model:  # asked again the other way round
            judged = await self._judge.compare(
                ask.request, found.question.text, other.body, answer.body, model=model, number=number + 1
            )
            found.family.judged(judged.calls, judged.cost, now_ms=now_ms)
        return judged.same, other.body

    async def _note(
        self,
        ask: Ask,
        answer: StoredAnswer,
        other: bytes,
        found: Found,
        key: str,
        *,
        same: bool,
        hit: bool,
        now_ms: int,
    ) -> None:
        """Evidence for review: everything that was served and compared, and what would have been a wrong hit."""
        chosen, verdict = found.candidate, found.verdict
        entry = found.partition.find(key)
        if chosen is None or verdict is None or entry is None or not (hit or verdict.serve):
            return
        await self._store.note(
            Comparison(
                id=ask.request.id,
                at_ms=now_ms,
                family=found.family.name,
                route=ask.route.name,
                asked=found.question.text[:_SHOWN],
                cached=entry.text[:_SHOWN],
                cached_key=key,
                similarity=chosen.similarity,
                risk=verdict.risk,
                served=hit,
                wrong=not same,
                answer=_shown(answer.body),
                cached_answer=_shown(other),
            )
        )

    def _question(self, ask: Ask, answer: StoredAnswer, found: Found, cluster: str, compared: bool) -> Remembered:
        return Remembered(
            key=answer.key,
            partition=found.partition.name,
            text=found.question.text,
            vector=found.vector,
            embedder=self._embedder.identity,
            cluster=cluster,
            compared=compared,
            caller=ask.partition,
            route=answer.route,
            model=answer.target.model,
            tags=answer.tags,
            created_at_ms=answer.created_at_ms,
            expires_at_ms=answer.expires_at_ms,
        )


def _draw(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: a replay decides alike."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big") / (1 << 56)


def _shown(body: bytes) -> str:
    return answer_text(body).decode("utf-8", "replace")[:_SHOWN]
