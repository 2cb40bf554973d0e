"""Headers ``x-farthing-…`` that mean nothing: most often a slip of the pen, which would lose whose call it was.

By policy such a call is refused (``limits.unknown_headers = "refuse"``), or served with a warning in its answer.
"""

import logging
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, cast

from farthing.core.errors import BadRequest
from farthing.core.policy import Policy
from farthing.ports.reply import Fixed, Headers

if TYPE_CHECKING:
    from farthing.server.direct import Caller

_LOG = logging.getLogger("farthing.server")
PREFIX: Final = b"x-farthing-"
WARNING: Final = b"x-farthing-warning"
KNOWN: Final = frozenset(
    PREFIX + name.encode()
    for name in (
        "org", "team", "project", "user", "feature", "customer", "session", "tags", "cache", "defer", "route",
    )
)  # fmt: skip
"""What callers may say; a policy's routes may look at others."""
_TOLD_MAX: Final = 100


class Strangers:
    """Notices unknown headers; each name is logged once."""

    def __init__(self) -> None:
        self._told: set[bytes] = set()

    def noticed(self, names: tuple[bytes, ...], policy: Policy, reply: "Caller") -> "Caller":
        """The reply, with a warning where the policy knows no such names either. Raises :class:`BadRequest`."""
        known = _known(policy)
        unknown = [name for name in dict.fromkeys(names) if name not in known]
        if not unknown:
            return reply
        said = "; ".join(_said(name, known) for name in unknown[:8])
        if policy.limits.unknown_headers == "refuse":
            raise BadRequest(
                f"Unknown header: {said}.",
                hint="Headers x-farthing-… say whose call it is; correct the name or leave it out.",
            )
        for name in unknown:
            if name not in self._told and len(self._told) < _TOLD_MAX:
                self._told.add(name)
                _LOG.warning("unknown header %s: it is ignored", _said(name, known))
        return cast("Caller", _Warned(reply, f"unknown header {said}".encode("ascii", "replace")))


def _known(policy: Policy) -> frozenset[bytes]:
    """The names that mean something here, lower-case."""
    if not policy.routes:
        return KNOWN
    named = [route.tag_header for route in policy.routes]
    named += [name.removeprefix("header:") for route in policy.routes for name, _ in route.match]
    return KNOWN | {name.lower().encode("latin-1", "replace") for name in named}


def _said(name: bytes, known: frozenset[bytes]) -> str:
    bare = {one.removeprefix(PREFIX).decode("latin-1"): one.decode("latin-1") for one in known}
    text = name[:80].decode("ascii", "replace")
    near = get_close_matches(text[len(PREFIX) :], bare, n=1, cutoff=0.7)
    return f"{text} (did you mean {bare[near[0]]}?)" if near else text


class _Warned:
    """A reply that says one header more."""

    def __init__(self, reply: "Caller", line: bytes) -> None:
        self._reply = reply
        self._line = (WARNING, line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reply, name)

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        await self._reply.whole(status, [*headers, self._line], body)

    async def start(self, status: int, headers: Headers) -> None:
        await self._reply.start(status, [*headers, self._line])

    def again(self, headers: Headers, fixed: Fixed) -> bool:
        """Never: what is fixed has no warning."""
        return False
