"""Leaves out tools that the policy names: every call pays for the description of each tool it brings.

A tool that the conversation has used or that the caller insists on stays, and so does the last one.
"""

import re
from fnmatch import fnmatchcase
from typing import Final

from farthing.core.json_spans import elements, members, quoted, spliced, text, without
from farthing.core.lever import Facts, Lever, Prefix

PREFIX: Final[Prefix] = "own_form"


class PruneTools(Lever, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="prune_tools"):
    """``kind = "prune_tools"``."""

    tools: tuple[str, ...]
    """Name patterns (``*`` and ``?``) of the tools to leave out."""


def apply(lever: PruneTools, body: bytes, facts: Facts) -> bytes:
    """The body without those tools."""
    top = members(body)
    if top is None or "tools" not in top:
        return body
    spans = elements(body, top["tools"]) or []
    outer = top["tools"]
    elsewhere = body[: outer[0]] + body[outer[1] :]
    gone: set[int] = set()
    for place, span in enumerate(spans):
        name = _name(body, span)
        unwanted = name and any(fnmatchcase(name, pattern) for pattern in lever.tools)
        if unwanted and not re.search(rb'"name"\s*:\s*' + re.escape(quoted(name)), elsewhere):
            gone.add(place)
    if len(gone) == len(spans):
        return body
    return spliced(body, without(body, outer, spans, gone))


def _name(body: bytes, span: tuple[int, int]) -> str:
    """The tool's name; empty for tools that providers run themselves."""
    fields = members(body, span) or {}
    function = fields.get("function")
    if function is not None:
        fields = members(body, function) or {}
    elif not fields.keys() & {"parameters", "input_schema"}:
        return ""
    marked = "cache_control" in fields  # a caller's own breakpoint stands on it
    return "" if marked else text(body, fields.get("name")) or ""
