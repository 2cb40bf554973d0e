"""The policy's part of a configuration file: what pages may show of it, without people, keys and addresses."""

import re
import tomllib
from typing import Final

from farthing.config.grammar import TOP

_SECTION: Final = re.compile(r"\s*\[\[?\s*([A-Za-z_][\w-]*)")
_KEY: Final = re.compile(r"\s*([A-Za-z_][\w-]*)\s*=")
_SECTIONS: Final = (
    "budgets", "cache", "exchange_log", "fallbacks", "levers", "limits", "retries", "routes", "unpriced",
)  # fmt: skip
_KEPT: Final = frozenset({*_SECTIONS, *TOP})


def policy_part(text: str) -> str:
    """The settings of the policy, comments included; "" where they cannot be told from the others line by line."""
    kept: list[str] = []
    keep = in_section = False
    for line in text.splitlines(keepends=True):
        if section := _SECTION.match(line):
            keep, in_section = section[1] in _KEPT, True
        elif not in_section and (key := _KEY.match(line)):
            keep = key[1] in _KEPT
        if keep:
            kept.append(line)
    found = "".join(kept).strip()
    try:
        whole, part = tomllib.loads(text), tomllib.loads(found)
    except tomllib.TOMLDecodeError:
        return ""
    same = part == {name: value for name, value in whole.items() if name in _KEPT}
    return f"{found}\n" if same and found else ""
