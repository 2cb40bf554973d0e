"""AWS Signature Version 4: the ``authorization`` header of one request. Pure; the time is given.

https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html
"""

import hashlib
import hmac
from collections.abc import Iterable
from urllib.parse import quote, unquote, urlsplit

import msgspec

ALGORITHM = "AWS4-HMAC-SHA256"
_SIGNED = ("content-type",)
_DEFAULT_PORTS = {"http": 80, "https": 443}

Pairs = tuple[tuple[str, str], ...]


class AwsKeys(msgspec.Struct, frozen=True, kw_only=True):
    """Credentials; nothing that is printed or logged shows the secret."""

    key_id: str
    secret: str
    token: str = ""
    """The session token of temporary credentials."""

    def __repr__(self) -> str:
        return f"AwsKeys(key_id={self.key_id!r})"


def signed(
    method: str, url: str, headers: Iterable[tuple[str, str]], body: bytes, keys: AwsKeys, *, region: str,
    service: str, at: str,
) -> Pairs:  # fmt: skip
    """The headers that sign a request: ``x-amz-date``, the session token if any, and ``authorization``.

    ``url`` is as it is sent (its path already escaped); ``at`` is ``YYYYMMDDTHHMMSSZ``. Of ``headers`` the content
    type and all that begin with ``x-amz-`` or ``my-`` are signed, beside the host; others may change on their way.
    """
    parts = urlsplit(url)
    added: Pairs = (("x-amz-date", at), *((("x-amz-security-token", keys.token),) if keys.token else ()))
    found: dict[str, list[str]] = {"host": [_host(parts.scheme, parts.hostname or "", parts.port)]}
    for name, value in (*headers, *added):
        if name.lower() in _SIGNED or name.lower().startswith(("x-amz-", "my-")):
            found.setdefault(name.lower(), []).append(" ".join(value.split()))
    names = ";".join(sorted(found))
    canonical = "\n".join(
        (
            method,
            quote(parts.path or "/", safe="/~"),  # escaped once more than it is sent, as every service but S3 wants
            _query(parts.query),
            *(f"{name}:{','.join(found[name])}" for name in sorted(found)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        )
    )
    scope = f"{at[:8]}/{region}/{service}/aws4_request"
    text = "\n".join((ALGORITHM, at, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    signature = hmac.new(signing_key(keys.secret, at[:8], region, service), text.encode(), hashlib.sha256).hexdigest()
    value = f"{ALGORITHM} Credential={keys.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    return (*added, ("authorization", value))


def signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    """The key of one day, region and service."""
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _host(scheme: str, name: str, port: int | None) -> str:
    return name if port in (None, _DEFAULT_PORTS.get(scheme)) else f"{name}:{port}"


def _query(query: str) -> str:
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    escaped = ((quote(unquote(name), safe="~"), quote(unquote(value), safe="~")) for name, _, value in pairs)
    return "&".join(f"{name}={value}" for name, value in sorted(escaped))
