"""Which of a caller's headers travel on to a provider."""

from email.utils import parsedate_to_datetime
from typing import Final

_STAYS: Final = frozenset(
    {
        b"host", b"content-length", b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer",
        b"upgrade", b"proxy-authorization", b"proxy-connection", b"accept-encoding", b"authorization",
        b"x-api-key", b"api-key", b"cookie", b"expect", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto",
        b"x-forwarded-host", b"x-real-ip",
    }
)  # fmt: skip


def travelling(headers: tuple[tuple[bytes, bytes], ...]) -> list[tuple[bytes, bytes]]:
    """The caller's headers without connection matters, credentials and Farthing's own."""
    return [pair for pair in headers if pair[0] not in _STAYS and not pair[0].startswith(b"x-farthing")]


Pairs = tuple[tuple[bytes, bytes], ...]


class Travellers:
    """What leaves with a provider's requests: the caller's headers that travel, and some of the provider's own.

    A caller's requests on one connection bring one and the same tuple, so what was made of it is kept for the next.
    """

    def __init__(self, extra: Pairs, *, default: Pairs = (), most: int = 1024) -> None:
        """``extra`` goes with every request, each of ``default`` where nobody else names it.

        ``most``: tuples that are remembered.
        """
        self._extra = extra
        self._default = default
        self._most = most
        self._known: dict[int, tuple[Pairs, Pairs]] = {}

    def of(self, headers: Pairs) -> Pairs:
        """The headers to send, the same tuple for the same tuple."""
        found = self._known.get(id(headers))
        if found is not None and found[0] is headers:
            return found[1]
        made = self.made(travelling(headers))
        if len(self._known) >= self._most:
            self._known.clear()
        self._known[id(headers)] = (headers, made)  # which keeps the tuple, so that nothing else gets its id
        return made

    def made(self, headers: list[tuple[bytes, bytes]]) -> Pairs:
        """These headers with the provider's own."""
        headers = [*headers, *self._extra]
        said = {name for name, _ in headers} if self._default else ()
        return (*headers, *[pair for pair in self._default if pair[0] not in said])


RETRY_AFTER_MS_MAX: Final = 86_400_000
"""No wait that a provider asks for is longer."""


def retry_after_ms(headers: tuple[tuple[bytes, bytes], ...]) -> int | None:
    """What ``retry-after-ms`` or ``retry-after`` (seconds) asks for; nonsense counts as not said."""
    for name, scale in ((b"retry-after-ms", 1), (b"retry-after", 1000)):
        for given, value in headers:
            if given == name:
                try:
                    return max(0, min(int(float(value) * scale), RETRY_AFTER_MS_MAX))
                except (ValueError, OverflowError):
                    return None
    return None


def retry_at_ms(headers: tuple[tuple[bytes, bytes], ...]) -> int | None:
    """The instant that ``retry-after`` names where it is a date, as HTTP allows too; None: it is none."""
    for name, value in headers:
        if name == b"retry-after":
            try:
                return int(parsedate_to_datetime(value.decode("ascii")).timestamp() * 1000)
            except (ValueError, OverflowError, TypeError):
                return None
    return None
