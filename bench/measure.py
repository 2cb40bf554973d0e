"""CPU time and memory of a process tree, and load from wrk."""

import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import time
from dataclasses import dataclass

HERE = pathlib.Path(__file__).parent
TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
GATEWAY_CORE, LOAD_CORE = "0", "1"
SETTLE_S = 0.5


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (field 3); empty when the process is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def tree(root: int) -> list[int]:
    """A process and all its living descendants."""
    parents: dict[int, list[int]] = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [root]
    while queue:
        found.append(queue.pop())
        queue += parents.get(found[-1], [])
    return found


def cpu_us(root: int) -> float:
    """User and system time so far of a process tree, ended children included."""
    return TICK_US * sum(sum(map(int, fields[11:15])) for pid in tree(root) if (fields := _stat(pid)))


def rss_bytes(root: int) -> int:
    """Resident memory of a process tree (pages shared between its processes are counted once for each)."""
    return PAGE_BYTES * sum(int(fields[21]) for pid in tree(root) if (fields := _stat(pid)))


def pinned(core: str, command: list[str]) -> list[str]:
    return ["taskset", "-c", core, *command]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float) -> None:
    """Raises ``SystemExit`` when the process ends or does not listen in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{process.args!r} ended with status {process.returncode}; see bench/out/*.log")
        with socket.socket() as probe:
            probe.settimeout(0.2)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"{process.args!r} does not listen on port {port} after {seconds:.0f} s; see bench/out/*.log")


class Running:
    """A child process and its tree, stopped at the end of the ``with`` block."""

    def __init__(self, name: str, command: list[str], *, core: str, port: int, env: dict[str, str] | None = None):
        self.name = name
        self._command = pinned(core, command)
        self._port = port
        self._env = {**os.environ, **(env or {})}

    def __enter__(self) -> int:
        out = HERE / "out"
        out.mkdir(exist_ok=True)
        with (out / f"{self.name}.log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._env, start_new_session=True
            )
        try:
            wait_for_port(self._port, self._process, 120)
        except BaseException:
            self.__exit__()
            raise
        return self._process.pid

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()


def build_upstream() -> str:
    """Compiles the fake provider; returns its path."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("The benchmark needs a C compiler: apt-get install gcc libc6-dev")
    target = HERE / ".cache" / "upstream"
    target.parent.mkdir(exist_ok=True)
    subprocess.run([compiler, "-O2", "-o", str(target), str(HERE / "upstream.c")], check=True)
    return str(target)


@dataclass(frozen=True)
class Load:
    """What is sent: a workload, how many connections, for how long."""

    workload: str
    connections: int
    seconds: int
    body: pathlib.Path
    key: str


def wrk(port: int, load: Load) -> dict[str, int]:
    """One run of load; the counts that ``wrk.lua`` prints."""
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{load.seconds}s", "--timeout", "60s"]
    command += ["-s", str(HERE / "wrk.lua"), f"http://127.0.0.1:{port}"]
    env = {**os.environ, "BENCH_BODY": str(load.body), "BENCH_KEY": load.key}
    done = subprocess.run(pinned(LOAD_CORE, command), env=env, capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("JSON"))
    return dict(json.loads(line[4:]))


def sample(pid: int, port: int, load: Load) -> dict[str, float]:
    """One measured run: CPU-µs per request of the tree under ``pid``, requests per second, latencies.

    Requests under way when a run ends are paid for but not counted: runs must be long against one request.
    """
    time.sleep(SETTLE_S)  # what the run before left behind is not ours
    before = cpu_us(pid)
    counts = wrk(port, load)
    used = cpu_us(pid) - before
    served = counts["requests"]
    if not served:
        raise SystemExit(f"no request was served; see bench/out/*.log ({counts})")
    rates = {
        "cpu_us": used / served,
        "per_second": served * 1e6 / counts["duration_us"],
        "rss_mib": rss_bytes(pid) / 2**20,
    }
    return {**counts, **rates}


def median(samples: list[dict[str, float]]) -> dict[str, float]:
    """The median of every figure by itself; failures are added up."""
    merged = {name: statistics.median(one[name] for one in samples) for name in samples[0]}
    merged["failed"] = sum(one["failed"] for one in samples)
    return merged
