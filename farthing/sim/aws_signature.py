"""AWS signatures, checked as Amazon would: made again from what arrived. Independent of the gateway's own code."""

import hashlib
import hmac
import re
from typing import Final
from urllib.parse import quote

from farthing.sim.errors import ApiError
from farthing.sim.http import Wire

ALGORITHM: Final = "AWS4-HMAC-SHA256"
KEY_ID: Final = "AKIDSIMULATOR"
SECRET: Final = "simulated/secret+key"
"""The one pair of keys that the simulator knows; nothing else opens with it."""
_HEADER = re.compile(
    ALGORITHM + r" Credential=([^/,]+)/(\d{8})/([a-z0-9-]+)/([a-z]+)/aws4_request, SignedHeaders=([a-z0-9;-]+), "
    r"Signature=([0-9a-f]{64})"
)


def key_of(wire: Wire, body: bytes) -> str:
    """The id of the key that signed a request. Raises Amazon's 403 for a signature that does not fit."""
    found = _HEADER.fullmatch(wire.header(b"authorization"))
    if found is None:
        raise _refused("IncompleteSignatureException", "The authorization header is not complete.")
    key_id, day, region, service, names, signature = found.groups()
    at = wire.header(b"x-amz-date")
    if key_id != KEY_ID or service != "bedrock" or not at.startswith(day):
        raise _refused("UnrecognizedClientException", "The security token included in the request is invalid.")
    if "host" not in names.split(";") or "x-amz-date" not in names.split(";"):
        raise _refused("InvalidSignatureException", "'host' and 'x-amz-date' must be signed.")
    path = wire.scope.get("raw_path", b"").partition(b"?")[0].decode("ascii")
    lines = [str(wire.scope["method"]), quote(path, safe="/~"), ""]
    lines += [f"{name}:{' '.join(wire.header(name.encode()).split())}" for name in names.split(";")]
    lines += ["", names, hashlib.sha256(body).hexdigest()]
    asked = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    key = b"AWS4" + SECRET.encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"{ALGORITHM}\n{at}\n{day}/{region}/{service}/aws4_request\n{asked}"
    if not hmac.compare_digest(hmac.new(key, text.encode(), "sha256").hexdigest(), signature):
        raise _refused("InvalidSignatureException", "The request signature we calculated does not match yours.")
    return key_id


def _refused(kind: str, message: str) -> ApiError:
    return ApiError(403, f"{kind}: {message}", kind="permission_error")
