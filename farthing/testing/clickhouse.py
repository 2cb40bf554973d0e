"""ClickHouse without a server: its own engine (``chdb``) in this process, and the same behind the HTTP interface."""

import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from farthing.core.errors import StoreUnavailable

_ENGINE_LOCK = threading.RLock()
_databases = count(1)


class _Engine:
    """The one engine that a process may have."""

    session: Any = None
    folder: tempfile.TemporaryDirectory[str] | None = None


def _session() -> Any:
    if _Engine.session is None:
        from chdb.session import Session

        _Engine.folder = tempfile.TemporaryDirectory(prefix="farthing-chdb-")
        make: Any = Session
        _Engine.session = make(_Engine.folder.name)
    return _Engine.session


class InProcessClickHouse:
    """``ClickHouse`` by the engine in this process; each one has a database of its own."""

    def __init__(self) -> None:
        self.database = f"books_{next(_databases)}"
        self.inserts = 0
        with _ENGINE_LOCK:
            _session().query(f"CREATE DATABASE {self.database}")

    def run(self, sql: str, parameters: Mapping[str, str] | None = None) -> bytes:
        """One statement."""
        self.inserts += sql.startswith("INSERT")
        with _ENGINE_LOCK:
            try:
                _session().query(f"USE {self.database}")
                answer = _session().query(sql, params=dict(parameters or {}))
            except RuntimeError as error:
                raise StoreUnavailable(f"ClickHouse: {str(error).splitlines()[0]}") from error
            data: bytes = answer.bytes()
            return data

    def drop(self) -> None:
        """Deletes the database."""
        with _ENGINE_LOCK:
            _session().query("USE default")
            _session().query(f"DROP DATABASE {self.database}")


class ClickHouseServer:
    """An :class:`InProcessClickHouse` behind ClickHouse's HTTP interface, on a loopback port."""

    def __init__(self, engine: InProcessClickHouse, *, user: str = "farthing", password: str = "secret") -> None:
        server = self
        self.refuse_after: int | None = None
        """Break the connection of every statement after so many more, once the engine has run it."""

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                said = (self.headers["x-clickhouse-user"], self.headers["x-clickhouse-key"])
                if said != (user, password):
                    return self._answer(403, b"Code: 516. DB::Exception: Authentication failed\n")
                options = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
                parameters = {
                    name.removeprefix("param_"): value for name, value in options.items() if name.startswith("param_")
                }
                try:
                    answer = engine.run(body.decode(), parameters)
                except StoreUnavailable as error:
                    return self._answer(400, error.message.encode())
                if server.refuse_after is not None:
                    server.refuse_after -= 1
                    if server.refuse_after < 0:
                        self.close_connection = True
                        return None
                return self._answer(200, answer)

            def _answer(self, status: int, body: bytes) -> None:
                with suppress(ConnectionError):  # whoever asked may be dead by now
                    self.send_response(status)
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: tests print what matters."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "ClickHouseServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
