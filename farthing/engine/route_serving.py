"""What routes do beyond choosing: ask a classifier, run a cascade, cast a shadow; the pipeline is given it."""

from farthing.engine.call import Call
from farthing.engine.cascade import cascade
from farthing.engine.pipeline import ask_provider
from farthing.engine.plan import Plan
from farthing.engine.route_ask import classified, embedded
from farthing.engine.route_shadow import with_shadow
from farthing.ports.reply import Reply


class RouteServing:
    """Serves routed calls by the pipeline's own means."""

    async def informed(self, call: Call) -> Plan:
        """The plan once the route's small model or the embedder was asked."""
        return await (classified(call) if call.plan.classifier else embedded(call))

    async def ask(self, call: Call, reply: Reply) -> None:
        """Serves a call by its plan: by a cascade or straight, and with another model aside where it is sampled."""
        if call.plan.shadow is None:
            await self._served(call, reply)
        else:
            await with_shadow(call, reply, self._served)

    async def _served(self, call: Call, reply: Reply) -> None:
        rules = call.plan.cascade
        if rules is None:
            await ask_provider(call, reply)
        else:
            await cascade(call, reply, rules, call.plan.strong)
