"""A logged route decision made again: from its evidence alone, or from the prompt where it was kept."""

from typing import NamedTuple

from farthing.core.policy_routes import Route
from farthing.core.route_clusters import FEATURES as CLUSTERS_VERSION
from farthing.core.route_clusters import ClusterModel
from farthing.core.route_decide import Artefact, Choice, Facts, Learned, decide
from farthing.core.route_features import FEATURES_VERSION
from farthing.core.route_pool import Pruned, pruned_route
from farthing.core.route_rules import RULES_VERSION, by_length, tier_word
from farthing.core.types import Decision

_AFTER = ("arm", "stage", "wanted", "calls", "frozen", "why", "left_out")
"""Evidence of what was decided beside the rungs: roll-outs, drift, kept conversations, models left out."""
_ASKED = ("route_ask_classifier", "route_ask_embedder")


class Checked(NamedTuple):
    """What was logged beside what comes out now."""

    agrees: bool | None
    """None: not enough was logged to tell."""
    rows: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]


def recheck(
    route: Route,
    decision: Decision,
    *,
    text: str | None,
    tools: int,
    learned: Learned | None,
    artefact: Artefact | None,
    vector: bytes | None = None,
) -> Checked:
    """The decision again. ``text`` is the conversation's first user message, None when no text was kept.

    ``vector`` is the message's for a router that looks it up; without it the logged figures are taken.
    """
    logged = dict(decision.evidence)
    notes = []
    route = pruned_route(route, left_out(logged.get("left_out", "")))
    features = CLUSTERS_VERSION if isinstance(learned, ClusterModel) else FEATURES_VERSION
    for name, now in (("features", features), ("rules", RULES_VERSION)):
        if name in logged and logged[name] != now:
            notes.append(f"{name} was {logged[name]} and is {now}: other results are no surprise.")
    if learned is not None and logged.get("table") not in (None, learned.ref):
        notes.append(f"The table was {logged['table']} and is {learned.ref}.")
    if text is None:
        again = _from_evidence(route, decision, logged, artefact)
        notes.append("The prompt was not kept, so the logged scores are taken as they are.")
    else:
        facts = Facts(
            model=logged.get("asked", ""),
            text=text,
            tokens=-(-len(text.encode("utf-8", "replace")) // 4),
            tools=tools,
            tag=logged.get("tag", ""),
            said=logged.get("said"),
            vector=vector,
        )
        again = decide(route, facts, learned=learned, artefact=artefact)
        if again.reason in _ASKED:  # what was answered then is in the log only
            again = _from_evidence(route, decision, logged, artefact)
    if again is None:
        notes.append("The logged evidence does not suffice to decide again.")
        return Checked(None, _rows(decision, logged, None), tuple(notes))
    wanted = logged.get("wanted", logged.get("model", ""))
    if "wanted" in logged:
        notes.append(f"The roll-out or the conversation's earlier model overruled it: {decision.reason}.")
    return Checked(again.model == wanted, _rows(decision, logged, again), tuple(notes))


def _from_evidence(
    route: Route, decision: Decision, logged: dict[str, str], artefact: Artefact | None
) -> Choice | None:
    """The choice that the logged figures lead to under the route as it is now."""
    tiers = dict(route.tiers)
    tier = ""
    if "tag" in logged:
        tier = dict(route.tags).get(logged["tag"], logged["tag"])
    elif "tokens" in logged:
        tier = by_length(int(logged["tokens"]), int(logged.get("tools", "0")), short=route.length_tokens)
    elif "tools" in logged:
        tier = "complex"
    elif "score" in logged:
        score = float(logged["score"])
        tier = "simple" if score < 0.3 else "medium" if score < 0.7 else "complex"
    elif "coverage" in logged or "similarity" in logged or "embedder" in logged:
        tier = _by_scores(route, logged, artefact)
    elif "said" in logged:
        tier = tier_word(logged["said"]) or route.otherwise
    elif decision.reason in ("route_otherwise", "route_untrained"):
        tier = route.otherwise
    elif decision.reason == "route_first":
        tier = route.tiers[0][0]
    if not tier:
        return None
    tier = tier if tier in tiers else route.otherwise
    return Choice(tiers[tier], tier, decision.reason, ())


def _by_scores(route: Route, logged: dict[str, str], artefact: Artefact | None) -> str:
    strong = f"p:{route.strong}"
    if artefact is None or strong not in logged or not _supported(logged, artefact):
        return route.otherwise
    limits = dict(artefact.thresholds.gains)
    for tier, model in route.tiers:
        if model == route.strong or model not in limits or f"p:{model}" not in logged:
            continue
        if float(logged[strong]) - float(logged[f"p:{model}"]) < limits[model]:
            return tier
    return route.otherwise


def _supported(logged: dict[str, str], artefact: Artefact) -> bool:
    if artefact.table is not None:
        return float(logged.get("coverage", "0")) >= artefact.table.coverage_min
    assert artefact.clusters is not None
    place = int(logged.get("cluster", "-1"))
    if not 0 <= place < len(artefact.clusters.clusters):
        return False
    cluster = artefact.clusters.clusters[place]
    near = float(logged["similarity"]) >= round(cluster.nearest, 3)
    return near and cluster.prompts >= artefact.clusters.prompts_min


def left_out(text: str) -> tuple[Pruned, ...]:
    """The models that a decision's evidence says were left out of the pool."""
    parts = (part.partition(": ") for part in text.split("; ") if part)
    return tuple(Pruned(model, why) for model, _, why in parts)


def _rows(decision: Decision, logged: dict[str, str], again: Choice | None) -> tuple[tuple[str, str, str], ...]:
    now = dict(again.evidence) if again else {}
    rows = [("model", logged.get("wanted", logged.get("model", "")), again.model if again else "-")]
    rows.append(("reason", decision.reason, again.reason if again else "-"))
    for name in dict.fromkeys((*logged, *now)):
        if name not in ("model", "route"):
            rows.append((name, logged.get(name, "-"), "-" if name in _AFTER else now.get(name, "-")))
    return tuple(rows)
