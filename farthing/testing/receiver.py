"""A receiver of webhooks on a loopback port: keeps what came, and can be told to be down."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import msgspec


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it came; header names in small letters."""

    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return msgspec.json.decode(self.body)


class Receiver:
    """Use it as a context manager; ``url`` is its address."""

    def __init__(self) -> None:
        self.status = 200
        """What it answers; anything but 2xx counts as down."""
        self.refused = 0
        """Requests answered with another status than 2xx."""
        self._received: list[Received] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Receiver":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def received(self) -> list[Received]:
        """What came and was accepted, in order."""
        with self._lock:
            return list(self._received)

    def _take(self, one: Received) -> int:
        with self._lock:
            if 200 <= self.status < 300:
                self._received.append(one)
            else:
                self.refused += 1
            return self.status

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.send_response(receiver._take(Received(path=self.path, headers=headers, body=body)))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                return

        return Handler
