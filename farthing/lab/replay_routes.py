"""Routes in a replay: which model a logged call goes to under another policy.

Three sources, the surest first. A call that was served under the very policy goes where it went. A call whose text
the log keeps is decided by the live code. Of other calls the log knows who called, how many tools they brought, about
how long the first message is, and what a trained router made of it, if one was asked; a rung that needs more leaves
the call where it was, and its cost counts as unknown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

import msgspec

from farthing.core.policy_routes import Route, Rung
from farthing.core.route_decide import Choice, Facts, decide, match_route, within_thresholds
from farthing.core.types import NO_TEXT, Decision, Exchange, PromptView, Request
from farthing.core.units import is_cache_read
from farthing.engine.route_prefix import Prefixes
from farthing.engine.routing import ROUTED_ENDPOINTS, Routed, Routing, Shadow, labels_of
from farthing.lab.replay_provider import Provider
from farthing.lab.replay_verdicts import verdict_of

if TYPE_CHECKING:
    from farthing.engine.services import Services

_MESSAGE_BYTES: Final = 28
"""Of JSON around the text of a message."""
_BYTES_PER_TOKEN: Final = 4
_BY_LOG: Final[tuple[Rung, ...]] = ("tag", "tools", "length")
_UNREAD: Final = "route_unread"


@dataclass(slots=True, kw_only=True)
class LoggedRouting(Routing):
    """The policy's routes over logged calls. A roll-out counts as finished, and nothing is asked aside."""

    logged: Provider
    policy_ref: str
    """Of the policy that is replayed."""

    def choose(
        self, services: "Services", request: Request, *, said: str | None = None, vector: bytes | None = None
    ) -> Routed | None:
        source = self.logged.flights[request.id].logged.source
        if source.policy_ref == self.policy_ref:
            return self._again(services, request, source, asks=said is None and vector is None)
        if self.off or request.view.endpoint not in ROUTED_ENDPOINTS:
            return Routing.choose(self, services, request, said=said, vector=vector)
        route = match_route(self.routes, request.view.model, labels_of(request))
        if route is None:
            return None
        if not (request.body != NO_TEXT and _text_suffices(route, self._embeds(route))):
            return self._from_log(services, request, route, source)
        return Routing.choose(self, services, request)

    def by_log(self, view: PromptView) -> Route | None:
        """The route for such calls, where it looks at the view and at :func:`seen_of` only, if no text is kept.

        Of the first message's tokens it asks whether they are fewer than ``length_tokens``.
        """
        if self.off or self.times or view.endpoint not in ROUTED_ENDPOINTS:
            return None
        fits = (route for route in self.routes if any(fnmatchcase(view.model, pattern) for pattern in route.models))
        route = next(fits, None)
        reads = route is None or route.match or any(rung not in _BY_LOG for rung in route.by)
        return None if reads else route

    def _again(self, services: "Services", request: Request, source: Exchange, *, asks: bool) -> Routed | None:
        """As it was decided. ``asks``: whoever was asked first is yet to be asked."""
        decision = next((one for one in source.decisions if one.stage == "route" and one.action == "choose"), None)
        if decision is None:
            return None
        seen = dict(decision.evidence)
        route = next((one for one in self.routes if one.name == seen.get("route")), None)
        if route is None:
            return None
        plain = decision.reason != "experiment_control" and self._served(services, request)
        embedded = any((one.stage, one.action) == ("route", "embed") for one in source.decisions)
        return Routed(
            model=seen["model"],
            asked=request.view.model if plain else route.strong,
            decision=decision,
            cascade=route.cascade if verdict_of(source) is not None else None,
            strong=route.strong,
            classifier=route.classifier if asks and any(one.lever == "route" for one in source.attempts) else "",
            unembedded=asks and embedded,
            providers=route.providers,
            talk=_lost(source),
        )

    def _from_log(self, services: "Services", request: Request, route: Route, source: Exchange) -> Routed | None:
        choice = self._choice(request, route, source)
        if choice is None:
            self.logged.flights[request.id].unread = True
            model = source.attempts[-1].model if source.attempts else route.strong
            evidence = (("route", route.name), ("model", model))
            decision = Decision(stage="route", action="choose", reason=_UNREAD, evidence=evidence)
            return Routed(model=model, asked=model, decision=decision, strong=route.strong)
        return self._routed(services, request, route, choice)

    def _choice(self, request: Request, route: Route, source: Exchange) -> Choice | None:
        """The first rung that has an opinion; None: one that comes before it reads what the log does not keep."""
        tokens, tag = seen_of(source)
        facts = Facts(model=request.view.model, text="", tokens=tokens, tools=request.view.tools, tag=tag)
        if not route.by:
            return decide(route, facts)
        for rung in route.by:
            if rung == "learned":
                return self._learned(route, source)
            if rung not in _BY_LOG:
                return None
            choice = decide(_only(route, rung), facts)
            if choice.reason != "route_otherwise":
                return choice
        return decide(_only(route), facts)._replace(reason="route_otherwise")

    def _learned(self, route: Route, source: Exchange) -> Choice | None:
        """From the scores that the log has, where the same table gave them."""
        trained = self.trained.get(route.name)
        seen = _said(source)
        if trained is None or seen.get("table") != trained.model.ref:
            return None
        quality = {name[2:]: float(value) for name, value in seen.items() if name.startswith("p:")}
        return within_thresholds(route, quality, trained.artefact, [("table", trained.model.ref)])

    def _rolled_out(self, route: Route, choice: Choice, key: str) -> Choice:
        """What the policy is for: its cheaper models for everybody."""
        return choice

    def _shadow(
        self, services: "Services", request: Request, route: Route, wanted: Choice, given: str
    ) -> Shadow | None:
        """What a comparison costs is the roll-out's, not the policy's."""
        return None


class LoggedPrefixes(Prefixes):
    """What a change of the model lost of a conversation's prompt cache, as the log says."""

    def turn(self, talk: str, model: str, tokens: int, *, at_ms: int) -> tuple[int, int]:
        return (int(talk), 0) if talk.isdigit() else super().turn(talk, model, tokens, at_ms=at_ms)


def _lost(source: Exchange) -> str:
    """The input tokens of the turn before, where it was on another model and its cache is lost; empty: it is not."""
    for one in source.decisions:
        if one.reason == "cache_lost" and source.usage is not None:
            lines = [line for part in source.usage.parts for line in part.lines]
            read = sum(many for unit, many in lines if is_cache_read(unit))
            return str(int(dict(one.evidence)["tokens"]) + read)
    return ""


def _text_suffices(route: Route, embeds: bool) -> bool:
    return "classifier" not in route.by and not embeds


def _only(route: Route, *rungs: Rung) -> Route:
    return msgspec.structs.replace(route, by=rungs or ("tag",))


def seen_of(source: Exchange) -> tuple[int, str]:
    """(tokens of the first message, about; the tag that says where the call goes)."""
    size = source.view.body_bytes
    for one in source.sections:
        if one.role == "user":
            size = max(0, one.size - _MESSAGE_BYTES)
            break
    tag = ""
    if source.scope.tags or source.decisions:
        tag = dict(source.scope.tags).get("route", "") or _said(source).get("tag", "")
    return -(-size // _BYTES_PER_TOKEN), tag


def _said(source: Exchange) -> Mapping[str, str]:
    found = next((one for one in source.decisions if one.stage == "route" and one.action == "choose"), None)
    return dict(found.evidence) if found is not None else {}
