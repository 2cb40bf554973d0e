"""The small-model classifier: one short question before a call, booked to the lever."""

from farthing.core.policy_routes import CascadeRules
from farthing.core.route_rules import CLASSIFIER_PROMPT
from farthing.engine.call import Call
from farthing.engine.cascade import short_answer
from farthing.engine.plan import Plan, make_plan
from farthing.wire.asked import asked

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
