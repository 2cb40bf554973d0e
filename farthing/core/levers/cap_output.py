"""Caps the answer's length on some calls; a caller's own smaller cap stands.

It cuts answers that would have been longer rather than making them concise: watch the share that ends by length.
"""

from typing import Final

from farthing.core.json_spans import members, set_member, spliced
from farthing.core.lever import Facts, Lever, Prefix

PREFIX: Final[Prefix] = "kept"
_NAMES: Final = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
    "completions": ("max_tokens",),
}


class CapOutput(Lever, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="cap_output"):
    """``kind = "cap_output"``."""

    tokens: int
    """The most output tokens of one answer."""


def apply(lever: CapOutput, body: bytes, facts: Facts) -> bytes:
    """The body with its cap lowered; one that asks for thoughts of at least that budget is left alone."""
    top = members(body)
    names = _NAMES.get(facts.form)
    if top is None or names is None or "thinking" in top:
        return body
    name = next((one for one in names if one in top), names[0])
    if name in top:
        start, end = top[name]
        said = body[start:end]
        if said.isdigit() and int(said) <= lever.tokens:
            return body
        if not said.isdigit() and said != b"null":
            return body
    return spliced(body, [set_member(body, top, name, str(lever.tokens).encode())])
