"""Virtual keys whose making and revoking go on the audit log."""

from farthing.core.types import KeyRecord
from farthing.ports.audit import AuditLog, Changed
from farthing.ports.books import Keys


class AuditedKeys:
    """``Keys`` over others; the key is changed first, then noted."""

    def __init__(self, keys: Keys, log: AuditLog, by: str) -> None:
        self._keys = keys
        self._log = log
        self._by = by

    def find(self, secret_hash: str) -> KeyRecord | None:
        return self._keys.find(secret_hash)

    def all(self) -> tuple[KeyRecord, ...]:
        return self._keys.all()

    def add(self, record: KeyRecord) -> None:
        self._keys.add(record)
        self._log.record(
            Changed(at_ms=record.created_at_ms, subject="key", name=record.id, after="created", by=self._by,
                    detail=record.name)
        )  # fmt: skip

    def revoke(self, key_id: str, *, at_ms: int) -> bool:
        done = self._keys.revoke(key_id, at_ms=at_ms)
        if done:
            self._log.record(
                Changed(at_ms=at_ms, subject="key", name=key_id, before="created", after="revoked", by=self._by)
            )
        return done

    def close(self) -> None:
        """Close both."""
        self._log.close()
        close = getattr(self._keys, "close", None)
        if close is not None:
            close()
