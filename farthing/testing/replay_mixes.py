"""What random policies and logs for replays are mixed with: all that the short way must decide as the pipeline.

The same seed gives the same, anywhere.
"""

import random
from collections.abc import Iterable

from msgspec.structs import replace

from farthing.core.types import Decision, Exchange, Usage, UsagePart

_LEVERS = (
    '[[levers]]\nkind = "cap_output"\ntokens = 40\n',
    '[[levers]]\nkind = "compact_json"\nusers = true\n',
    '[[levers]]\nkind = "trim_history"\nabove_tokens = 200\nto_tokens = 50\nkeep_turns = 1\n',
    '[[levers]]\nkind = "cache_breakpoints"\nmodels = ["claude-*"]\nreuse = "always"\n',
)
_ACTS = (
    'do = "degrade", to = "gpt-4o-mini"',
    'do = "queue"',
    'do = "block"',
    'do = "cap"',
    'do = "throttle", per_minute = 2',
    'do = "throttle", per_minute = 1',
)
_SOURCES = ("reported", "reported", "reported", "estimated", "partial", "missing")


def shaping(rng: random.Random) -> str:
    """Sections of a policy that shape calls: routes, levers, thresholds of several budgets."""
    lines = []
    if rng.random() < 0.5:
        by = rng.choice(("[]", '["tag"]', '["length"]', '["tag", "tools", "length"]', '["heuristic"]'))
        match = rng.choice(("", 'match = { team = "a" }\n', 'match = { "tag:route" = "simple" }\n'))
        providers = rng.choice(("", "", 'providers = ["openai"]\n'))
        lines.append(
            f'[[routes]]\nname = "r"\nmodels = ["{rng.choice(("gpt-4o", "gpt-4*", "*"))}"]\n{match}'
            f'tiers = {{ simple = "gpt-4o-mini", complex = "{rng.choice(("gpt-4o", "gpt-4.1"))}" }}\n'
            f"by = {by}\nlength_tokens = {rng.choice((5, 60, 1_000))}\n{providers}"
        )
    lines += [one for one in _LEVERS if rng.random() < 0.3]
    for name in ("first", "second"):
        if rng.random() < 0.7:
            lines.append(_acting(rng, name))
    return "".join(lines)


def _acting(rng: random.Random, name: str) -> str:
    rules = [f"{{ at = {percent}, {rng.choice(_ACTS)} }}" for percent in (1, 30, 80) if rng.random() < 0.6]
    if not rules:
        return ""
    per = rng.choice(('per = "day"', 'per = "hour"', 'per = "rolling"\nlength = "10m"'))
    limit = rng.choice(('usd = "0.01"', 'usd = "0.05"', 'usd = "0.3"', "tokens = 4000", "requests = 8"))
    each = rng.choice(("", 'each = ["team"]\n', 'each = ["model"]\n', 'each = ["user", "team"]\n'))
    hard = rng.choice(("true", "true", "false"))
    return f'[[budgets]]\nname = "{name}"\n{per}\n{limit}\nhard = {hard}\n{each}thresholds = [{", ".join(rules)}]\n'


def varied(rng: random.Random, exchanges: Iterable[Exchange]) -> list[Exchange]:
    """The same log, where some answers were metered otherwise, named another model, or said what they cost."""
    return [_varied(rng, one) if rng.random() < 0.4 else one for one in exchanges]


def _varied(rng: random.Random, exchange: Exchange) -> Exchange:
    usage = exchange.usage
    if usage is not None:
        usage = _metered(rng, usage)
    scope = exchange.scope
    if rng.random() < 0.3:
        scope = replace(scope, tags=(("route", rng.choice(("simple", "complex", "odd"))),))
    view = replace(
        exchange.view,
        tools=rng.choice((0, 0, 2)),
        images=rng.choice((0, 0, 0, 1)),
        choices=rng.choice((1, 1, 1, 2)),
        service_tier=rng.choice(("", "", "flex")),
    )
    decisions = exchange.decisions
    if rng.random() < 0.1:
        cap = Decision(stage="limits", action="cap", reason="output_capped", evidence=(("cap", "30"),))
        decisions = (*decisions, cap)
    return replace(exchange, usage=usage, scope=scope, view=view, decisions=decisions)


def _metered(rng: random.Random, usage: Usage) -> Usage:
    """Cached and reasoning tokens, estimates and parts of streams, other models, stated costs."""
    parts = []
    for part in usage.parts:
        lines = dict(part.lines)
        if lines.get("input", 0) > 10 and rng.random() < 0.5:
            lines["input_cache_read"] = rng.randrange(1, lines["input"])
            lines["input"] -= lines["input_cache_read"]
        if lines.get("output", 0) > 4 and rng.random() < 0.4:
            lines["output_reasoning"] = rng.randrange(1, lines["output"])
            lines["output"] -= lines["output_reasoning"]
        if rng.random() < 0.1:
            lines["web_search"] = 2
        parts.append(replace(part, lines=tuple(lines.items())))
    if parts and rng.random() < 0.1:
        parts.append(UsagePart(lines=(("input", 50), ("output", 7)), tier_basis=50, model="gpt-4o-mini"))
    return replace(
        usage,
        parts=tuple(parts),
        source=rng.choice(_SOURCES),
        model=rng.choice((usage.model, usage.model, "gpt-4o-2024-08-06", "nobody-knows")),
        stated_pusd=rng.choice((None, None, None, 123_456_789)),
        finish_reason=rng.choice((usage.finish_reason, usage.finish_reason, "length", "tool_calls")),
    )
