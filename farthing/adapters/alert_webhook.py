"""Alerts as signed JSON to an address of one's own."""

import httpx
import msgspec

from farthing.core.alert_text import record
from farthing.core.alerts import Alert
from farthing.core.signing import sign
from farthing.ports.alerts import SinkFailed
from farthing.ports.clock import Clock

ID_HEADER = "x-farthing-alert-id"
TIME_HEADER = "x-farthing-timestamp"
SIGNATURE_HEADER = "x-farthing-signature"
TIMEOUT_S = 10.0


class WebhookSink:
    """``AlertSink``: one POST an alert. Any 2xx answer means delivered; redirects are not followed."""

    def __init__(self, url: str, secret: str, clock: Clock) -> None:
        """``secret`` empty: unsigned. Both are kept out of every message."""
        self._url = url
        self._secret = secret.encode()
        self._clock = clock
        self._client: httpx.AsyncClient | None = None

    async def send(self, alert: Alert) -> None:
        body = msgspec.json.encode(record(alert))
        timestamp = self._clock.now_ms() // 1000
        headers = {"content-type": "application/json", ID_HEADER: alert.id, TIME_HEADER: str(timestamp)}
        if self._secret:
            headers[SIGNATURE_HEADER] = sign(self._secret, timestamp, body)
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False)
        try:
            answer = await self._client.post(self._url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # An error of the client may quote the address, which may hold a secret: its kind says enough.
            raise SinkFailed(f"the webhook cannot be reached ({type(error).__name__})") from None
        if not answer.is_success:
            raise SinkFailed(f"the webhook answered {answer.status_code}")

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
