"""Routes as policy: which calls may go to another model than the one asked for, and who decides. Pure data."""

from typing import Literal

import msgspec

from farthing.core.rollout import RolloutRules

Rung = Literal["tag", "tools", "length", "heuristic", "learned", "classifier"]
"""Who decides, asked in the route's order; the first that has an opinion is followed.

``tag``: the caller's own route tag. ``tools``: calls with tools are complex. ``length``: short and without tools is
simple. ``heuristic``: the scored word rules. ``learned``: the trained table. ``classifier``: a small model is asked.
"""

Check = Literal[
    "json", "json_schema", "regex", "tool_arguments", "code", "logprob", "agreement", "judge", "self_check"
]
"""How a cheap answer is verified before it is given; tried in this order."""

TIERS = ("simple", "medium", "complex")
DETERMINISTIC: tuple[Check, ...] = ("json", "json_schema", "regex", "tool_arguments", "code")


class CascadeRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cheap first, verify, escalate."""

    verify: tuple[Check, ...]
    schema: str = ""
    """JSON schema as text for ``json_schema``; empty: the request's own ``response_format``."""
    pattern: str = ""
    """What an answer must match for ``regex``."""
    logprob_min: float = -0.25
    """Mean log probability per token from which an answer is accepted."""
    peer: str = ""
    """The second cheap model for ``agreement``, best of another family."""
    judge: str = ""
    """The model that rates answers for ``judge``."""
    judge_min: int = 7
    """Smallest accepted mark, 0 to 10."""
    judge_prompt: str = ""
    wait_ms_max: int = 60_000
    """A cheap answer that takes longer is given up and the strong model asked."""


class Route(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One route, ``[[routes]]``. The first that matches a call decides; a call that none matches is left alone."""

    name: str
    models: tuple[str, ...]
    """Patterns of the asked-for model names that the route serves; an alias such as ``auto`` is a name too."""
    match: tuple[tuple[str, str], ...] = ()
    """What must be equal: dimensions, ``tag:<name>``, ``header:<name>``."""
    tiers: tuple[tuple[str, str], ...]
    """(tier, model) for ``simple``, ``medium``, ``complex``, and any name that ``tags`` may use."""
    by: tuple[Rung, ...] = ("tag", "tools", "length")
    tags: tuple[tuple[str, str], ...] = ()
    """(the caller's tag, tier): a routing table. A tag that is itself a tier needs no row."""
    tag_header: str = "x-farthing-route"
    """The header that carries the tag; the scope's tag ``route`` counts too."""
    otherwise: str = "complex"
    """The tier when nobody has an opinion: the strong one, so that doubt costs money and not quality."""
    table: str = ""
    """File of the trained router, from ``farthing route train``; relative to the installation's folder."""
    classifier: str = ""
    """The model asked by the rung ``classifier``."""
    length_tokens: int = 50
    quality_min: float | None = None
    """Models with a lower measured quality on this route are left out."""
    latency_ms_max: int | None = None
    cost_max: int | None = None
    """Nano-USD of a typical call (1,000 tokens in, 250 out) that a model may cost."""
    providers: tuple[str, ...] = ()
    """Providers that may serve; empty: all."""
    sticky: Literal["conversation", "request"] = "conversation"
    """``conversation``: the first call decides for all that follow; ``request``: each call by itself."""
    turns_expected: int = 8
    """Calls of a typical conversation: a change must pay within what is left of them."""
    cascade: CascadeRules | None = None
    rollout: RolloutRules | None = None
    """None: the route is live as written. Otherwise cheaper choices go live step by step, as evidence comes in."""

    @property
    def strong(self) -> str:
        """The model of the tier that doubt falls to."""
        return dict(self.tiers)[self.otherwise]


def route_problems(route: Route) -> list[str]:
    """What is inconsistent within one route, in words."""
    tiers = dict(route.tiers)
    found = []
    if route.otherwise not in tiers:
        found.append(f'otherwise: is "{route.otherwise}", which is no tier of the route ({", ".join(tiers)})')
    for tag, tier in route.tags:
        if tier not in tiers:
            found.append(f'tags: "{tag}" goes to "{tier}", which is no tier of the route ({", ".join(tiers)})')
    needs: tuple[tuple[Rung, str, str], ...] = (
        ("learned", "table", "the file that 'farthing route train' wrote"),
        ("classifier", "classifier", "the small model to ask"),
    )
    for rung, field, what in needs:
        if rung in route.by and not getattr(route, field):
            found.append(f'{field}: is missing; by names "{rung}", which needs {what}')
    if route.cascade is not None:
        found.extend(f"cascade.{problem}" for problem in _cascade_problems(route.cascade))
    if route.rollout is not None and "regex" in route.rollout.verify and not route.rollout.pattern:
        found.append('rollout.pattern: is missing; "regex" needs what an answer must match')
    return found


def _cascade_problems(cascade: CascadeRules) -> list[str]:
    found = []
    if not cascade.verify:
        found.append("verify: is empty; name at least one check")
    if "agreement" in cascade.verify and not cascade.peer:
        found.append('peer: is missing; "agreement" needs a second cheap model')
    if "judge" in cascade.verify and not cascade.judge:
        found.append('judge: is missing; "judge" needs the model that rates answers')
    if "regex" in cascade.verify and not cascade.pattern:
        found.append('pattern: is missing; "regex" needs what an answer must match')
    return found
