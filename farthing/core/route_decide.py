"""Who serves a call: a pure function of route, trained table and what is known of the call."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

import msgspec

from farthing.core.errors import PolicyError
from farthing.core.policy_routes import Route, Rung
from farthing.core.route_clusters import FEATURES as CLUSTERS_VERSION
from farthing.core.route_clusters import ClusterModel, ClusterTable
from farthing.core.route_drift import place_of
from farthing.core.route_features import FEATURES_VERSION
from farthing.core.route_model import RouteModel, RouteTable
from farthing.core.route_rules import RULES_VERSION, by_length, complexity, tier_word

ASK_CLASSIFIER = "route_ask_classifier"
"""The reason of a choice that stands only until the route's small model has been asked."""
ASK_EMBEDDER = "route_ask_embedder"
"""The reason of a choice that stands only until the prompt's vector is known."""
NO_VECTOR = b""
"""The embedder was asked and had none."""


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
    vector: bytes | None = None
    """The first message's vector; None: the embedder has not been asked; empty: there is none."""


class Thresholds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Largest estimated loss of quality at which a model may replace the strong one; from the gate."""

    gains: tuple[tuple[str, float], ...] = ()
    """(model, threshold). A model without a row is not live."""


class Artefact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``farthing route train`` writes: the table beside the thresholds that the gate let through."""

    table: RouteTable | None = None
    """The n-gram router."""
    clusters: ClusterTable | None = None
    """The lookup table, where the router is one."""
    strong: str = ""
    """The model that quality was measured against."""
    thresholds: Thresholds = Thresholds()
    evidence: tuple[str, ...] = ()
    """The gate's verdicts, in words."""
    quality: tuple[tuple[str, float], ...] = ()
    """(model, mean quality on the labels)."""
    latency_ms: tuple[tuple[str, int], ...] = ()
    edges: tuple[float, ...] = ()
    """Bounds of the drift buckets: quantiles of the estimated gain over prompts that were not trained on."""
    buckets: tuple[int, ...] = ()
    """How many of those prompts are in each bucket; the last is for those that are not judged. Empty: unknown."""


class Choice(NamedTuple):
    """A route's choice for one call."""

    model: str
    tier: str
    reason: str
    """A documented slug: ``route_tag``, ``route_learned``…"""
    evidence: tuple[tuple[str, str], ...]
    place: int = -1
    """The prompt's drift bucket; −1: no trained router was asked."""
    gain: float | None = None
    """What the trained router expects of the strong model over the chosen one; None: it was not asked."""


Learned = RouteModel | ClusterModel


def match_route(routes: tuple[Route, ...], model: str, labels: Mapping[str, str]) -> Route | None:
    """The first route for an asked-for model and what is known of its caller."""
    for route in routes:
        if any(fnmatchcase(model, pattern) for pattern in route.models) and all(
            labels.get(name) == value for name, value in route.match
        ):
            return route
    return None


def decide(route: Route, facts: Facts, *, learned: Learned | None = None, artefact: Artefact | None = None) -> Choice:
    """The model for one call, by the first rung that has an opinion."""
    if not route.by:
        return _choice(route, route.tiers[0][0], "route_first", ())
    for rung in route.by:
        choice = _rung(rung, route, facts, learned, artefact)
        if choice is not None:
            return choice
    return _choice(route, route.otherwise, "route_otherwise", (("by", ",".join(route.by)),))


def _rung(
    rung: Rung, route: Route, facts: Facts, learned: Learned | None, artefact: Artefact | None
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


def _by_table(route: Route, facts: Facts, learned: Learned | None, artefact: Artefact | None) -> Choice | None:
    """The cheapest model whose estimated loss against the strong one is within its gated threshold."""
    if learned is None or artefact is None:
        return _choice(route, route.otherwise, "route_untrained", ())
    if isinstance(learned, ClusterModel):
        if facts.vector is None:
            return _choice(route, route.otherwise, ASK_EMBEDDER, ())
        found, seen, supported = _by_cluster(learned, facts.vector)
    else:
        scores = learned.scores(facts.text, tag=facts.tag)
        found, supported = scores.quality, scores.supported
        seen = [("table", learned.ref), ("features", FEATURES_VERSION), ("coverage", f"{scores.coverage:.3f}")]
    seen += [(f"p:{model}", f"{value:.4f}") for model, value in found]
    if not supported:
        unjudged = place_of(artefact.edges, None)
        return _choice(route, route.otherwise, "route_unsupported", tuple(seen), place=unjudged)
    return within_thresholds(route, dict(found), artefact, seen)


def within_thresholds(
    route: Route, quality: dict[str, float], artefact: Artefact, seen: list[tuple[str, str]]
) -> Choice:
    """The cheapest model whose estimated loss is within its threshold; ``seen`` is what else the choice shows."""
    strong = quality.get(route.strong)
    if strong is None:
        return _choice(route, route.otherwise, "route_untrained", tuple(seen))
    place = place_of(artefact.edges, lead(quality, route.strong))
    for tier, model in route.tiers:  # tiers stand cheapest first
        limit = next((limit for name, limit in artefact.thresholds.gains if name == model), None)
        if model == route.strong or limit is None or model not in quality:
            continue
        gain = strong - quality[model]
        if gain < limit:
            seen += [("gain", f"{gain:.4f}"), ("threshold", f"{limit:.4f}")]
            return _choice(route, tier, "route_learned", tuple(seen), place=place, gain=gain)
    return _choice(route, route.otherwise, "route_learned", tuple(seen), place=place)


def lead(quality: Mapping[str, float], strong: str) -> float:
    """What the strong model is expected to gain over the best of the others: what drift is watched by."""
    return quality[strong] - max(value for model, value in quality.items() if model != strong)


def _by_cluster(
    learned: ClusterModel, vector: bytes
) -> tuple[tuple[tuple[str, float], ...], list[tuple[str, str]], bool]:
    seen = [("table", learned.ref), ("features", CLUSTERS_VERSION)]
    if len(vector) != 4 * learned.table.dimensions:
        return (), [*seen, ("embedder", "none")], False
    scores = learned.scores(vector)
    seen += [("cluster", str(scores.cluster)), ("similarity", f"{scores.similarity:.3f}")]
    return scores.quality, [*seen, ("prompts", str(scores.prompts))], scores.supported


def _choice(
    route: Route,
    tier: str,
    reason: str,
    evidence: tuple[tuple[str, str], ...],
    *,
    place: int = -1,
    gain: float | None = None,
) -> Choice:
    """The tier's model; a tier that the route does not have falls to the strong one, a medium to the next above."""
    tiers = dict(route.tiers)
    name = tier if tier in tiers else route.otherwise
    return Choice(tiers[name], name, reason, (("route", route.name), ("tier", name), *evidence), place, gain)


def read_artefact(data: bytes, source: str) -> Artefact:
    """The artefact in a file. Raises :class:`PolicyError` that names the file and what is wrong with it."""
    try:
        artefact = msgspec.json.decode(data, type=Artefact)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PolicyError([f"is no trained router: {error}"], source=source) from error
    if (artefact.table is None) == (artefact.clusters is None):
        raise PolicyError(["is no trained router: it needs one table, of words or of clusters"], source=source)
    if artefact.edges and len(artefact.buckets) != len(artefact.edges) + 2:
        raise PolicyError(["is damaged: buckets and edges do not fit"], source=source)
    return artefact


def model_of(artefact: Artefact) -> Learned:
    """The artefact's router, unpacked. Raises :class:`PolicyError` for a damaged table."""
    if artefact.table is not None:
        return RouteModel(artefact.table)
    assert artefact.clusters is not None
    return ClusterModel(artefact.clusters)
