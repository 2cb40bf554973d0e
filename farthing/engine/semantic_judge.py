"""Whether two answers say the same: by their words, by their vectors, or by a model that is paid for it."""

import msgspec

from farthing.core.errors import FarthingError, StoreFailed
from farthing.core.money import Nusd
from farthing.core.semantic_answers import VECTORS_ALIKE, compare_texts, judge_prompt, verdict_of
from farthing.core.types import Request
from farthing.engine.caching_tee import Nowhere, Tee
from farthing.engine.call import Call
from farthing.engine.pipeline import ask_aside
from farthing.engine.plan import make_plan
from farthing.engine.record import Recorder
from farthing.engine.services import Services
from farthing.ports.embed import Embedder
from farthing.wire.body import answer_text
from farthing.wire.openai import view_chat

_REPLY_BYTES_MAX = 64 * 1024
_REPLY_TOKENS_MAX = 4


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison's outcome and price."""

    same: bool | None
    """None: it could not be told."""
    cost: Nusd = Nusd(0)
    calls: int = 0


class Judge:
    """Compares answers for the semantic cache; judge calls are booked to the lever and keep every budget."""

    def __init__(self, services: Services, recorder: Recorder, embedder: Embedder) -> None:
        self._services = services
        self._recorder = recorder
        self._embedder = embedder

    async def compare(
        self, request: Request, question: str, a: bytes, b: bytes, *, model: str, number: int
    ) -> Judged:
        """Compares two JSON answers to one question. ``model`` empty: without asking anybody.

        ``number`` tells apart several calls for the same request.
        """
        ours, theirs = _text(a), _text(b)
        if not ours or not theirs:
            return Judged(same=ours == theirs if ours == theirs else False)
        same = compare_texts(ours, theirs)
        if same is True or (same is False and not model):
            return Judged(same=same)
        if model:
            return await self._ask(request, judge_prompt(question, ours, theirs), model, number)
        return await self._by_vectors(ours, theirs)

    async def _by_vectors(self, a: str, b: str) -> Judged:
        try:
            made = await self._embedder.embed([a, b])
        except StoreFailed:
            return Judged(same=None)
        left, right = (memoryview(vector).cast("f") for vector in made.vectors)
        return Judged(same=sum(x * y for x, y in zip(left, right, strict=True)) >= VECTORS_ALIKE)

    async def _ask(self, asked: Request, prompt: str, model: str, number: int) -> Judged:
        body = msgspec.json.encode(
            {
                "model": model,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": _REPLY_TOKENS_MAX,
                "temperature": 0,
            }
        )
        request = Request(
            id=f"{asked.id}-judge{number}",
            received_at_ms=self._services.clock.now_ms(),
            dialect="openai",
            body=body,
            headers=(),
            view=view_chat(body),
            scope=asked.scope,
        )
        call = Call(self._services, self._recorder, request)
        call.lever = "cache"
        call.note("cache", "judge", "lever_cost", (("for", asked.id),))
        tee = Tee(Nowhere(), b"judge", _REPLY_BYTES_MAX)
        try:
            call.plan = make_plan(self._services, request)
            await ask_aside(call, tee)
            reply = tee.body(request.view, b"")
        except (FarthingError, ValueError):
            reply = None
        cost = Nusd(sum(entry.charge.total or 0 for entry in call.entries))
        same = verdict_of(_text(reply)) if reply else None
        return Judged(same=same, cost=cost, calls=1)


def _text(body: bytes) -> str:
    return answer_text(body).decode("utf-8", "replace").strip()
