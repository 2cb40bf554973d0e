"""Shadow calls: some of the traffic that a route would downgrade is answered by the other model too, and compared.

The caller has its answer before the shadow begins. What shadow and judge cost is booked to the lever; what was
found moves the route's roll-out.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from farthing.core.cascade import agree, judge_mark
from farthing.core.cascade_checks import Answer, comparable, deterministic
from farthing.core.errors import StoreFailed
from farthing.core.policy_routes import DETERMINISTIC, CascadeRules, Route
from farthing.core.rollout import RolloutRules, RolloutState, observed, restarted, shadow_spent
from farthing.engine.caching_tee import Tee
from farthing.engine.call import Call
from farthing.engine.cascade import answer_aside, judge_prompt, short_answer
from farthing.engine.routing import Routing, Shadow
from farthing.ports.reply import Reply
from farthing.wire.asked import answered, schema_of, tools_of

_BYTES_MAX = 1_000_000
_AT_ONCE_MAX = 16
_DAY_MS = 86_400_000
_PATIENT = CascadeRules(verify=(), wait_ms_max=120_000)


async def with_shadow(call: Call, reply: Reply, ask: Callable[[Call, Reply], Awaitable[None]]) -> None:
    """Serves the request; then, aside, asks the other model and tells the roll-out what came of it."""
    routing, shadow = call.services.routing, call.plan.shadow
    assert routing is not None
    if shadow is None or len(routing.shadows) >= _AT_ONCE_MAX:
        await ask(call, reply)
        return
    tee = Tee(reply, b"bypass", _BYTES_MAX)
    await ask(call, tee)
    try:
        body = tee.body(call.request.view, b"")
    except ValueError:  # a stream that does not add up to an answer is no evidence
        return
    if body is None:
        return
    served = answered(call.request.view.endpoint, call.plan.targets[0].model, body)
    if served is not None:
        task = asyncio.create_task(_compare(call, routing, shadow, served))
        routing.shadows.add(task)
        task.add_done_callback(routing.shadows.discard)


async def _compare(call: Call, routing: Routing, shadow: Shadow, served: Answer) -> None:
    aside = call.for_lever("route", "shadow")
    aside.facts = call.facts
    other = await answer_aside(aside, shadow.model, _PATIENT, lever="route")
    found = None
    if other is not None:
        strong, cheap = (other, served) if shadow.served_cheap else (served, other)
        found = await _difference(aside, shadow.route, strong, cheap)
    spent = sum(entry.charge.total or 0 for entry in aside.entries)
    day = str(call.request.received_at_ms // _DAY_MS)
    rules = shadow.route.rollout
    if routing.rollouts is None or rules is None:
        return
    change = partial(_after, candidate=shadow.candidate, day=day, spent=spent, difference=found, rules=rules)
    try:
        await asyncio.to_thread(routing.rollouts.change, shadow.route.name, change)
    except StoreFailed as error:
        call.services.telemetry.store_failed(error.code)


def _after(
    state: RolloutState, *, candidate: str, day: str, spent: int, difference: float | None, rules: RolloutRules
) -> RolloutState:
    if state.candidate:
        state = restarted(state, candidate)
    state = msgspec.structs.replace(state, candidate=candidate)
    state = shadow_spent(state, day=day, nusd=spent)
    return state if difference is None else observed(state, rules, difference)


async def _difference(call: Call, route: Route, strong: Answer, cheap: Answer) -> float | None:
    """Quality of the strong answer minus the cheap one's; None when nothing can tell.

    Checks first, then agreement, then the judge. Without a judge two comparable answers that differ count against the
    cheap one: the strong model is taken at its word.
    """
    rules = route.cascade
    if rules is not None:
        passed = [_passes(call, rules, answer) for answer in (strong, cheap)]
        if not all(passed):
            return float(passed[0]) - float(passed[1])
    if agree(strong, cheap):
        return 0.0
    if rules is not None and rules.judge:
        marks = []
        for answer in (strong, cheap):
            said = await short_answer(call, rules.judge, judge_prompt(rules, call, answer), rules, lever="route")
            marks.append(judge_mark(said))
        return None if min(marks) < 0 else (marks[0] - marks[1]) / 10
    return 1.0 if comparable(strong) and comparable(cheap) else None


def _passes(call: Call, rules: CascadeRules, answer: Answer) -> bool:
    view, body = call.request.view, call.request.body
    tools = tools_of(view.endpoint, body) if view.tools else ()
    schema = rules.schema or schema_of(view.endpoint, body)
    return not any(
        deterministic(check, answer, schema=schema, pattern=rules.pattern, tools=tools)
        for check in rules.verify
        if check in DETERMINISTIC
    )
