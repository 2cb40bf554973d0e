"""Signatures of webhooks: HMAC-SHA256 over the time and the body, so that a receiver knows who sent it and when."""

import hashlib
import hmac
from typing import Final

TOLERANCE_S: Final = 300
"""A signature older or newer than this is refused: it may be a replay."""


def sign(secret: bytes, timestamp: int, body: bytes) -> str:
    """``v1=<hex>`` over ``<timestamp>.<body>``; ``timestamp`` in seconds since the epoch."""
    return "v1=" + hmac.new(secret, b"%d." % timestamp + body, hashlib.sha256).hexdigest()


def verify(secret: bytes, timestamp: str, signature: str, body: bytes, *, now_s: int) -> bool:
    """The body is from whoever knows the secret, and signed just now. Receivers also drop ids they have had."""
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    if abs(now_s - int(timestamp)) > TOLERANCE_S:
        return False
    return hmac.compare_digest(sign(secret, int(timestamp), body).encode(), signature.encode())
