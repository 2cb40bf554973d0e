"""Writes HTTP/1.1 request heads: what goes on the wire, checked so that nothing can be smuggled in."""

import re
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from farthing.core.errors import BadRequest
from farthing.ports.provider import HttpRequest

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-zA-Z]+")
_VISIBLE = re.compile(r"[!-~]+")
_METHOD = re.compile(r"[A-Z]{3,16}")
_FRAMING = frozenset((b"host", b"content-length", b"connection", b"transfer-encoding", b"upgrade", b"expect", b"te"))
"""Names that decide how a message is framed or routed; only the transport writes them."""
_BODILESS = frozenset(("GET", "HEAD", "DELETE", "OPTIONS"))
_CACHE_LIMIT = 4096

Headers = tuple[tuple[bytes, bytes], ...]


class Origin(NamedTuple):
    """Whom to connect to; connections are shared per origin."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class HeadWriter:
    """Turns requests into bytes. Remembers start lines and header names that it has already checked."""

    def __init__(self) -> None:
        self._starts: dict[tuple[str, str], tuple[Origin, bytes]] = {}
        self._names: set[bytes] = set()
        self._heads: dict[int, tuple[bytes, Headers, bytes]] = {}
        """By the identity of the headers: (start, headers, the head that they made, without the body's length)."""

    def start(self, method: str, url: str) -> tuple[Origin, bytes]:
        """The origin, and the request line with ``host``. Raises ``BadRequest`` for an unusable URL or method."""
        known = self._starts.get((method, url))
        if known is None:
            if len(self._starts) >= _CACHE_LIMIT:
                self._starts.clear()
            known = self._starts[method, url] = _start(method, url)
        return known

    def head(self, start: bytes, request: HttpRequest) -> bytes:
        """The complete head, up to and including the empty line. Raises ``BadRequest`` for an unsafe header."""
        headers = request.headers
        found = self._heads.get(id(headers))
        if found is not None and found[1] is headers and found[0] is start:
            head = found[2]
        else:
            head = self._written(start, request)
            if len(self._heads) >= _CACHE_LIMIT:
                self._heads.clear()
            self._heads[id(headers)] = (start, headers, head)  # which keeps the headers: nothing else gets their id
        if request.body or request.method not in _BODILESS:
            return b"%bcontent-length: %d\r\n\r\n" % (head, len(request.body))
        return head + b"\r\n"

    def _written(self, start: bytes, request: HttpRequest) -> bytes:
        names = self._names
        pieces = [start]
        for name, value in request.headers:
            if name not in names:
                self._admit(name)
            pieces += (name, b": ", value, b"\r\n")
        head = b"".join(pieces)
        # Every line end was written here: one more CR or LF than that came out of a header.
        lines = start.count(b"\n") + len(request.headers)
        if head.count(b"\r") != lines or head.count(b"\n") != lines or b"\0" in head:
            raise _unsafe(request)
        return head

    def _admit(self, name: bytes) -> None:
        shown = name[:80].decode("latin-1")
        if not _TOKEN.fullmatch(name):
            raise BadRequest(f"header name {shown!r} is not a valid HTTP token", hint="Correct or remove the header.")
        if name.lower() in _FRAMING:
            raise BadRequest(
                f"header {shown!r} may not be set on an upstream request",
                hint="The transport frames messages itself; remove the header.",
            )
        if len(self._names) >= _CACHE_LIMIT:
            self._names.clear()
        self._names.add(name)


def _unsafe(request: HttpRequest) -> BadRequest:
    for name, value in request.headers:
        if any(byte in value for byte in (b"\r", b"\n", b"\0")):
            return BadRequest(
                f"the value of header {name.decode('latin-1')!r} contains a line break or a NUL byte",
                hint="Remove it: such a value would inject lines into the upstream request.",
            )
    return BadRequest("a header contains a line break", hint="Remove the line break.")


def split_origin(url: str) -> tuple[Origin, SplitResult]:
    """The origin of an absolute http(s) URL and its parts. Raises ``BadRequest``."""
    # urlsplit silently removes line breaks and tabs, so the characters are checked first.
    if not _VISIBLE.fullmatch(url):
        raise BadRequest(f"upstream URL {url[:200]!r} has spaces, control or non-ASCII characters", hint=_URL_HINT)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadRequest(f"upstream URL {url[:200]!r} is malformed: {error}", hint=_URL_HINT) from None
    if parts.scheme not in ("http", "https") or not host:
        raise BadRequest(f"upstream URL {url[:200]!r} is not an absolute http(s) URL", hint=_URL_HINT)
    if parts.username is not None or parts.password is not None:
        raise BadRequest(f"upstream URL for {host!r} carries a user name or password", hint="Use a header instead.")
    return Origin(parts.scheme, host, port or (443 if parts.scheme == "https" else 80)), parts


_URL_HINT = "Check the provider's base_url; percent-encode special characters."


def _start(method: str, url: str) -> tuple[Origin, bytes]:
    if not _METHOD.fullmatch(method):
        raise BadRequest(f"{method[:40]!r} is not an HTTP method")
    origin, parts = split_origin(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    line = f"{method} {target} HTTP/1.1\r\nhost: {parts.netloc}\r\nconnection: keep-alive\r\n"
    return origin, line.encode("ascii")
