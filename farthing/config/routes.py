"""Values that only routes have: tiers in their written order, cascades, roll-outs."""

from collections.abc import Mapping
from typing import Final, get_args

from farthing.config import values
from farthing.config.caches import number
from farthing.config.values import Reader, Wrong, did_you_mean, shown
from farthing.core.dimensions import SCOPE_DIMENSIONS
from farthing.core.policy_routes import CascadeRules, Check
from farthing.core.rollout import RolloutRules, ShadowCheck

Fields = Mapping[str, tuple[Reader, str]]


def what(value: object) -> object:
    """Something a route may match: a dimension of the caller, ``tag:<name>`` or ``header:<name>``."""
    name = str(values.text(value))
    if name in SCOPE_DIMENSIONS or any(
        name.startswith(kind) and len(name) > len(kind) for kind in ("tag:", "header:")
    ):
        return name.lower() if name.startswith("header:") else name
    allowed = ", ".join(SCOPE_DIMENSIONS)
    hint = did_you_mean(name, SCOPE_DIMENSIONS)
    raise Wrong(
        f"is {shown(value)}, not something a route can match; allowed: {allowed}, tag:<name>, header:<name>{hint}"
    )


def tiers(value: object) -> object:
    """``{simple = "small", complex = "large"}`` as pairs in the written order, which is cheapest first."""
    if not isinstance(value, dict) or not value:
        raise Wrong(f'is {shown(value)}; a table is expected, cheapest first: {{simple = "…", complex = "…"}}')
    return tuple((str(name), values.text(model)) for name, model in value.items())


_CASCADE: Final[Fields] = {
    "verify": (values.listed(values.choice(*get_args(Check)), low=1), "verify"),
    "schema": (values.text, "schema"),
    "pattern": (values.regex, "pattern"),
    "logprob_min": (number(-100, 0), "logprob_min"),
    "peer": (values.text, "peer"),
    "judge": (values.text, "judge"),
    "judge_min": (values.whole(0, 10), "judge_min"),
    "judge_prompt": (values.text, "judge_prompt"),
    "wait_max": (values.duration_ms, "wait_ms_max"),
}

_ROLLOUT: Final[Fields] = {
    "margin": (number(0.001, 0.5), "margin"),
    "alpha": (number(0.001, 0.4), "alpha"),
    "holdout": (number(0, 0.5), "holdout"),
    "pairs_min": (values.whole(10, 1_000_000), "pairs_min"),
    "shadow_share": (number(0, 1), "shadow_share"),
    "shadow_usd_per_day": (values.usd, "shadow_usd_max"),
    "verify": (values.listed(values.choice(*get_args(ShadowCheck))), "verify"),
    "pattern": (values.regex, "pattern"),
    "judge": (values.text, "judge"),
    "canary": (values.text, "canary"),
    "canary_every": (values.duration_ms, "canary_every_ms"),
}


def cascade(value: object) -> object:
    """``{verify = ["json", "agreement"], peer = "…"}``, or ``[routes.cascade]`` after its route."""
    found = _table(value, _CASCADE)
    if "verify" not in found:
        raise Wrong('names no checks; write verify = ["json_schema", "agreement"]')
    return CascadeRules(**found)  # type: ignore[arg-type]


def rollout(value: object) -> object:
    """``{margin = 0.02}``, or ``[routes.rollout]`` after its route."""
    return RolloutRules(**_table(value, _ROLLOUT))  # type: ignore[arg-type]


def _table(value: object, fields: Fields) -> dict[str, object]:
    if not isinstance(value, dict):
        raise Wrong(f"is {shown(value)}; a table is expected")
    found: dict[str, object] = {}
    problems: list[str] = []
    for key, one in value.items():
        if key not in fields:
            problems.append(
                f"has {shown(key)}, which is unknown{did_you_mean(key, fields)}; allowed: {', '.join(fields)}"
            )
            continue
        read, name = fields[key]
        try:
            found[name] = read(one)
        except Wrong as wrong:
            problems.append(f"{key} {wrong}")
    if problems:
        raise Wrong("; ".join(problems))
    return found
