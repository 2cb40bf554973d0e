"""A ClickHouse server over its HTTP interface. Blocking."""

from collections.abc import Mapping
from typing import Final

import httpx

from farthing.core.errors import StoreUnavailable

TIMEOUT_S: Final = 60.0


class ClickHouseHttp:
    """``ClickHouse`` over HTTP. ``url`` is the server's, ``http://clickhouse:8123``; any thread may use it."""

    def __init__(self, url: str, *, database: str = "default", user: str = "", password: str = "") -> None:
        self._url = url
        self._options = {
            "database": database,
            # Without it an error after the first rows would come with status 200.
            "wait_end_of_query": "1",
        }
        headers = {"x-clickhouse-user": user} if user else {}
        if password:
            headers["x-clickhouse-key"] = password
        self._client = httpx.Client(headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def run(self, sql: str, parameters: Mapping[str, str] | None = None) -> bytes:
        options = self._options | {f"param_{name}": value for name, value in (parameters or {}).items()}
        try:
            answer = self._client.post(self._url, params=options, content=sql.encode())
        except httpx.HTTPError as error:
            raise StoreUnavailable(
                f"ClickHouse at {self._url} cannot be reached: {(str(error) or type(error).__name__).rstrip('.')}.",
                hint="Check analytics.clickhouse_url, and whether the server runs.",
            ) from error
        if answer.status_code != httpx.codes.OK:
            said = answer.text.strip().splitlines()
            raise StoreUnavailable(
                f"ClickHouse at {self._url} answered {answer.status_code}: {said[0][:300] if said else 'nothing'}",
                hint="Check the user, its password and its rights on the database.",
            )
        return answer.content

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()
