"""Cascades in a replay: the live code asks, and its verdicts come from the log.

A call that a cascade served has its verdict in the log, and all that was asked for it; it is followed wherever the
policy that is replayed would have come to it too. Of a call that was served otherwise nobody knows the verdict: it is
drawn with the share of escalations among verdicts on the same cheap model in the log. Where there are none, the cost
is unknown.
"""

from collections.abc import Iterator

from farthing.core.cascade import Step, next_step
from farthing.core.policy_routes import DETERMINISTIC, CascadeRules
from farthing.core.route_decide import NO_VECTOR
from farthing.core.types import NO_TEXT
from farthing.engine.call import Call
from farthing.engine.cascade import Got, cascade, peer_answer, short_answer
from farthing.engine.pipeline import ask_provider
from farthing.engine.plan import Plan, make_plan
from farthing.engine.route_ask import classified
from farthing.engine.route_serving import RouteServing
from farthing.lab.estimate_verdicts import QUESTIONS_MAX
from farthing.lab.replay_log import Logged
from farthing.lab.replay_provider import Drawn, Provider
from farthing.lab.replay_verdicts import ALWAYS, DECIDES, VERDICTS_MIN, again, verdict_of
from farthing.ports.reply import Reply
from farthing.wire import asked


class LoggedServing(RouteServing):
    """Serves routed calls of a log by the pipeline's own means."""

    def __init__(self, provider: Provider, policy_ref: str) -> None:
        self._flights = provider.flights
        self._policy_ref = policy_ref
        self._provider = provider
        self._owed: dict[str, float] = {}
        """Nano-USD of escalations that are due, by model: a share of each call's."""
        self._usual = 1_000_000
        """Nano-USD of a strong answer, for calls that nobody answered."""
        self._said: dict[tuple[str, str], bool] = {}

    async def informed(self, call: Call) -> Plan:
        """The plan once what was asked before is asked again."""
        source = self._flights[call.request.id].logged.source
        if call.plan.classifier:
            return await classified(call)
        call.decisions.extend(one for one in source.decisions if (one.stage, one.action) == ("route", "embed"))
        return make_plan(call.services, call.request, vector=NO_VECTOR)

    async def ask(self, call: Call, reply: Reply) -> None:
        """Serves a call by its plan; nothing is asked aside."""
        rules = call.plan.cascade
        if rules is None:
            await ask_provider(call, reply)
        else:
            await cascade(call, reply, rules, call.plan.strong, self._verified)

    async def _verified(self, call: Call, got: Got, rules: CascadeRules) -> Step:
        """The log's verdict, or one like those of the log; peers and judges are asked as they were."""
        flight = self._flights[call.request.id]
        source, model = flight.logged.source, got.attempt.target.model
        said = verdict_of(source)
        seen = dict(said.evidence) if said is not None else {}
        if said is not None and seen.get("model") == model:
            same = source.policy_ref == self._policy_ref
            escalates = again(said.action, said.reason, seen.get("mark", ""), seen.get("checks", ""), rules)
            if same or escalates is not None:
                for check in _made(rules, said.reason):
                    await _ask_for(check, call, rules, model)
                if same:
                    return Step(said.action, said.reason, said.evidence[1:])  # type: ignore[arg-type]
                return Step("escalate" if escalates else "accept", said.reason, said.evidence[1:])
        return await self._drawn(call, got, rules)

    async def _drawn(self, call: Call, got: Got, rules: CascadeRules) -> Step:
        """A verdict that nobody gave."""
        flight, model = self._flights[call.request.id], got.attempt.target.model
        read = _read(call, flight.logged, rules, model)
        if read is not None:
            return read
        counts = self._provider.verdicts(model, rules)
        flight.estimated = True
        for check in _made(rules, ""):
            await _ask_for(check, call, rules, model)
        if counts.all < VERDICTS_MIN:
            flight.unread = True
            return Step("accept", "unread")
        source = flight.logged.source
        strong = source.amount or self._usual
        self._usual = strong
        escalates = self._escalates(model, counts.share, strong, source.received_digest)
        flight.drawn = Drawn(model, counts.share, escalates, counts.all, strong)
        return Step("escalate" if escalates else "accept", "estimated", (("share", f"{counts.share:.4f}"),))

    def _escalates(self, model: str, share: float, strong_nusd: int, digest: str) -> bool:
        """Whether it is this call's turn, so that the cost of all is the expected one; equal questions fare alike."""
        known = self._said.get((model, digest)) if digest else None
        owed = self._owed.get(model, 0.0) + share * strong_nusd
        escalates = owed >= strong_nusd / 2 if known is None else known
        self._owed[model] = owed - strong_nusd * escalates
        if digest:
            if len(self._said) >= QUESTIONS_MAX:
                self._said.clear()
            self._said[(model, digest)] = escalates
        return escalates


def _read(call: Call, logged: Logged, rules: CascadeRules, model: str) -> Step | None:
    """The verdict on the cheap answer itself, where the log has it with its text; None: it does not tell."""
    source, request = logged.source, call.request
    if logged.model != model or source.answer is None or request.body is NO_TEXT:
        return None
    endpoint = request.view.endpoint
    answer = asked.answered(endpoint, model, source.answer)
    if answer is None:
        return None
    tools = asked.tools_of(endpoint, request.body) if request.view.tools else ()
    step = next_step(rules, answer, schema=asked.schema_of(endpoint, request.body), tools=tools)
    return step if step.kind in ("accept", "escalate") else None


def _made(rules: CascadeRules, reason: str) -> Iterator[str]:
    """The checks that were made until one decided."""
    if reason in ALWAYS or reason.removesuffix("_failed") in DETERMINISTIC:
        return
    for check in rules.verify:
        if check not in DETERMINISTIC:
            yield check
            if DECIDES.get(reason, "") == check or check in ("judge", "self_check"):
                return


async def _ask_for(check: str, call: Call, rules: CascadeRules, model: str) -> None:
    """Asks whom a check asks."""
    if check == "agreement":
        await peer_answer(call, rules)
    elif check == "judge":
        await short_answer(call, rules.judge, "", rules)
    elif check == "self_check":
        await short_answer(call, model, "", rules)
