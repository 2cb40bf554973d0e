"""Routes at work: which model a call goes to, kept for its conversation, with everything that decided."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from farthing.core.errors import UnknownModel
from farthing.core.policy_routes import CascadeRules, Route
from farthing.core.rollout import RolloutRules, RolloutState, arm_of, shadows
from farthing.core.rollout_fold import Candidate, Note
from farthing.core.route_clusters import ClusterModel
from farthing.core.route_decide import (
    ASK_CLASSIFIER,
    ASK_EMBEDDER,
    Artefact,
    Choice,
    Facts,
    Learned,
    decide,
    match_route,
)
from farthing.core.route_sticky import Rates, break_even_calls
from farthing.core.types import Decision, Request, Target, Usage, UsagePart
from farthing.engine.route_pools import Pools
from farthing.engine.route_prefix import Prefixes
from farthing.ports.embed import Embedder
from farthing.wire.asked import Asked, asked

if TYPE_CHECKING:
    from farthing.engine.route_serving import RouteServing
    from farthing.engine.services import Services

CONVERSATIONS_MAX = 50_000
ROUTED_ENDPOINTS = ("chat", "completions", "responses", "messages")
_BYTES_PER_TOKEN = 4
_MILLION = 1_000_000
_OUTPUT_GUESS = 250
_DAY_MS = 86_400_000
_SPENT_MS = 5_000
"""What a worker spent on shadows so lately may not be in the state that it knows."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """The other model that answers too, once the caller has its answer."""

    route: Route
    model: str
    served_cheap: bool
    candidate: str
    """What is rolled out, by content."""
    likely_nusd: int
    estimate: float | None
    """What the router expects of the strong model over the cheap one."""


@dataclass(frozen=True, slots=True)
class Routed:
    """What a route made of a call."""

    model: str
    """To be asked first."""
    asked: str
    """What savings are measured against: the model asked for, or the strong one where that is only an alias."""
    decision: Decision
    cascade: CascadeRules | None = None
    strong: str = ""
    """Where a cascade escalates to."""
    classifier: str = ""
    """The small model that must be asked before this stands; empty: none."""
    unembedded: bool = False
    """The prompt's vector must be known before this stands."""
    talk: str = ""
    """The conversation."""
    providers: tuple[str, ...] = ()
    """Who may serve it; empty: all."""
    shadow: Shadow | None = None


@dataclass(slots=True)
class _Kept:
    model: str
    tier: str
    calls: int


@dataclass(frozen=True, slots=True)
class Trained:
    """A route's table and what came with it."""

    model: Learned
    artefact: Artefact


@dataclass(slots=True)
class Routing:
    """All routes of a policy. Not shared between processes: what a conversation was given is recomputed from its
    first message anywhere, and only sessions whose first message changes are remembered."""

    routes: tuple[Route, ...]
    serving: "RouteServing"
    trained: Mapping[str, Trained] = field(default_factory=dict)
    """By route name."""
    states: Mapping[str, RolloutState] = field(default_factory=dict)
    """Where roll-outs stand, by route, as the steward read it last."""
    embedder: Embedder | None = None
    """Makes vectors for routers that look prompts up by meaning; None: their prompts go to the strong model."""
    off: bool = False
    """In an experiment's control: calls go to the model they ask for, those to an alias to the strong one."""
    shadows: set[asyncio.Task[None]] = field(default_factory=set)
    """Comparisons under way."""
    notes: list[Note] = field(default_factory=list)
    """What this worker saw of candidates and nobody was told yet."""
    seen: dict[str, list[int]] = field(default_factory=dict)
    """Prompts by drift bucket, by route, that nobody was told of yet."""
    spent: "deque[tuple[int, str, int]]" = field(default_factory=deque)
    """(when, route, nano-USD) of this worker's last shadows, those under way at their likely cost."""
    pools: Pools = field(default_factory=Pools)
    prefixes: Prefixes = field(default_factory=Prefixes)
    times: bool = False
    """Some route has a bound on latency, so calls tell how long they took."""
    _kept: OrderedDict[str, _Kept] = field(default_factory=OrderedDict)
    _refs: dict[str, str] = field(default_factory=dict)
    _rates: dict[str, Rates | None] = field(default_factory=dict)
    _aliases: dict[str, bool] = field(default_factory=dict)

    def choose(
        self, services: "Services", request: Request, *, said: str | None = None, vector: bytes | None = None
    ) -> Routed | None:
        """The model for a request; None when no route serves it.

        ``said`` is what the route's classifier answered, ``vector`` the first message's.
        """
        view = request.view
        if view.endpoint not in ROUTED_ENDPOINTS:
            return None
        labels = labels_of(request)
        route = match_route(self.routes, view.model, labels)
        if route is None:
            return None
        if self.off:
            return None if self._served(services, request) else self._strong(request, route)
        trained = self.trained.get(route.name)
        pool = self.pools.pool(
            route, services.prices, services.routes, trained.artefact if trained else None,
            dialect=request.dialect, now_ms=request.received_at_ms,
        )  # fmt: skip
        route = pool.route
        talk = asked(view.endpoint, request.body)
        key = _conversation(request, talk)
        facts = Facts(
            model=view.model,
            text=talk.first,
            tokens=-(-len(talk.first.encode("utf-8", "replace")) // _BYTES_PER_TOKEN),
            tools=view.tools,
            said=said,
            vector=vector,
            tag=labels.get(f"header:{route.tag_header.lower()}", "") or labels.get("tag:route", ""),
        )
        choice = decide(
            route,
            facts,
            learned=trained.model if trained else None,
            artefact=trained.artefact if trained else None,
        )
        if choice.reason in (ASK_CLASSIFIER, ASK_EMBEDDER):
            kept = self._kept.get(key) if route.sticky == "conversation" else None
            if kept is None:
                return self._routed(services, request, route, choice)
            choice = Choice(kept.model, kept.tier, "route_sticky", (*choice.evidence, ("calls", str(kept.calls))))
        choice = choice._replace(evidence=(*choice.evidence, *pool.left_out))
        self._saw(route, choice, trained)
        wanted = choice
        choice = self._rolled_out(route, choice, key)
        choice = self._stuck(services, request, route, choice, key, talk)
        shadow = self._shadow(services, request, route, wanted, choice.model)
        return self._routed(services, request, route, choice, talk=key, shadow=shadow)

    def _strong(self, request: Request, route: Route) -> Routed:
        """Where a call to an alias goes while the routes are off: no model has its name."""
        evidence = (("model", route.strong), ("asked", request.view.model), ("route", route.name))
        decision = Decision(stage="route", action="choose", reason="experiment_control", evidence=evidence)
        return Routed(model=route.strong, asked=route.strong, decision=decision, strong=route.strong)

    # -- one conversation, one model

    def _stuck(
        self, services: "Services", request: Request, route: Route, choice: Choice, key: str, talk: Asked
    ) -> Choice:
        """The conversation's model, unless the change is an escalation or pays for the lost prompt cache."""
        remembers = request.scope.session or "classifier" in route.by or self._embeds(route)
        if route.sticky == "request" or not remembers:
            return choice
        kept = self._kept.get(key)
        if kept is None or (kept.model != choice.model and self._may_change(services, request, route, kept, choice)):
            calls = kept.calls if kept else talk.turns
            self._keep(key, _Kept(choice.model, choice.tier, calls + 1))
            return choice
        kept.calls += 1
        self._kept.move_to_end(key)
        if kept.model == choice.model:
            return choice
        evidence = (*choice.evidence, ("wanted", choice.model), ("calls", str(kept.calls)))
        return Choice(kept.model, kept.tier, "route_sticky", evidence)

    def _may_change(self, services: "Services", request: Request, route: Route, kept: _Kept, choice: Choice) -> bool:
        order = [model for _, model in route.tiers]
        if kept.model not in order or order.index(choice.model) > order.index(kept.model):
            return True  # towards the stronger model, always
        stays, goes = (self._rates_of(services, request, model) for model in (kept.model, choice.model))
        if stays is None or goes is None:
            return False
        prefix = -(-len(request.body) // _BYTES_PER_TOKEN)
        needed = break_even_calls(stays, goes, prefix=prefix, output=_OUTPUT_GUESS)
        return route.turns_expected - kept.calls > needed

    def _keep(self, key: str, kept: _Kept) -> None:
        self._kept[key] = kept
        self._kept.move_to_end(key)
        if len(self._kept) > CONVERSATIONS_MAX:
            self._kept.popitem(last=False)

    def _rates_of(self, services: "Services", request: Request, model: str) -> Rates | None:
        """The model's prices as the book of this moment has them, pico-USD per token; None: unknown."""
        key = f"{services.prices.ref}:{model}"
        if key not in self._rates:
            self._rates[key] = _rates(services, services.routes.targets(model, request.dialect)[0], request)
        return self._rates[key]

    # -- roll-out

    def _rolled_out(self, route: Route, choice: Choice, key: str) -> Choice:
        """The strong model for conversations that the roll-out has not reached."""
        rules = route.rollout
        if rules is None or choice.model == route.strong:
            return choice
        state = self.state(route.name)
        arm = arm_of(state, rules, key)
        evidence = (*choice.evidence, ("arm", arm), ("stage", state.stage), ("wanted", choice.model))
        if arm == "candidate":
            return choice._replace(evidence=evidence)
        reason = f"route_{arm}"
        if arm == "control" and state.frozen:
            reason, evidence = "route_drift", (*evidence, ("frozen", state.frozen))
        elif arm == "control" and state.stage == "rolled_back":
            reason, evidence = "route_rolled_back", (*evidence, ("why", state.reason))
        return choice._replace(model=route.strong, tier=route.otherwise, reason=reason, evidence=evidence)

    def state(self, name: str) -> RolloutState:
        """Where a route's roll-out stands, some seconds old at most. Not known: in shadow, nothing is changed."""
        return self.states.get(name) or RolloutState(route=name)

    def candidates(self) -> dict[str, Candidate]:
        """What the routes with roll-out rules roll out."""
        found = {}
        for route in self.routes:
            if route.rollout is not None:
                trained = self.trained.get(route.name)
                expected = trained.artefact.buckets if trained else ()
                found[route.name] = Candidate(self._ref(route), route.rollout, expected)
        return found

    def rules(self, name: str) -> RolloutRules | None:
        """The roll-out rules of a route."""
        return next((route.rollout for route in self.routes if route.name == name), None)

    def _ref(self, route: Route) -> str:
        """What is rolled out, by content: everything that decides where a call goes and what is served."""
        found = self._refs.get(route.name)
        if found is None:
            whole = next(one for one in self.routes if one.name == route.name)  # not as pruned at the moment
            bare = msgspec.structs.replace(whole, rollout=None, models=(), match=(), table="")
            trained = self.trained.get(route.name)
            parts = (trained.model.ref, trained.artefact.thresholds) if trained else ("", None)
            content = msgspec.json.encode((bare, *parts))
            found = self._refs[route.name] = blake2b(content, digest_size=6).hexdigest()
        return found

    def _embeds(self, route: Route) -> bool:
        trained = self.trained.get(route.name)
        return trained is not None and "learned" in route.by and isinstance(trained.model, ClusterModel)

    def _saw(self, route: Route, choice: Choice, trained: Trained | None) -> None:
        """Counts the prompt, for drift to be noticed."""
        if choice.place < 0 or route.rollout is None or trained is None or not trained.artefact.buckets:
            return
        counts = self.seen.get(route.name)
        if counts is None:
            counts = self.seen[route.name] = [0] * len(trained.artefact.buckets)
        counts[choice.place] += 1

    def _shadow(
        self, services: "Services", request: Request, route: Route, wanted: Choice, given: str
    ) -> Shadow | None:
        """The model to compare with, where this request is one of the sampled and the day's cap allows it."""
        rules = route.rollout
        if rules is None or wanted.model == route.strong or request.view.endpoint == "completions":
            return None
        if given not in (wanted.model, route.strong):
            return None  # the conversation's earlier model: it says nothing of the candidate
        other = wanted.model if given == route.strong else route.strong
        rates = self._rates_of(services, request, other)
        if rates is None:
            return None
        now_ms = request.received_at_ms
        likely = (len(request.body) // _BYTES_PER_TOKEN * rates.input + _OUTPUT_GUESS * rates.output) // 1_000
        state = self.state(route.name)
        lately = self._spent_lately(route.name, now_ms)
        day = str(now_ms // _DAY_MS)
        if state.stage == "rolled_back":
            return None
        if not shadows(state, rules, request.id, day=day, likely_nusd=likely + lately):
            return None
        return Shadow(route, other, given != route.strong, self._ref(route), likely, wanted.gain)

    def _spent_lately(self, route: str, now_ms: int) -> int:
        spent = self.spent
        while spent and spent[0][0] < now_ms - _SPENT_MS:
            spent.popleft()
        return sum(nusd for _, name, nusd in spent if name == route)

    # -- what the engine is told

    def _routed(
        self,
        services: "Services",
        request: Request,
        route: Route,
        choice: Choice,
        *,
        talk: str = "",
        shadow: Shadow | None = None,
    ) -> Routed:
        cascade = route.cascade
        model = choice.model
        if model == route.strong or request.view.endpoint == "completions" or request.view.choices > 1:
            cascade = None
        decision = Decision(
            stage="route",
            action="choose",
            reason=choice.reason,
            evidence=(("model", model), ("asked", request.view.model), *choice.evidence),
        )
        wanted = request.view.model if self._served(services, request) else route.strong
        return Routed(
            model=model,
            asked=wanted,
            decision=decision,
            cascade=cascade,
            strong=route.strong,
            classifier=route.classifier if choice.reason == ASK_CLASSIFIER else "",
            unembedded=choice.reason == ASK_EMBEDDER,
            providers=route.providers,
            talk=talk,
            shadow=shadow,
        )

    def _served(self, services: "Services", request: Request) -> bool:
        """The asked-for model is a real one: its price is known. Otherwise it is an alias of the route."""
        name = request.view.model
        known = self._aliases.get(name)
        if known is None:
            known = _priced(services, request, name)
            if len(self._aliases) > CONVERSATIONS_MAX:
                self._aliases.clear()
            self._aliases[name] = known
        return known


def _priced(services: "Services", request: Request, model: str) -> bool:
    try:
        target = services.routes.targets(model, request.dialect)[0]
    except UnknownModel:
        return False
    return _rates(services, target, request) is not None


def _rates(services: "Services", target: Target, request: Request) -> Rates | None:
    found: list[int] = []
    for unit in ("input", "output", "input_cache_read", "input_cache_write"):
        usage = Usage(parts=(UsagePart(lines=((unit, _MILLION),)),), source="reported")
        charge = services.prices.charge(usage, target, at_ms=request.received_at_ms)
        if charge.total is None:
            if unit in ("input", "output"):
                return None
            found.append(found[0])  # a provider without a price for its cache bills plain input
        else:
            found.append(charge.total * 1_000 // _MILLION)
    return Rates(*found)


def labels_of(request: Request) -> dict[str, str]:
    """Everything that routes may ask for about a caller."""
    scope = request.scope
    found = {
        "org": scope.org, "team": scope.team, "project": scope.project, "user": scope.user, "feature": scope.feature,
        "customer": scope.customer, "session": scope.session, "key": scope.key,
    }  # fmt: skip
    found.update((f"tag:{name}", value) for name, value in scope.tags)
    for name, value in request.headers:
        found[f"header:{name.decode('latin-1')}"] = value.decode("latin-1")
    return found


def _conversation(request: Request, said: Asked) -> str:
    """What a conversation is known by: the caller's session, else the key and its first message."""
    scope = request.scope
    if scope.session:
        return f"s:{scope.key}:{scope.session}"
    digest = blake2b(said.first.encode("utf-8", "replace"), digest_size=12).hexdigest()
    return f"m:{scope.key}:{digest}"
