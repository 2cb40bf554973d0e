"""``[[levers]]``: which settings each kind of lever has."""

from collections.abc import Mapping
from typing import Final, get_args

import msgspec

from farthing.core.policy_levers import AnyLever

_COMMON: Final = ("kind", "name", "models", "match")
KINDS: Final[Mapping[str, type[AnyLever]]] = {
    str(one.__struct_config__.tag): one for one in get_args(AnyLever)
}  # fmt: skip


def problems(path: str, raw: Mapping[str, object]) -> list[str]:
    """What this lever lacks, and what means nothing for its kind."""
    kind = KINDS.get(str(raw.get("kind", "")))
    if kind is None:
        return []  # its kind is missing or unknown, which is said elsewhere
    fields = msgspec.structs.fields(kind)
    own = {field.name for field in fields}
    tag = kind.__struct_config__.tag
    found = [
        f'{path}.{key}: means nothing with kind = "{tag}"' for key in raw if key not in own and key not in _COMMON
    ]
    found += [
        f'{path}.{field.name}: is missing; kind = "{tag}" needs it'
        for field in fields
        if field.required and field.name not in raw
    ]
    found += [f"{path}.{name}: is empty" for name in ("model", "evaluated") if not str(raw.get(name, "x")).strip()]
    above, goal = raw.get("above_tokens"), raw.get("to_tokens")
    if isinstance(above, int) and isinstance(goal, int) and goal >= above:
        found.append(f"{path}.to_tokens: is {goal}; it must be less than above_tokens ({above})")
    return found
