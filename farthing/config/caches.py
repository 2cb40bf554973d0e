"""Values that only the caches have: routes' rules for similar questions, shares and similarities."""

from collections.abc import Mapping
from typing import Final, get_args

from farthing.config import values
from farthing.config.values import Reader, Wrong, did_you_mean, shown
from farthing.core.dimensions import SCOPE_DIMENSIONS
from farthing.core.policy_cache import GuardName, SemanticRules


def number(low: float, high: float) -> Reader:
    """A number within bounds, both included, kept to six digits."""

    def read(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise Wrong(f"is {shown(value)}; a number from {low:g} to {high:g} is expected")
        return round(float(value), 6)

    return read


def dimension(value: object) -> object:
    """A dimension of the caller: who asks, never what is asked."""
    name = str(values.text(value))
    if name in SCOPE_DIMENSIONS or (name.startswith("tag:") and len(name) > 4):
        return name
    allowed = ", ".join(SCOPE_DIMENSIONS)
    hint = did_you_mean(name, SCOPE_DIMENSIONS)
    raise Wrong(f"is {shown(value)}, not a dimension of a caller; allowed: {allowed}, tag:<name>{hint}")


SEMANTIC: Final[Mapping[str, tuple[Reader, str]]] = {
    "mode": (values.choice("off", "shadow", "on"), "mode"),
    "risk": (number(0.0001, 0.5), "risk"),
    "threshold": (number(0, 1), "threshold"),
    "guards": (values.listed(values.choice(*get_args(GuardName))), "guards"),
    "turns": (values.choice("last", "first_only"), "turns"),
    "neighbours": (values.whole(1, 64), "neighbours"),
    "prompt_chars_max": (values.whole(1, 1_000_000), "prompt_chars_max"),
    "shadow_share": (number(0, 1), "shadow_share"),
    "judge": (values.text, "judge"),
    "judge_share": (number(0, 1), "judge_share"),
    "overhead_usd_per_day": (values.usd, "overhead_usd_per_day"),
}


def semantic(value: object) -> object:
    """``{mode = "shadow", risk = 0.01}``, or ``[cache.semantic]`` after its route."""
    if not isinstance(value, dict):
        raise Wrong(f"is {shown(value)}; a table is expected")
    found: dict[str, object] = {}
    problems: list[str] = []
    for key, one in value.items():
        if key not in SEMANTIC:
            known = f"{did_you_mean(key, SEMANTIC)}; allowed: {', '.join(SEMANTIC)}"
            problems.append(f"has {shown(key)}, which is unknown{known}")
            continue
        read, name = SEMANTIC[key]
        try:
            found[name] = read(one)
        except Wrong as wrong:
            problems.append(f"{key} {wrong}")
    if "risk" in found and "threshold" in found:
        problems.append("has both risk and threshold; keep one")
    if problems:
        raise Wrong("; ".join(problems))
    return SemanticRules(**found)  # type: ignore[arg-type]
