"""Asks for a cheaper service tier on calls that can wait: flex at half the price, slower, now and then refused.

A tier that the caller named stands. Providers may serve the ordinary tier instead, and bill that.
"""

from typing import Final, Literal

import msgspec

from farthing.core.json_spans import members, set_member, spliced
from farthing.core.lever import Facts, Lever, Prefix

PREFIX: Final[Prefix] = "kept"
_FORMS: Final = ("chat", "responses")


class ServiceTier(Lever, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="service_tier"):
    """``kind = "service_tier"``."""

    tier: Literal["flex"] = "flex"
    """What is asked for."""


def apply(lever: ServiceTier, body: bytes, facts: Facts) -> bytes:
    """The body with its tier set; one that names a tier is left alone."""
    top = members(body)
    if top is None or facts.form not in _FORMS:
        return body
    if "service_tier" in top:
        start, end = top["service_tier"]
        if body[start:end] not in (b"null", b'"auto"'):
            return body
    return spliced(body, [set_member(body, top, "service_tier", msgspec.json.encode(lever.tier))])
