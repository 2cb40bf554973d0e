"""The head of a metered call: its headers, and what is read from them, once for all requests that repeat them."""

from farthing.core.caching_key import deciding
from farthing.core.errors import BadRequest
from farthing.server.strange import KNOWN, PREFIX

Pairs = list[tuple[bytes, bytes]]
_SAYS = (b"x-farthing-", b"traceparent")


def secret_of(headers: Pairs) -> bytes | None:
    """The credential a caller sent, whichever header its client uses."""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name in (b"x-api-key", b"api-key"):
            return value.strip()
    return None


class Head:
    """Headers with lower-case names. A connection's requests mostly share one, so it must not be changed."""

    __slots__ = ("_deciding", "_encoding", "listed", "pairs", "says", "secret", "strange", "traces")

    def __init__(self, listed: Pairs) -> None:
        self.listed = listed
        self.pairs = tuple(listed)
        self.secret = secret_of(listed)
        self.says = tuple([pair for pair in listed if pair[0].startswith(_SAYS)])
        """The headers that say whose call it is."""
        self.strange = tuple([name for name, _ in self.says if name not in KNOWN and name.startswith(PREFIX)])
        """The names among them that nobody knows, unless the policy does."""
        self.traces = tuple([pair for pair in listed if pair[0] == b"traceparent"])
        """Those of them that only say which trace the call is part of."""
        self._deciding: tuple[tuple[bytes, bytes], ...] | None = None
        self._encoding = next((value for name, value in listed if name == b"content-encoding"), b"")

    @property
    def deciding(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that anything but whose call it is, and its trace, may depend on."""
        if self._deciding is None:
            self._deciding = deciding(self.pairs)
        return self._deciding

    def check_encoding(self) -> None:
        """Raises :class:`BadRequest` for a compressed body, which nobody could meter."""
        if self._encoding and self._encoding.lower() != b"identity":
            raise BadRequest(
                f"The request body is compressed ({self._encoding[:20].decode('ascii', 'replace')}).",
                hint="Send it without Content-Encoding.",
            )
