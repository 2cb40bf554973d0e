"""How long to wait before the same target is asked again."""

from zlib import crc32

from farthing.core.errors import ProviderFailed
from farthing.core.policy import Retries
from farthing.engine.messages import error_class


def pause_before(retries: Retries, error: ProviderFailed, turn: int, name: str) -> int | None:
    """Milliseconds before the try after number ``turn`` of one target; None: do not try again.

    ``name`` is the call's and the try's: the jitter comes from it, so that replayed calls pause as they did.
    """
    if turn >= retries.attempts_max or error_class(error) not in retries.on:
        return None
    asked = getattr(error, "retry_after_ms", None)
    if asked is not None:
        return int(asked) if asked <= retries.backoff_ms_max else None
    most = min(retries.backoff_ms << (turn - 1), retries.backoff_ms_max)
    return most // 2 + crc32(name.encode()) % (most - most // 2 + 1)
