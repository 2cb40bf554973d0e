"""What ``race.py`` and ``chaos.py`` share: a gateway of several worker processes, the stores under it, the provider.

The gateway is the real command in a process group of its own, so that workers can be killed one by one or all at
once. Its clock is that of the machine plus an offset that a test may move (``farthing.testing.serve``).
"""

import asyncio
import contextlib
import json
import mmap
import os
import resource
import signal
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from importlib import resources as package
from pathlib import Path

import msgspec

from farthing import bootstrap, config
from farthing.core.types import LedgerEntry, Reservation
from farthing.sim.catalog import Catalog, RawCatalog
from farthing.sim.server import SimServer
from farthing.testing.gateway import SIM_KEY, free_port

STARTUP_S = 120.0
MODEL = "gpt-4o-mini"
STEP = 300
"""Prompt tokens above which a whole call of ``MODEL`` costs double."""
PRICES = f"""
provider: openai
source: contract
models:
  - id: {MODEL}
    prices:
      - input: {{0: "0.15", {STEP + 1}: "0.30"}}
        input_cache_read: {{0: "0.075", {STEP + 1}: "0.15"}}
        output: {{0: "0.60", {STEP + 1}: "1.20"}}
"""


def stepped(sim: SimServer) -> SimServer:
    """Gives the provider the stepped prices of ``PRICES``, in its own price list; call before it starts."""
    text = package.files("farthing.sim").joinpath("prices.json").read_bytes()
    raw = msgspec.json.decode(text)
    for model in raw["models"]:
        if model["id"] == MODEL:
            model["long_from"] = STEP
            model["prices"]["default"] = {"input": "0.15", "cache_read": "0.075", "output": "0.60"}
            model["prices"]["long_default"] = {"input": "0.30", "cache_read": "0.15", "output": "1.20"}
    sim.account.catalog = Catalog(msgspec.convert(raw, RawCatalog))
    return sim


class Clock:
    """The offset of the gateway's clock, in a file that all its processes look at."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(struct.pack("<q", 0))
        self.path = path
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)

    def set(self, offset_ms: int) -> None:
        """Jump."""
        struct.pack_into("<q", self._map, 0, offset_ms)


class Cluster:
    """``farthing serve`` with several workers."""

    def __init__(
        self, home: Path, toml: str, env: Mapping[str, str], *, workers: int, clock: Clock | None = None
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        (home / "prices").mkdir(exist_ok=True)
        (home / "prices" / "stepped.yml").write_text(PRICES, encoding="utf-8")
        toml = f"[server]\nworkers = {workers}\n{toml}"
        (home / "farthing.toml").write_text(toml, encoding="utf-8")
        self.home, self.workers, self._clock = home, workers, clock
        self._env = {**os.environ, "SIM_KEY": SIM_KEY, "WAREHOUSE": "secret", **env}
        os.environ.update(env)  # for reading the ledger from here
        self._env["FARTHING_CONFIG"] = str(home / "farthing.toml")
        if clock is not None:
            self._env["FARTHING_TEST_CLOCK"] = str(clock.path)
        self.settings = config.parse(toml, env={"HOME": str(home), "FARTHING_HOME": str(home)}, source="")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when every worker is up."""
        command = [sys.executable, "-m", "farthing", "--home", str(self.home), "serve", "--port", str(self.port)]
        if self._clock is not None:
            command = [sys.executable, "-m", "farthing.testing.serve", str(self.home), str(self.port)]
        self._process = subprocess.Popen(command, env=self._env, start_new_session=True)
        self.ready()

    def ready(self, within_s: float = STARTUP_S) -> None:
        """Waits until the gateway answers and has all its workers. Raises ``RuntimeError``."""
        due = time.monotonic() + within_s
        while time.monotonic() < due:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"the gateway ended with exit code {self._process.returncode}")
            if len(self.pids()) >= self.workers and self._answers():
                return
            time.sleep(0.05)
        raise RuntimeError("the gateway did not become ready")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                answer.read()
                return True
        except (urllib.error.URLError, OSError):
            return False

    def metrics(self) -> str:
        """``/metrics`` of one worker; empty when it does not answer."""
        try:
            with urllib.request.urlopen(f"{self.url}/metrics", timeout=2) as answer:
                text: str = answer.read().decode()
                return text
        except (urllib.error.URLError, OSError):
            return ""

    def pids(self) -> list[int]:
        """The worker processes that serve, by age."""
        assert self._process is not None
        found = []
        for pid in _children(self._process.pid):
            with contextlib.suppress(OSError):
                if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return sorted(found)

    def kill_worker(self, number: int) -> None:
        """SIGKILL to one worker; the command starts another."""
        pids = self.pids()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[number % len(pids)], signal.SIGKILL)

    def kill(self) -> None:
        """SIGKILL to all processes at once, as when the machine stops."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def limit_files(self, size: int) -> None:
        """No process of the gateway may let a file grow beyond ``size`` bytes; -1: any size."""
        assert self._process is not None
        for pid in (self._process.pid, *self.pids()):
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def entries(self) -> list[LedgerEntry]:
        """The ledger."""
        return list(bootstrap.open_ledger(self.settings).entries())

    def open_reservations(self) -> tuple[Reservation, ...]:
        """What is still held, as a new worker finds it; while no gateway runs."""

        async def ask() -> tuple[Reservation, ...]:
            installation = bootstrap.build(self.settings, env=self._env)
            async with installation.running():
                return installation.books.open_reservations()

        return asyncio.run(ask())


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)


def allow_files(wanted: int) -> None:
    """Raise the number of open files, for this process and those it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def request_of(body: dict[str, object], headers: dict[str, str]) -> bytes:
    """A chat completion on a connection that stays open."""
    payload = json.dumps(body).encode()
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\n{lines}content-length: {len(payload)}\r\n\r\n".encode()
        + payload
    )


def fields_of(head: bytes) -> dict[str, str]:
    """The header fields of an answer, names in small letters."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}


async def body_of(reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
    """The rest of an answer, all of it. Raises ``IncompleteReadError``."""
    if "content-length" in fields:
        return await reader.readexactly(int(fields["content-length"]))
    parts = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return b"".join(parts)
