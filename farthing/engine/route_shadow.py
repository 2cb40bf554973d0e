"""Shadow calls: some of the traffic that a route would downgrade is answered by the other model too, and compared.

The caller has its answer before the shadow begins. What shadow and judge cost is booked to the lever; what was found
is noted for the steward, who moves the route's roll-out.
"""

import asyncio
from collections.abc import Awaitable, Callable

from farthing.core.cascade import agree, judge_mark
from farthing.core.cascade_checks import Answer, comparable, deterministic
from farthing.core.policy_routes import DETERMINISTIC, CascadeRules, Route
from farthing.core.rollout import RolloutRules
from farthing.core.rollout_fold import PairNote
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
    """Serves the request; then, aside, asks the other model and notes what came of it."""
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
    by = call.facts[-1].model if call.facts else ""
    served = answered(call.request.view.endpoint, by, body)
    if served is not None:
        routing.spent.append((call.request.received_at_ms, shadow.route.name, shadow.likely_nusd))
        task = asyncio.create_task(_compare(call, routing, shadow, served))
        routing.shadows.add(task)
        task.add_done_callback(routing.shadows.discard)


async def _compare(call: Call, routing: Routing, shadow: Shadow, served: Answer) -> None:
    found: float | None = None
    spent = 0
    strongest = call.services.routes.targets(shadow.route.strong, call.request.dialect)[0].model
    if shadow.served_cheap and served.model == strongest:
        found = 0.0  # escalated, or fallen back: the caller has the strong model's answer
    else:
        aside = call.for_lever("route", "shadow")
        aside.facts = call.facts
        other = await answer_aside(aside, shadow.model, _PATIENT, lever="route")
        if other is not None:
            strong, cheap = (other, served) if shadow.served_cheap else (served, other)
            found = await _difference(aside, shadow.route, strong, cheap)
        spent = sum(entry.charge.total or 0 for entry in aside.entries)
    at_ms = call.services.clock.now_ms()
    routing.spent.append((at_ms, shadow.route.name, spent))
    note = PairNote(
        route=shadow.route.name,
        candidate=shadow.candidate,
        at_ms=at_ms,
        day=str(call.request.received_at_ms // _DAY_MS),
        nusd=spent,
        difference=found,
        estimate=shadow.estimate,
    )
    routing.notes.append(note)


async def _difference(call: Call, route: Route, strong: Answer, cheap: Answer) -> float | None:
    """Quality of the strong answer minus the cheap one's; None when nothing can tell.

    Checks first, then agreement, then the judge. Without a judge, answers that both pass the roll-out's checks are
    equally good; where it has no checks, two comparable answers that differ count against the cheap one: the strong
    model is taken at its word. What the route's cascade would have escalated costs no quality.
    """
    rules, cascade = route.rollout or RolloutRules(), route.cascade
    if cascade is not None and not _passes(call, cascade.verify, cascade.pattern, cascade.schema, cheap):
        return 0.0
    passed = [_passes(call, rules.verify, rules.pattern, "", answer) for answer in (strong, cheap)]
    if not all(passed):
        return float(passed[0]) - float(passed[1])
    if agree(strong, cheap):
        return 0.0
    judge = rules.judge or (cascade.judge if cascade is not None else "")
    if judge:
        return await _marked(call, judge, cascade or _PATIENT, strong, cheap)
    if rules.verify:
        return 0.0  # the checks are what quality means here
    return 1.0 if comparable(strong) and comparable(cheap) else None


async def _marked(call: Call, judge: str, rules: CascadeRules, strong: Answer, cheap: Answer) -> float | None:
    marks = []
    for answer in (strong, cheap):
        said = await short_answer(call, judge, judge_prompt(rules, call, answer), _PATIENT, lever="route")
        marks.append(judge_mark(said))
    return None if min(marks) < 0 else (marks[0] - marks[1]) / 10


def _passes(call: Call, checks: tuple[str, ...], pattern: str, schema: str, answer: Answer) -> bool:
    view, body = call.request.view, call.request.body
    tools = tools_of(view.endpoint, body) if view.tools else ()
    schema = schema or schema_of(view.endpoint, body)
    return not any(
        deterministic(check, answer, schema=schema, pattern=pattern, tools=tools)
        for check in checks
        if check in DETERMINISTIC
    )
