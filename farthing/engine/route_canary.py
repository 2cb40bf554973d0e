"""Asking a route's canary set: every model of the route, the same prompts, on the lever's own account."""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from farthing.core.cascade_checks import Answer
from farthing.core.errors import FarthingError
from farthing.core.policy_routes import Route
from farthing.core.rollout import CanaryPrint, RolloutRules, RolloutState
from farthing.core.rollout_fold import CanaryNote
from farthing.core.route_canary import noise_of, print_of
from farthing.core.types import Request, Scope
from farthing.engine.caching_tee import Nowhere, Tee
from farthing.engine.call import Call
from farthing.engine.pipeline import ask_aside
from farthing.engine.plan import plan_for
from farthing.engine.record import Recorder
from farthing.engine.services import Services
from farthing.wire.asked import answered, question
from farthing.wire.openai import view_chat

SCOPE = Scope(feature="farthing:canary")
"""Whose calls these are: nobody's who asks the gateway for anything."""
_TOKENS = 256
_AT_ONCE = 4
_BYTES_MAX = 1_000_000
_DAY_MS = 86_400_000


class CanarySet:
    """The prompts of one route."""

    def __init__(
        self, services: Services, recorder: Recorder, route: Route, rules: RolloutRules, prompts: Sequence[str]
    ) -> None:
        self.every_ms = rules.canary_every_ms
        self._services = services
        self._recorder = recorder
        self._route = route
        self._rules = rules
        self._prompts = tuple(prompts)
        self._number = 0

    def affordable(self, state: RolloutState, now_ms: int) -> bool:
        """The day's cap on shadows is not used up."""
        spent = state.shadow_nusd if state.shadow_day == str(now_ms // _DAY_MS) else 0
        return spent < self._rules.shadow_usd_max

    async def ask(self, state: RolloutState) -> CanaryNote:
        """Every model once; a model without remembered answers twice, to learn what is chance."""
        now_ms = self._services.clock.now_ms()
        known = {one.model for one in state.canaries if len(one.prints) == len(self._prompts)}
        prints: list[CanaryPrint] = []
        spent = 0
        for model in dict.fromkeys(model for _, model in self._route.tiers):
            found, version, cost = await self._asked(model)
            spent += cost
            noise = (0, 0)
            if model not in known:
                again, _, cost = await self._asked(model)
                spent += cost
                noise = noise_of(found, again)
            prints.append(CanaryPrint(model=model, version=version, prints=found, noise=noise))
        day = str(now_ms // _DAY_MS)
        return CanaryNote(route=self._route.name, at_ms=now_ms, day=day, nusd=spent, prints=tuple(prints))

    async def _asked(self, model: str) -> tuple[tuple[str, ...], str, int]:
        """(a digest of each answer, the version that the provider named, nano-USD)."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(prompt: str) -> tuple[str, str, int]:
            async with gate:
                return await self._one(model, prompt)

        found = await asyncio.gather(*(one(prompt) for prompt in self._prompts))
        versions = [version for _, version, _ in found if version]
        return tuple(said for said, _, _ in found), versions[-1] if versions else "", sum(cost for *_, cost in found)

    async def _one(self, model: str, prompt: str) -> tuple[str, str, int]:
        services = self._services
        now_ms = services.clock.now_ms()
        body = question("chat", model, prompt, tokens=_TOKENS)
        self._number += 1
        request = Request(
            id=f"canary-{self._route.name.replace(' ', '-')}-{now_ms}-{self._number}",
            received_at_ms=now_ms,
            dialect="openai",
            body=body,
            view=view_chat(body),
            scope=SCOPE,
        )
        call = Call(services, self._recorder, request)
        call.lever = "route"
        call.note("route", "canary", "lever_cost", (("route", self._route.name),))
        tee = Tee(Nowhere(), b"bypass", _BYTES_MAX)
        reply: bytes | None = None
        try:
            plan = plan_for(services, request, model, reason="route_canary")
            call.plan = replace(plan, targets=plan.targets[:1])  # another model's answers say nothing of this one
            await ask_aside(call, tee)
            reply = tee.body(request.view, b"")
        except (FarthingError, ValueError):
            reply = None
        answer: Answer | None = answered("chat", model, reply) if reply else None
        version = call.entries[-1].model if call.entries and answer is not None else ""
        cost = sum(entry.charge.total or 0 for entry in call.entries)
        return (print_of(answer) if answer is not None else ""), version, cost
