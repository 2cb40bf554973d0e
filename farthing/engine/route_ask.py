"""What a route asks before a call: its small model, or the embedder; what that costs is booked to the lever."""

import logging

from farthing.core.errors import FarthingError
from farthing.core.policy_routes import CascadeRules
from farthing.core.route_clusters import ClusterModel
from farthing.core.route_decide import NO_VECTOR
from farthing.core.route_rules import CLASSIFIER_PROMPT
from farthing.engine.caching_books import book_lever
from farthing.engine.call import Call
from farthing.engine.cascade import short_answer
from farthing.engine.plan import Plan, make_plan
from farthing.wire.asked import asked

_LOG = logging.getLogger("farthing.routes")
_SHOWN_CHARS = 4_000
_RULES = CascadeRules(verify=(), wait_ms_max=5_000)
"""A classifier that takes longer than five seconds has no opinion."""


async def classified(call: Call) -> Plan:
    """The plan after the classifier's word; the strong model's when it did not answer or was not understood."""
    request = call.request
    first = asked(request.view.endpoint, request.body).first[:_SHOWN_CHARS]
    prompt = f"{CLASSIFIER_PROMPT}\n<request>\n{first}\n</request>"
    said = await short_answer(call, call.plan.classifier, prompt, _RULES, lever="route")
    return make_plan(call.services, request, said=said)


async def embedded(call: Call) -> Plan:
    """The plan once the first message's vector is known; the strong model's when there is none."""
    return make_plan(call.services, call.request, vector=await _vector(call))


async def _vector(call: Call) -> bytes:
    services, request = call.services, call.request
    routing = services.routing
    embedder = routing.embedder if routing is not None else None
    first = asked(request.view.endpoint, request.body).first
    if routing is None or embedder is None or not first.strip():
        return NO_VECTOR
    used = {one.model.embedder for one in routing.trained.values() if isinstance(one.model, ClusterModel)}
    if embedder.identity not in used:
        return NO_VECTOR  # another model's vectors mean nothing to these tables
    try:
        made = await embedder.embed([first])
    except FarthingError as error:
        _LOG.warning("a prompt could not be looked up, the strong model answers: %s", error)
        return NO_VECTOR
    if made.usage is not None and made.target is not None:
        entry = await book_lever(
            services, request, lever="route", act="embed", number=1, target=made.target, endpoint="embeddings",
            usage=made.usage,
        )  # fmt: skip
        call.note("route", "embed", "lever_cost", (("entry", entry.id),))
    return made.vectors[0]
