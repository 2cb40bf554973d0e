"""What will be asked of whom: targets, the body as it leaves, and the policy's caps."""

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from farthing.core.budget import Need
from farthing.core.errors import UnknownModel
from farthing.core.policy_routes import CascadeRules
from farthing.core.types import Decision, Request, Target
from farthing.engine.services import Services, Upstream
from farthing.wire import anthropic, openai
from farthing.wire.body import TOKENS_MAX

if TYPE_CHECKING:
    from farthing.engine.levers import Levers
    from farthing.engine.routing import Routed, Shadow

CAPPED = ("chat", "completions", "responses", "messages")
_STREAM_USAGE = ("chat", "completions")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The decisions taken before any upstream is called."""

    targets: tuple[Target, ...]
    body: bytes
    output_cap: int | None
    """The cap per choice that the body states once the policy has had its say; None: the model's own."""
    decisions: tuple[Decision, ...]
    asked: Target | None = None
    """What the caller asked for, where ``targets`` begins with something else."""
    reason: str = "direct"
    """Why ``targets`` begins with what it does."""
    cascade: CascadeRules | None = None
    """How the first target's answer is verified before it is given; None: it is given as it comes."""
    strong: str = ""
    """The model that a route falls back to when its choice fails or is not good enough; empty: nothing was routed."""
    classifier: str = ""
    """The small model to ask for the tier before this plan stands; empty: it stands."""
    unembedded: bool = False
    """The prompt's vector is needed before this plan stands."""
    talk: str = ""
    """The conversation that a routed call is part of; empty: nothing was routed."""
    shadow: "Shadow | None" = None
    """Another model that answers too, aside, to be compared."""
    levers: "Levers | None" = None
    """What edits the body once it is known whom it is for; None: nothing."""


def make_plan(services: Services, request: Request, *, said: str | None = None, vector: bytes | None = None) -> Plan:
    """Targets and body for a request, routed where the policy says so. Raises :class:`UnknownModel`.

    ``said`` is what the route's classifier answered, ``vector`` what the embedder made, once they were asked.
    """
    routed = None
    if services.routing is not None:
        routed = services.routing.choose(services, request, said=said, vector=vector)
    if routed is None:
        return plan_for(services, request, request.view.model)
    return plan_routed(services, request, routed)


def plan_routed(services: Services, request: Request, routed: "Routed") -> Plan:
    """The plan of what a route has chosen; the choice is its first decision. Raises :class:`UnknownModel`."""
    asked = services.routes.targets(routed.asked, request.dialect)[0]
    plan = plan_for(services, request, routed.model, asked=asked, reason=routed.decision.reason)
    targets = plan.targets
    if routed.strong != routed.model:
        rest = services.routes.targets(routed.strong, request.dialect)
        targets = (*targets, *(target for target in rest if target not in targets))
    if routed.providers:
        targets = _allowed(targets, routed.providers, request)
    decisions = (routed.decision, *plan.decisions)
    return replace(
        plan,
        targets=targets,
        decisions=decisions,
        cascade=routed.cascade,
        strong=routed.strong,
        classifier=routed.classifier,
        unembedded=routed.unembedded,
        shadow=routed.shadow,
        talk=routed.talk,
    )


def _allowed(targets: tuple[Target, ...], providers: tuple[str, ...], request: Request) -> tuple[Target, ...]:
    """The targets of allowed providers, fallbacks included. Raises :class:`UnknownModel` when none is left."""
    found = tuple(target for target in targets if target.provider in providers)
    if not found:
        raise UnknownModel(
            f"No allowed provider serves '{request.view.model[:200]}': its route allows {', '.join(providers)}.",
            hint="Name a model of theirs in the route's tiers, or add the provider to the route's providers.",
            param="model",
        )
    return found


def plan_for(
    services: Services, request: Request, model: str, *, asked: Target | None = None, reason: str = "direct"
) -> Plan:
    """The plan of asking one model. ``asked`` is what savings are measured against. Raises :class:`UnknownModel`."""
    plan = _plan_for(services, request, model)
    return plan if asked is None else replace(plan, asked=asked, reason=reason)


def _plan_for(services: Services, request: Request, model: str) -> Plan:
    view = request.view
    targets = services.routes.targets(model, request.dialect)
    cap = view.output_tokens_max
    most, reason = _output_most(services, request, targets[0])
    if most is None or view.endpoint not in CAPPED or (cap is not None and cap <= most):
        return Plan(targets=targets, body=request.body, output_cap=cap, decisions=(), levers=services.levers)
    if request.dialect == "anthropic":
        body = anthropic.cap_output(request.body, most)
    else:
        body = openai.cap_output(request.body, view, most)
    evidence = (("asked", "nothing" if cap is None else str(cap)), ("cap", str(most)), ("by", reason))
    decision = Decision(stage="limits", action="cap", reason="output_capped", evidence=evidence)
    return Plan(targets=targets, body=body, output_cap=most, decisions=(decision,), levers=services.levers)


def _output_most(services: Services, request: Request, target: Target) -> tuple[int | None, str]:
    """(the smallest cap that the policy puts on one answer, what says so)."""
    most = services.policy.limits.output_tokens_max
    reason = "limits.output_tokens_max"
    if not services.request_limits:
        return most, reason
    need = Need(usd=0, input_tokens=0, output_tokens=TOKENS_MAX)
    found = services.budgets.violation(request.scope, provider=target.provider, model=target.model, need=need)
    if found is not None and found.unit == "output_tokens":
        per_choice = found.limit // max(1, request.view.choices)
        if per_choice and (most is None or per_choice < most):
            return per_choice, found.budget.name
    return most, reason


def body_for(plan: Plan, request: Request, target: Target, upstream: Upstream) -> tuple[bytes, bool]:
    """(the bytes to send to one target, whether usage was asked for on the gateway's own account)."""
    body = plan.body
    view = request.view
    if target.model != view.model:
        set_model = anthropic.set_model if request.dialect == "anthropic" else openai.set_model
        body = set_model(body, target.model)
    asks = view.stream and view.endpoint in _STREAM_USAGE and not view.include_usage and upstream.include_usage
    return (openai.ask_for_usage(body), True) if asks else (body, False)


def strings_of(body: bytes) -> list[str]:
    """Every string of a body, keys included, without embedded media; what a tight token bound counts."""
    found: list[str] = []
    pending: list[object] = [msgspec.json.decode(body)]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, dict):
            found.extend(item)
            pending.extend(value for key, value in item.items() if not _is_media(item, key, value))
        elif isinstance(item, list):
            pending.extend(item)
    return found


def _is_media(holder: dict[str, object], key: str, value: object) -> bool:
    """Base64 media of either dialect: billed as media (counted by ``images``), not as text."""
    if key in ("url", "image_url"):
        return isinstance(value, str) and value.startswith("data:")
    return key == "data" and holder.get("type") == "base64"
