"""Who serves a call: a pure function of route, trained table and what is known of the call."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

import msgspec

from farthing.core.errors import PolicyError
from farthing.core.policy_routes import Route, Rung
from farthing.core.route_features import FEATURES_VERSION
from farthing.core.route_model import RouteModel, RouteTable
from farthing.core.route_rules import RULES_VERSION, by_length, complexity, tier_word

ASK_CLASSIFIER = "route_ask_classifier"
"""The reason of a choice that stands only until the route's small model has been asked."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision may look at; all of it is logged or can be read from the kept prompt again."""

    model: str
    """The model asked for."""
    text: str
    """The first user message of the conversation."""
    tokens: int
    """Prompt tokens, counted or estimated."""
    tools: int = 0
    tag: str = ""
    said: str | None = None
    """What the classifier answered; None: it has not been asked."""


class Thresholds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Largest estimated loss of quality at which a model may replace the strong one; from the gate."""

    gains: tuple[tuple[str, float], ...] = ()
    """(model, threshold). A model without a row is not live."""


class Artefact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``farthing route train`` writes: the table beside the thresholds that the gate let through."""

    table: RouteTable
    thresholds: Thresholds = Thresholds()
    evidence: tuple[str, ...] = ()
    """The gate's verdicts, in words."""
    quality: tuple[tuple[str, float], ...] = ()
    """(model, mean quality on the labels)."""
    latency_ms: tuple[tuple[str, int], ...] = ()
    buckets: tuple[int, ...] = ()
    """Prompts of the training set in each drift bucket."""


class Choice(NamedTuple):
    """A route's choice for one call."""

    model: str
    tier: str
    reason: str
    """A documented slug: ``route_tag``, ``route_learned``…"""
    evidence: tuple[tuple[str, str], ...]


def match_route(routes: tuple[Route, ...], model: str, labels: Mapping[str, str]) -> Route | None:
    """The first route for an asked-for model and what is known of its caller."""
    for route in routes:
        if any(fnmatchcase(model, pattern) for pattern in route.models) and all(
            labels.get(name) == value for name, value in route.match
        ):
            return route
    return None


def decide(
    route: Route, facts: Facts, *, learned: RouteModel | None = None, artefact: Artefact | None = None
) -> Choice:
    """The model for one call, by the first rung that has an opinion."""
    if not route.by:
        return _choice(route, route.tiers[0][0], "route_first", ())
    for rung in route.by:
        choice = _rung(rung, route, facts, learned, artefact)
        if choice is not None:
            return choice
    return _choice(route, route.otherwise, "route_otherwise", (("by", ",".join(route.by)),))


def _rung(
    rung: Rung, route: Route, facts: Facts, learned: RouteModel | None, artefact: Artefact | None
) -> Choice | None:
    if rung == "tag":
        return _by_tag(route, facts)
    if rung == "tools":
        if not facts.tools:
            return None
        return _choice(route, "complex", "route_tools", (("tools", str(facts.tools)),))
    if rung == "length":
        tier = by_length(facts.tokens, facts.tools, short=route.length_tokens)
        seen = (("tokens", str(facts.tokens)), ("tools", str(facts.tools)), ("rules", RULES_VERSION))
        return _choice(route, tier, "route_length", seen)
    if rung == "heuristic":
        found = complexity(facts.text)
        seen = (("score", f"{found.score:.1f}"), ("kind", found.kind), ("rules", RULES_VERSION))
        return _choice(route, found.tier, "route_heuristic", seen)
    if rung == "learned":
        return _by_table(route, facts, learned, artefact)
    return _by_classifier(route, facts)


def _by_classifier(route: Route, facts: Facts) -> Choice:
    """The tier that the small model named; the strong one until it is asked and when it is not understood."""
    if facts.said is None:
        return _choice(route, route.otherwise, ASK_CLASSIFIER, ())
    tier = tier_word(facts.said)
    seen = (("classifier", route.classifier), ("said", tier or "not understood"))
    return _choice(route, tier or route.otherwise, "route_classifier", seen)


def _by_tag(route: Route, facts: Facts) -> Choice | None:
    if not facts.tag:
        return None
    tier = dict(route.tags).get(facts.tag) or (facts.tag if facts.tag in dict(route.tiers) else "")
    return _choice(route, tier, "route_tag", (("tag", facts.tag),)) if tier else None


def _by_table(route: Route, facts: Facts, learned: RouteModel | None, artefact: Artefact | None) -> Choice | None:
    """The cheapest model whose estimated loss against the strong one is within its gated threshold."""
    strong = route.strong
    if learned is None or artefact is None:
        return _choice(route, route.otherwise, "route_untrained", ())
    scores = learned.scores(facts.text, tag=facts.tag)
    quality = dict(scores.quality)
    seen = [("table", learned.ref), ("features", FEATURES_VERSION), ("coverage", f"{scores.coverage:.3f}")]
    seen += [(f"p:{model}", f"{value:.4f}") for model, value in scores.quality]
    if not scores.supported:
        return _choice(route, route.otherwise, "route_unsupported", tuple(seen))
    if strong not in quality:
        return _choice(route, route.otherwise, "route_untrained", tuple(seen))
    limits = dict(artefact.thresholds.gains)
    for tier, model in route.tiers:  # tiers stand cheapest first
        limit = limits.get(model)
        if model == strong or limit is None or model not in quality:
            continue
        gain = quality[strong] - quality[model]
        if gain < limit:
            seen += [("gain", f"{gain:.4f}"), ("threshold", f"{limit:.4f}")]
            return _choice(route, tier, "route_learned", tuple(seen))
    return _choice(route, route.otherwise, "route_learned", tuple(seen))


def _choice(route: Route, tier: str, reason: str, evidence: tuple[tuple[str, str], ...]) -> Choice:
    """The tier's model; a tier that the route does not have falls to the strong one, a medium to the next above."""
    tiers = dict(route.tiers)
    place = tier if tier in tiers else route.otherwise
    return Choice(tiers[place], place, reason, (("route", route.name), ("tier", place), *evidence))


def read_artefact(data: bytes, source: str) -> Artefact:
    """The artefact in a file. Raises :class:`PolicyError` that names the file and what is wrong with it."""
    try:
        return msgspec.json.decode(data, type=Artefact)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PolicyError([f"is no trained router: {error}"], source=source) from error
